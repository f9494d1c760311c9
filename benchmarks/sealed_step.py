"""One sealed step of a trained model: fast ways beside plain ones, in pairs.

  python benchmarks/sealed_step.py [--rows=512] [--pairs=3]

A party's gradients of an MLP2 on 392 features and 10 classes, its rows sure but
for a few. `square` is A A^T by factors of dense layers and with the equations
written out, float32; both must agree. `learn` is `sparse.learn` in haste, from
the variances of a good prior, and as `linear.full` runs it, float64. Sides take
turns, so that drift of the machine hits both alike. Prints and writes JSON to
results/benchmarks/sealed_step.json.
"""

import json
import os
import pathlib
import statistics
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import models, vfl
from labelleak.attacks.linear import factors, matrix, sparse

_ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
flags.DEFINE_integer('rows', 512, 'Rows of the batch.', lower_bound=2)
flags.DEFINE_integer('pairs', 3, 'Timed pairs, after one that warms up.')
flags.DEFINE_string(
  'out',
  str(_ROOT / 'results' / 'benchmarks' / 'sealed_step.json'),
  'Where the result goes.',
)
FEATURES, K = 392, 10


def observe(rows):
  """Returns the view of a step, what is known, and true labels [B]."""
  rng, key = np.random.default_rng(0), jax.random.key(0)
  module = models.load('mlp.mlp2', num_classes=K)
  bottom = vfl.bottom(vfl.party(module, optax.sgd(0.1)))
  x = jnp.asarray(rng.normal(size=(rows, FEATURES)), jnp.float32)
  variables = module.init(key, x)
  variables = jax.tree.map(lambda p: 3 * p, variables)
  h, pull = jax.vjp(
    lambda p: bottom({**variables, 'params': p}, x, key), variables['params']
  )
  logits = h + 3 * jnp.asarray(rng.normal(size=h.shape), jnp.float32)
  labels = np.array(logits.argmax(1))
  drawn = rng.random(rows) < 0.1
  labels[drawn] = rng.integers(0, K, drawn.sum())
  u = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, K)) / rows
  view = vfl.View(x, h, variables, key, pull(u)[0], None)
  return view, vfl.Known(K, rows, bottom=bottom), labels


def prepare(view, known, labels):
  """Returns the two sides of each comparison, compiled on the first call."""
  prior = 0.8 * jax.nn.one_hot(labels, K) + 0.02
  first = prior * (1 - prior) + 1e-3

  @jax.jit
  def multiply(view):
    layers, _ = factors.factor(view, known)
    return factors.square(layers, jnp.float32)[0]

  @jax.jit
  def write_out(view):
    system = matrix.build(view, known)
    return matrix.multiply_out(system, jnp.float32)[0]

  @jax.jit
  def quick(view):
    return sparse.learn(
      view.key, view, known, rounds=3, first=first, quick=True
    )

  @jax.jit
  def exact(view):
    return sparse.learn(view.key, view, known)

  sides = {
    'square': {'fast': multiply, 'plain': write_out},
    'learn': {'fast': quick, 'plain': exact},
  }
  return {
    name: {
      side: lambda fn=fn: jax.block_until_ready(fn(view))
      for side, fn in each.items()
    }
    for name, each in sides.items()
  }


def compare(sides, pairs):
  """Returns seconds of each side, in turns."""
  results = {side: run() for side, run in sides.items()}  # warms up
  timed = []
  for i in range(pairs):
    order = sorted(sides, reverse=bool(i % 2))
    spent = {}
    for side in order:
      start = time.perf_counter()
      sides[side]()
      spent[side] = time.perf_counter() - start
    timed.append(spent)
    print(f'pair {i}: {spent}, load {os.getloadavg()[0]:.1f}', flush=True)
  return results, timed


def main(argv):
  del argv
  view, known, labels = observe(FLAGS.rows)
  report = {
    'benchmark': f'A sealed step, B={FLAGS.rows}, mlp2 on {FEATURES} features'
  }
  for name, sides in prepare(view, known, labels).items():
    results, pairs = compare(sides, FLAGS.pairs)
    if name == 'square':
      fast, plain = results['fast'], results['plain']
      gap = float(jnp.abs(fast - plain).max() / jnp.abs(plain).max())
      if not gap < 1e-4:
        raise app.UsageError(f'the two squares differ by {gap}')
      report['square_difference'] = gap
    ratio = statistics.median(p['fast'] / p['plain'] for p in pairs)
    report[name] = {
      'median_ratio_fast_over_plain': ratio,
      'median_seconds': {
        side: statistics.median(p[side] for p in pairs) for side in sides
      },
      'pairs': pairs,
    }
  report |= {
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)),
    'load_average': os.getloadavg(),
    'versions': {'jax': jax.__version__},
  }
  os.makedirs(os.path.dirname(FLAGS.out), exist_ok=True)
  with open(FLAGS.out, 'w') as file:
    json.dump(report, file, indent=2)
    file.write('\n')
  print(json.dumps(report, indent=2))


if __name__ == '__main__':
  app.run(main)
