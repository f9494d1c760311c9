"""The server: it has labels and a top, and returns gradients in the clear."""

from collections.abc import Mapping
import logging
import pathlib
import time

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
import numpy as np
import task
import torch

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
  """Trains for some steps, each of an embedding and of a gradient."""
  config = context.run_config
  labels = task.load_labels()
  torch.manual_seed(0)
  top = task.make_top(config['num-clients'])
  optimizer = torch.optim.SGD(top.parameters(), config['lr'])
  nodes = _wait(grid, config['num-clients'])
  batches = task.draw_batches(len(labels), config['num-steps'])
  for step, rows in enumerate(batches):
    batch = ConfigRecord({'step': step, 'rows': rows})
    replies = _ask(grid, 'query.embed', {n: {'batch': batch} for n in nodes})
    nodes = sorted(nodes, key=lambda n: replies[n]['party']['id'])
    parts = [_to_tensor(replies[n]['embedding']) for n in nodes]
    optimizer.zero_grad()
    logits = top(torch.cat(parts, 1))[:, 0]
    y = labels[rows].float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
    loss.backward()
    optimizer.step()
    log(logging.INFO, 'step %s: loss %.3f', step, loss.item())
    contents = {
      node: {'batch': batch, 'gradient': ArrayRecord([part.grad.numpy()])}
      for node, part in zip(nodes, parts)
    }
    _ask(grid, 'train', contents)
  _write_truth(labels, pathlib.Path(config['folder']))


def _wait(grid, num_clients) -> list[int]:
  """Waits until all clients are there."""
  while len(nodes := list(grid.get_node_ids())) < num_clients:
    time.sleep(1)
  return nodes


def _ask(grid, kind: str, contents: Mapping) -> dict[int, RecordDict]:
  """Sends each client its content, and returns what it replies."""
  messages = [
    Message(RecordDict(content), message_type=kind, dst_node_id=node)
    for node, content in contents.items()
  ]
  replies = grid.send_and_receive(messages)
  return {reply.metadata.src_node_id: reply.content for reply in replies}


def _to_tensor(record):
  (array,) = record.to_numpy_ndarrays()
  return torch.tensor(array, requires_grad=True)


def _write_truth(labels, folder):
  """Writes the labels, which no one but the comparison reads."""
  folder.mkdir(parents=True, exist_ok=True)
  np.save(folder / 'labels.npy', labels.numpy())
