"""The client: it embeds its columns, learns, and logs what it receives."""

import pathlib

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
import numpy as np
import task
import torch

app = ClientApp()


@app.query('embed')
def embed(message: Message, context: Context) -> Message:
  """Sends the embeddings of the rows that the server asks for."""
  model, x = _load(context)
  rows = message.content['batch']['rows']
  content = {
    'embedding': ArrayRecord([model(x[rows]).detach().numpy()]),
    'party': ConfigRecord({'id': context.node_config['partition-id']}),
  }
  return Message(RecordDict(content), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
  """Takes a step along the gradient of the embeddings that were sent."""
  model, x = _load(context)
  batch = message.content['batch']
  (cut_grads,) = message.content['gradient'].to_numpy_ndarrays()
  x = x[batch['rows']]
  h = model(x)
  _log(context.node_config, batch, cut_grads=cut_grads, h=h.detach(), x=x)
  h.backward(torch.tensor(cut_grads))
  torch.optim.SGD(model.parameters(), context.run_config['lr']).step()
  context.state['bottom'] = ArrayRecord(model.state_dict())
  return Message(RecordDict(), reply_to=message)


def _load(context):
  """Returns the bottom as this run has left it, and all own columns."""
  party = context.node_config['partition-id']
  x = task.load_columns(party, context.node_config['num-partitions'])
  torch.manual_seed(1 + party)
  model = task.make_bottom(x.shape[1])
  if 'bottom' in context.state:
    model.load_state_dict(context.state['bottom'].to_torch_state_dict())
  return model, x


def _log(node_config, batch, **lines):
  """Appends a step to the log, a line for each row."""
  file = pathlib.Path(
    node_config['folder'], f'{node_config["partition-id"]}.npz'
  )
  file.parent.mkdir(parents=True, exist_ok=True)
  rows = np.array(batch['rows'])
  lines |= dict(step=np.full(len(rows), batch['step']), row=rows)
  past = dict(np.load(file)) if file.exists() else {}
  join = lambda k, v: np.concatenate([past[k], v]) if past else np.asarray(v)
  np.savez(file, **{k: join(k, v) for k, v in lines.items()})
