"""One VGG-19 FedAVG trial: labelleak against PyTorch, in pairs on this machine.

  python benchmarks/vgg19_fedavg.py [--pairs=7]

128 images of 32x32x3, 100 classes, S=10 local steps of 13 (the last of 11), SGD
at 1e-3, evaluation mode, float32: Table 1's setting of the LLBG paper. Both
sides start from the same weights and must arrive at the same head update, then
they take turns; the order changes from pair to pair, so that drift of the
machine hits both alike. Needs torch==2.13.0. Prints and writes JSON to
results/benchmarks/vgg19_fedavg.json.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from labelleak import hfl, models
from labelleak.base import Batch
from labelleak.models import weights

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))
from tests.twins import cifar  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_integer('pairs', 7, 'Timed pairs, after one that warms up.')
flags.DEFINE_string(
  'out',
  str(_ROOT / 'results' / 'benchmarks' / 'vgg19_fedavg.json'),
  'Where the result goes.',
)

B, K, S, LR = 128, 100, 10, 1e-3


def torch_trial(model, x, y):
  """(server - local) / lr of every parameter, after S steps in eval mode."""
  server = [p.detach().clone() for p in model.parameters()]
  sgd = torch.optim.SGD(model.parameters(), LR)
  size = max(hfl.step_sizes(B, S))
  for start in range(0, B, size):
    sgd.zero_grad()
    loss = F.cross_entropy(
      model(x[start : start + size]), y[start : start + size]
    )
    loss.backward()
    sgd.step()
  with torch.no_grad():
    update = [(s - p) / LR for s, p in zip(server, model.parameters())]
    for p, s in zip(model.parameters(), server):
      p.copy_(s)
  return update


def twins(x):
  """The same untrained VGG-19 in both: (torch model, Flax model, variables)."""
  torch.manual_seed(0)
  twin = cifar.Vgg(19, K)
  for module in twin.modules():
    if isinstance(module, torch.nn.Conv2d):
      torch.nn.init.kaiming_normal_(module.weight, mode='fan_out')
      torch.nn.init.zeros_(module.bias)
  torch.nn.init.normal_(twin.classifier.weight, 0, 0.01)
  torch.nn.init.zeros_(twin.classifier.bias)
  model = models.load('vgg.vgg19', num_classes=K)
  variables = jax.eval_shape(model.init, jax.random.key(0), x[:1])
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'vgg19.npz')
    np.savez(path, **{k: v.numpy() for k, v in twin.state_dict().items()})
    return twin.eval(), model, weights.load(path, variables)


def seconds(fn):
  start = time.perf_counter()
  result = fn()
  return time.perf_counter() - start, result


def main(argv):
  del argv
  rng = np.random.default_rng(0)
  x = rng.normal(size=(B, 32, 32, 3)).astype(np.float32)
  y = rng.integers(0, K, B)
  twin, model, variables = twins(x)
  x_torch, y_torch = (
    torch.tensor(x.transpose(0, 3, 1, 2).copy()),
    torch.tensor(y),
  )
  batch = Batch(
    (jnp.array(x),), jax.nn.one_hot(y, K), jnp.arange(B), jnp.ones(B)
  )
  client = jax.jit(hfl.fedavg(hfl.cross_entropy(model.apply), lr=LR, steps=S))
  key = jax.random.key(0)
  compile_s, compiled = seconds(
    lambda: client.lower(key, variables, batch).compile()
  )
  sides = {
    'jax': lambda: jax.block_until_ready(compiled(key, variables, batch)),
    'torch': lambda: torch_trial(twin, x_torch, y_torch),
  }
  ours, theirs = sides['jax'](), sides['torch']()  # warms up
  gap = np.abs(ours['head']['bias'] - theirs[-1].numpy()).max()
  if not gap < 1e-3:
    raise app.UsageError(f'the two sides differ by {gap} in the head bias')
  pairs = []
  for i in range(FLAGS.pairs):
    order = ('jax', 'torch') if i % 2 else ('torch', 'jax')
    pairs.append({name: seconds(sides[name])[0] for name in order})
    print(
      f'pair {i}: jax {pairs[-1]["jax"]:.2f} s, torch'
      f' {pairs[-1]["torch"]:.2f} s, load {os.getloadavg()[0]:.1f}',
      flush=True,
    )
  report(pairs, compile_s, float(gap))


def report(pairs, compile_s, gap):
  """Prints the medians and writes them."""
  result = {
    'benchmark': 'VGG-19 FedAVG trial, B=128, S=10, 32x32x3, K=100',
    'median_ratio_jax_over_torch': statistics.median(
      p['jax'] / p['torch'] for p in pairs
    ),
    'median_seconds': {
      name: statistics.median(p[name] for p in pairs)
      for name in ('jax', 'torch')
    },
    'jax_compile_seconds': compile_s,
    'head_bias_difference': gap,
    'pairs': pairs,
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)),
    'torch_threads': torch.get_num_threads(),
    'load_average': os.getloadavg(),
    'versions': {'jax': jax.__version__, 'torch': torch.__version__},
  }
  os.makedirs(os.path.dirname(FLAGS.out), exist_ok=True)
  with open(FLAGS.out, 'w') as file:
    json.dump(result, file, indent=2)
    file.write('\n')
  print(json.dumps({k: v for k, v in result.items() if k != 'pairs'}, indent=2))


if __name__ == '__main__':
  app.run(main)
