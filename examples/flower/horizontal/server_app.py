"""The server: Flower's FedAvg, and a copy of every message that it sees."""

import pathlib

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common import serde
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
import task
import torch

app = ServerApp()


class Recorder(FedAvg):
  """FedAvg that stores each round's model and each client's reply."""

  def __init__(self, folder: pathlib.Path, **options):
    super().__init__(**options)
    self.folder = folder

  def configure_train(self, server_round, arrays, config, grid):
    messages = super().configure_train(server_round, arrays, config, grid)
    self._store(server_round, 'server', messages[0])  # the same for all
    return messages

  def aggregate_train(self, server_round, replies):
    replies = list(replies)
    for reply in replies:
      if reply.has_content():
        self._store(server_round, reply.metadata.src_node_id, reply)
    return super().aggregate_train(server_round, replies)

  def _store(self, server_round, name, message):
    file = self.folder / str(server_round) / f'{name}.flwr'
    file.parent.mkdir(parents=True, exist_ok=True)
    content = serde.recorddict_to_proto(message.content)
    file.write_bytes(content.SerializeToString())


@app.main()
def main(grid: Grid, context: Context) -> None:
  """Trains for some rounds from a new model."""
  config = context.run_config
  strategy = Recorder(
    pathlib.Path(config['folder']),
    fraction_evaluate=0.0,
    min_train_nodes=config['num-clients'],
    min_available_nodes=config['num-clients'],
  )
  torch.manual_seed(0)
  strategy.start(
    grid,
    ArrayRecord(task.Net().state_dict()),
    num_rounds=config['num-rounds'],
    evaluate_fn=_evaluate,
  )


def _evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
  """Evaluates a round's model on the test split."""
  model = task.Net()
  model.load_state_dict(arrays.to_torch_state_dict())
  return MetricRecord({'accuracy': task.accuracy(model)})
