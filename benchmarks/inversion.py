"""Gradient inversion: labelleak against PyTorch, then against linear.full.

  python benchmarks/inversion.py [--pairs=5] [--iterations=2000]

The first step of vertical FL on real halves of 14x28, MLP 392-32-10 a party,
sum of the logits, sealed link; float32.

1. `restarts.invert`, the Adam form, against the same algorithm in PyTorch as
   published: autograd's second derivative through the bottom model, here with
   respect to the dummies only (`backward`, as released, also fills the model's
   gradients). MNIST, B = 1024 and 2048. Both sides start from the same weights
   and the same guess and must arrive at the same residual. PyTorch runs with
   one thread and with all; the faster of the two is what we compare with.
2. `linear.full` against the Adam form's published 10,000 iterations, on grey
   crops of CIFAR-10, B = 1024, 2048 and 4096.

Sides take turns; the order changes from pair to pair, so that drift of the
machine hits all alike. Needs torch==2.13.0 and the data under --data_dir.
Prints and writes JSON to results/benchmarks/inversion.json.
"""

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
import optax
import torch

from labelleak import attacks, data, he, metrics, models, registry, vfl
from labelleak.attacks.inversion import guesses, restarts
from labelleak.base import Batch

_ROOT = pathlib.Path(__file__).resolve().parent.parent

FLAGS = flags.FLAGS
flags.DEFINE_integer('pairs', 5, 'Timed rounds against PyTorch.')
flags.DEFINE_integer('iterations', 2000, 'Of each side against PyTorch.')
flags.DEFINE_integer('full_pairs', 3, 'Timed rounds of linear.full.')
flags.DEFINE_string(
  'data_dir', str(_ROOT.parent / 'shared' / 'tfds'), 'Prepared data sets.'
)
flags.DEFINE_string(
  'out',
  str(_ROOT / 'results' / 'benchmarks' / 'inversion.json'),
  'Where the result goes.',
)

K = 10
PUBLISHED = 10_000  # iterations
CHECKED = 20  # iterations after which both sides must agree
ADAM = guesses.FORMS['adam']
GREY = dict(grey=True, crop=28)  # CIFAR-10 as two halves of 14x28


def view_of(name, size, **options):
  """The passive party's view of the first step, what it knows, the labels."""
  source = data.load(
    name, data_dir=FLAGS.data_dir, split='train', normalise=False, **options
  )
  index = np.arange(size)
  x = jnp.array(source.take(index))
  y = jax.nn.one_hot(source.y[index], K)
  split = registry.load('data', 'splits.rows', shape=source.shape)
  each = vfl.party(models.load('mlp.mlp2', num_classes=K), optax.sgd(0.01))
  links = (vfl.link(aggregate=he.ideal()),) * 2
  protocol = vfl.protocol((each, each), None, links)
  batch = Batch(tuple(split(x)), y, index, jnp.ones(size))
  state = protocol.init(jax.random.key(0), batch.xs)
  _, (views, *_) = jax.jit(protocol.step)(state, batch)
  known = vfl.Known(num_classes=K, batch_size=size, bottom=vfl.bottom(each))
  return views[0], known, y


def torch_invert(view, guess, iterations):
  """The published algorithm, from the guess; returns the residual."""
  tensor = lambda a: torch.tensor(np.array(a))
  params, grads = view.variables['params'], view.param_grads
  leaves = [('linear0', 'kernel'), ('linear0', 'bias'), ('head', 'kernel')]
  leaves.append(('head', 'bias'))
  weights = [tensor(params[m][n]).requires_grad_() for m, n in leaves]
  observed = [tensor(grads[m][n]) for m, n in leaves]
  x = tensor(view.x).flatten(1)
  hidden = torch.relu(torch.addmm(weights[1], x, weights[0]))
  h = torch.addmm(weights[3], hidden, weights[2])
  z, labels = (tensor(a).requires_grad_() for a in (guess.z, guess.labels))
  adam = torch.optim.Adam([z, labels], lr=ADAM.lr)

  def distance():
    soft = torch.softmax(labels, -1)
    loss = torch.nn.functional.cross_entropy(h + z, soft)
    own = torch.autograd.grad(loss, weights, create_graph=True)
    return sum(((a - b) ** 2).sum() for a, b in zip(own, observed))

  for _ in range(iterations):
    z.grad, labels.grad = torch.autograd.grad(distance(), [z, labels])
    adam.step()
  return distance().item()


def seconds(fn):
  start = time.perf_counter()
  result = fn()
  return time.perf_counter() - start, result


def compiled(fn, *args):
  """(seconds of tracing and compiling, a call that waits for its result)."""
  spent, program = seconds(lambda: jax.jit(fn).lower(*args).compile())
  jax.block_until_ready(program(*args))  # warms up
  return spent, lambda: jax.block_until_ready(program(*args))


def turns(sides, pairs):
  """Seconds of each side, round by round, in changing order."""
  rounds = []
  for i in range(pairs):
    order = list(sides)[:: 1 if i % 2 else -1]
    rounds.append({name: seconds(sides[name])[0] for name in order})
    shown = ', '.join(f'{n} {s:.2f} s' for n, s in sorted(rounds[-1].items()))
    print(f'  round {i}: {shown}, load {os.getloadavg()[0]:.1f}', flush=True)
  medians = {n: statistics.median(r[n] for r in rounds) for n in sides}
  return rounds, medians


def against_torch(size):
  """One batch size of part 1."""
  print(f'MNIST, B={size}, {FLAGS.iterations} iterations', flush=True)
  view, known, _ = view_of('mnist', size)
  guess = guesses.draw(jax.random.key(1), view.h, K, 'sum')

  def ours(iterations):
    return lambda guess, view: restarts.invert(
      guess, view, known, ADAM, iterations
    )

  theirs = functools.partial(torch_invert, view, guess)
  residuals = (
    float(jax.jit(ours(CHECKED))(guess, view).residual),
    theirs(CHECKED),
  )
  if not np.isclose(*residuals, rtol=1e-3):
    raise app.UsageError(f'residuals after {CHECKED} iterations: {residuals}')

  def with_threads(num):
    torch.set_num_threads(num)
    return theirs(FLAGS.iterations)

  compile_s, run = compiled(ours(FLAGS.iterations), guess, view)
  cores = len(os.sched_getaffinity(0))
  sides = {'jax': run} | {
    f'torch, {n} threads': functools.partial(with_threads, n)
    for n in sorted({1, cores})
  }
  rounds, medians = turns(sides, FLAGS.pairs)
  best = min((n for n in sides if n != 'jax'), key=medians.get)
  repeated = PUBLISHED / FLAGS.iterations
  return {
    'batch_size': size,
    'iterations': FLAGS.iterations,
    'torch_over_jax_median': statistics.median(
      r[best] / r['jax'] for r in rounds
    ),
    'torch_over_jax_with_compilation': medians[best]
    / (medians['jax'] + compile_s),
    f'the_same_extrapolated_to_{PUBLISHED}_iterations': repeated
    * medians[best]
    / (repeated * medians['jax'] + compile_s),
    'compared_with': best,
    'median_seconds': medians,
    'jax_compile_seconds': compile_s,
    f'residuals_after_{CHECKED}': residuals,
    'rounds': rounds,
  }


def against_full(size):
  """One batch size of part 2."""
  print(f'CIFAR-10 grey, B={size}: linear.full, Adam {PUBLISHED}', flush=True)
  view, known, y = view_of('cifar10', size, **GREY)
  sides, compile_s, accuracy = {}, {}, {}
  for name, hyper in (
    ('linear.full', {}),
    ('inversion.batch', dict(steps=PUBLISHED)),
  ):
    infer = attacks.load(name, **hyper).infer
    run = lambda view, infer=infer: infer(jax.random.key(2), view, known)
    compile_s[name], sides[name] = compiled(run, view)
    accuracy[name] = float(metrics.label_accuracy(sides[name](), y))
  rounds, medians = turns(sides, FLAGS.full_pairs)
  ratio = lambda r: r['linear.full'] / r['inversion.batch']
  return {
    'batch_size': size,
    'full_over_adam_median': statistics.median(map(ratio, rounds)),
    'full_over_adam_with_compilation': ratio(
      {name: medians[name] + compile_s[name] for name in sides}
    ),
    'median_seconds': medians,
    'compile_seconds': compile_s,
    'label_accuracy': accuracy,
    'rounds': rounds,
  }


def main(argv):
  del argv
  result = {
    'benchmark': 'gradient inversion, halves of 14x28, MLP 392-32-10 a party',
    'against_torch': [against_torch(size) for size in (1024, 2048)],
  }
  if 'linear.full' in registry.names('attacks'):
    result['against_full'] = [against_full(b) for b in (1024, 2048, 4096)]
  result |= {
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)),
    'load_average': os.getloadavg(),
    'versions': {'jax': jax.__version__, 'torch': torch.__version__},
  }
  os.makedirs(os.path.dirname(FLAGS.out), exist_ok=True)
  with open(FLAGS.out, 'w') as file:
    json.dump(result, file, indent=2)
    file.write('\n')
  for row in result['against_torch'] + result.get('against_full', []):
    print(json.dumps({k: v for k, v in row.items() if k != 'rounds'}, indent=2))


if __name__ == '__main__':
  app.run(main)
