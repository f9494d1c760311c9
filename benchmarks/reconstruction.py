"""Inverting Gradients: labelleak against PyTorch, seconds an iteration.

  python benchmarks/reconstruction.py [--pairs=5] [--iterations=100]

The setting of Table 10 of the LLBG paper: one gradient of an MLP
3072-1024-1024-1024-100 with tanh, four images of 32x32x3, total variation,
signed Adam, pixels boxed; float32.

PyTorch runs the published algorithm: autograd's second derivative through the
gradient of all parameters, one batch at a time. Ours runs one batch, and
`trials` batches vmapped, whose time is divided by their number. All sides start
from the same guess and must arrive at the same objective. PyTorch runs with one
thread and with all; the faster of the two is what we compare with. A third side
of ours forms the gradient, as models without factors need (`attacks.factored`).

Sides take turns; the order changes from round to round, so that drift of the
machine hits all alike. Needs torch==2.13.0. Images are random: no iteration
depends on them. Prints, and writes JSON to
results/benchmarks/reconstruction.json.
"""

import dataclasses
import functools
import json
import os
import pathlib
import statistics
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import torch

from labelleak import data, hfl, models
from labelleak.attacks.reconstruction import guesses, inverting
from labelleak.base import Batch, Model

_ROOT = pathlib.Path(__file__).resolve().parent.parent

FLAGS = flags.FLAGS
flags.DEFINE_integer('pairs', 5, 'Timed rounds.')
flags.DEFINE_integer('iterations', 100, 'Of each side, in a round.')
flags.DEFINE_integer('trials', 20, 'Batches that one of our sides vmaps over.')
flags.DEFINE_string(
  'out',
  str(_ROOT / 'results' / 'benchmarks' / 'reconstruction.json'),
  'Where the result goes.',
)

B, K, SHAPE = 4, 100, (32, 32, 3)
LR, TV = 0.1, 0.2
CHECKED = 20  # iterations after which all sides must agree


def problem(trials):
  """Views [T] of one client each, what is known, labels [T, B], starts."""
  source = data.load('synthetic', shape=SHAPE, num_classes=K)
  model = models.load('mlp.mlp', num_classes=K, activation='tanh')
  rng = np.random.default_rng(0)
  rows = np.sort(rng.choice(len(source.y), (trials, B)))
  x = jnp.array(source.take(rows.ravel()).reshape(trials, B, *SHAPE))
  labels = jnp.array(source.y[rows])
  variables = model.init(jax.random.key(0), x[0])
  client = hfl.fedsgd(hfl.cross_entropy(model.apply))

  def view(x, labels):
    batch = Batch((x,), jax.nn.one_hot(labels, K), jnp.arange(B), jnp.ones(B))
    grads = client(jax.random.key(1), variables, batch)
    return hfl.View(grads=grads)

  known = hfl.Known(
    num_classes=K,
    batch_size=B,
    defense=(),
    model=Model(
      lambda variables, x: model.apply(variables, x), SHAPE, source.pixel_range
    ),
  )
  keys = jax.random.split(jax.random.key(2), trials)
  starts = jax.vmap(lambda key: guesses.draw(key, known))(keys)
  return jax.jit(jax.vmap(view))(x, labels), variables, known, labels, starts


def torch_invert(view, variables, known, labels, guess, iterations):
  """The published algorithm, from the guess; returns the lowest objective."""
  tensor = lambda a: torch.tensor(np.array(a))
  names = 'linear0', 'linear1', 'linear2', 'head'
  leaves = [(name, part) for name in names for part in ('kernel', 'bias')]
  weights = [
    tensor(variables['params'][m][n]).requires_grad_() for m, n in leaves
  ]
  observed = [tensor(view.grads[m][n]) for m, n in leaves]
  size = sum((g**2).sum() for g in observed).sqrt()
  labels = tensor(labels).long()
  x = tensor(guess).permute(0, 3, 1, 2).contiguous().requires_grad_()
  low, high = (float(np.ravel(b)[0]) for b in known.model.pixel_range)
  kernel = torch.zeros(2, 1, 3, 3)
  kernel[:, 0, 1, 1], kernel[0, 0, 1, 2], kernel[1, 0, 2, 1] = -1, 1, 1
  kernel = kernel.repeat(3, 1, 1, 1)
  adam = torch.optim.Adam([x], lr=LR)
  milestones = [int(iterations // part) for part in (2.667, 1.6, 1.142)]
  rate = torch.optim.lr_scheduler.MultiStepLR(adam, milestones)

  def objective():
    hidden = x.flatten(1)
    for i, act in enumerate((torch.relu, torch.relu, torch.tanh, None)):
      hidden = torch.addmm(weights[2 * i + 1], hidden, weights[2 * i])
      hidden = act(hidden) if act else hidden
    loss = torch.nn.functional.cross_entropy(hidden, labels)
    own = torch.autograd.grad(loss, weights, create_graph=True)
    dot = sum((a * b).sum() for a, b in zip(own, observed))
    norm = sum((a**2).sum() for a in own).sqrt()
    moves = torch.conv2d(x, kernel, padding=1, groups=3).abs() + 1e-8
    variation = (moves[:, ::2] + moves[:, 1::2]).mean()
    return 1 - dot / (norm * size) + TV * variation

  best = torch.inf
  for _ in range(iterations):
    value = objective()
    best = min(best, value.item())
    (slope,) = torch.autograd.grad(value, [x])
    x.grad = slope.sign()
    adam.step()
    rate.step()
    with torch.no_grad():
      x.clamp_(low, high)
  return min(best, objective().item())


def ours(known, iterations):
  """(view, variables, labels, guess) -> `Reconstruction`."""

  def run(view, variables, labels, guess):
    return inverting.invert(
      jax.random.key(3),
      guess,
      view._replace(variables=variables),
      known,
      labels,
      steps=iterations,
      lr=LR,
      tv=TV,
    )

  return run


def seconds(fn):
  start = time.perf_counter()
  result = fn()
  return time.perf_counter() - start, result


def compiled(fn, *args):
  """(seconds of tracing and compiling, a call that waits for its result)."""
  spent, program = seconds(lambda: jax.jit(fn).lower(*args).compile())
  jax.block_until_ready(program(*args))  # warms up
  return spent, lambda: jax.block_until_ready(program(*args))


def check(sides):
  """All sides must arrive at one objective; {side: objective}.

  Signs of slopes that are nearly zero may differ, hence the tolerance.
  """
  found = {name: float(side()) for name, side in sides.items()}
  if not np.allclose(list(found.values()), found['torch'], rtol=1e-2):
    raise app.UsageError(f'objectives after {CHECKED} iterations: {found}')
  return found


def main(argv):
  del argv
  iterations, trials = FLAGS.iterations, FLAGS.trials
  views, variables, known, labels, starts = problem(trials)
  # A transformation hides its layers, so that the gradient is formed.
  apply = jax.checkpoint(known.model.apply)
  model = dataclasses.replace(known.model, apply=apply)
  formed = dataclasses.replace(known, model=model)
  every = views, variables, labels, starts
  view, guess = jax.tree.map(lambda a: a[0], (views, starts))
  first = view, variables, labels[0], guess

  theirs = lambda n: torch_invert(view, variables, known, labels[0], guess, n)
  objectives = check(
    {
      'torch': lambda: theirs(CHECKED),
      'jax': lambda: jax.jit(ours(known, CHECKED))(*first).objective,
      'jax, formed': lambda: jax.jit(ours(formed, CHECKED))(*first).objective,
    }
  )

  def with_threads(num):
    torch.set_num_threads(num)
    return theirs(iterations)

  cores = len(os.sched_getaffinity(0))
  vmapped = jax.vmap(ours(known, iterations), (0, None, 0, 0))
  compile_s, sides = {}, {}
  for name, fn, args in (
    ('jax', ours(known, iterations), first),
    ('jax, formed', ours(formed, iterations), first),
    (f'jax, {trials} trials', vmapped, every),
  ):
    compile_s[name], sides[name] = compiled(fn, *args)
  sides |= {
    f'torch, {n} threads': functools.partial(with_threads, n)
    for n in sorted({1, cores})
  }
  rounds = []
  for i in range(FLAGS.pairs):
    taken = {}
    for name in list(sides)[:: 1 if i % 2 else -1]:
      share = iterations * (trials if name.endswith('trials') else 1)
      taken[name] = seconds(sides[name])[0] / share
    rounds.append(taken)
    shown = ', '.join(f'{n} {1e3 * s:.1f} ms' for n, s in sorted(taken.items()))
    print(f'  round {i}: {shown}, load {os.getloadavg()[0]:.1f}', flush=True)
  medians = {n: statistics.median(r[n] for r in rounds) for n in sides}
  best = min((n for n in sides if n.startswith('torch')), key=medians.get)
  result = {
    'benchmark': 'inverting gradients, MLP 3072-1024-1024-1024-100, B=4',
    'iterations': iterations,
    'torch_over_ours_median': {
      name: statistics.median(r[best] / r[name] for r in rounds)
      for name in compile_s
    },
    'compared_with': best,
    'median_seconds_an_iteration': medians,
    'compile_seconds': compile_s,
    f'objectives_after_{CHECKED}': objectives,
    'rounds': rounds,
    'device': jax.devices()[0].device_kind,
    'cores': cores,
    'load_average': os.getloadavg(),
    'versions': {'jax': jax.__version__, 'torch': torch.__version__},
  }
  os.makedirs(os.path.dirname(FLAGS.out), exist_ok=True)
  with open(FLAGS.out, 'w') as file:
    json.dump(result, file, indent=2)
    file.write('\n')
  print(
    json.dumps({k: v for k, v in result.items() if k != 'rounds'}, indent=2)
  )


if __name__ == '__main__':
  app.run(main)
