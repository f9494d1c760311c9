"""The client: it trains, replies, and writes down for itself what it has."""

import json
import pathlib

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
import task
import torch

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
  """Trains the model that came for an epoch, and sends it back."""
  node = context.node_config
  examples = task.load_client(node['partition-id'], node['num-partitions'])
  torch.manual_seed(node['partition-id'])  # of the order of the examples
  model = task.Net()
  model.load_state_dict(message.content['arrays'].to_torch_state_dict())
  task.train(model, examples, context.run_config['lr'])
  _write_truth(examples, pathlib.Path(node['folder']), context.node_id)
  metrics = MetricRecord({'num-examples': len(examples)})
  content = {'arrays': ArrayRecord(model.state_dict()), 'metrics': metrics}
  return Message(RecordDict(content), reply_to=message)


def _write_truth(examples, folder, node_id):
  """Writes the label counts, which no one but the comparison reads."""
  counts = torch.bincount(examples.tensors[1], minlength=task.NUM_CLASSES)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / f'{node_id}.json').write_text(json.dumps(counts.tolist()))
