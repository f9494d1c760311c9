"""Beliefs on counts of fixed updates: the same as recorded, to four digits.

`fixed_views_test` holds the counts that are named, which most changes of the
inference leave as they are; this holds what they are named from, for every
branch of it. `python -m tests.attacks.counts.fixed_beliefs_test` records
anew, which only a change that is meant to move beliefs may do.
"""

import json
import pathlib

from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import hfl
from labelleak.attacks.counts import allocation, expectation, head_update
from labelleak.base import Labelled, Model

FILE = pathlib.Path(__file__).with_name('fixed_beliefs.json')
K, N, WIDTH = 4, 11, 3
TRUTH = np.array([5, 1, 0, 5])
PLAIN = dict(lr=0.05, batch_size=4)
MOMENTUM = dict(name='sgd', momentum=0.5)

# What is known of a captured head: name -> (client or steps, defense)
HEADS = {
  'ragged steps': (4, ()),
  'scale unknown': (4, None),
  'momentum, smooth, weighted': (
    hfl.Client(
      **PLAIN,
      epochs=2,
      optimizer=MOMENTUM,
      label_smoothing=0.2,
      class_weights=(1.0, 2.0, 1.0, 0.5),
      proximal=0.3,
    ),
    (('laplace', 0.03),),
  ),
  'sigmoid sum': (
    hfl.Client(**PLAIN, shuffle=True, loss='sigmoid', reduction='sum'),
    (),
  ),
  'private': (
    hfl.Client(
      **PLAIN, poisson=True, clip_per_example=0.8, noise_multiplier=0.1
    ),
    (),
  ),
  'adam': (hfl.Client(**PLAIN, optimizer=dict(name='adam')), ()),
  'adam in one step': (hfl.Client(lr=0.05, optimizer=dict(name='adam')), ()),
}
LABELLED = 'labelled, clipped'


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def run(infer, *arguments):
  """Runs a function once: it is compiled faster, and runs slower."""
  quick = dict(xla_backend_optimization_level=0)
  return jax.jit(infer, compiler_options=quick)(*arguments)


def summed_errors(steps):
  """A head's update of about `steps` steps on TRUTH, and the head it left."""
  rng = np.random.default_rng(3)
  head = dict(
    kernel=rng.normal(size=(WIDTH, K)) / 2, bias=0.3 * rng.normal(size=K)
  )
  h = np.abs(rng.normal(size=(N, WIDTH)))
  y = np.eye(K)[np.repeat(np.arange(K), TRUTH)]
  errors = softmax(h @ head['kernel'] + head['bias']) - y
  update = dict(kernel=h.T @ errors, bias=errors.sum(0))
  scaled = {name: np.float32(g * steps / N) for name, g in update.items()}
  return scaled, {name: np.float32(p) for name, p in head.items()}


def head_beliefs(name):
  """What `head_update` infers under a description."""
  client, defense = HEADS[name]
  told = (
    dict(client=client)
    if isinstance(client, hfl.Client)
    else dict(steps=client, lr=0.05)
  )
  known = hfl.Known(K, N, defense=defense, **told)
  update, head = summed_errors(known.steps)
  if name.startswith('adam'):  # moves by about 1 a step, whatever the sizes
    update = jax.tree.map(lambda g: known.steps * np.sign(g) * 0.9, update)
  if name == 'sigmoid sum':
    update = jax.tree.map(lambda g: N / known.steps * g, update)

  def infer(update, head):
    view = hfl.View({'head': update}, {'params': {'head': head}})
    return head_update.infer_counts(view, known)

  return run(infer, update, head)


def labelled_beliefs():
  """What `allocation` infers with a softmax of each class, and a norm."""
  rng = np.random.default_rng(5)
  y = np.eye(K, dtype=np.float32)[rng.integers(K, size=24)]
  probs = np.float32(softmax(2 * y + rng.normal(size=y.shape)))
  update, _ = summed_errors(3)

  def infer(beta, probs, y):
    known = hfl.Known(
      K,
      N,
      steps=3,
      defense=(('clip', 0.5), ('gaussian', 0.05)),
      model=Model(lambda variables, x: x, (K,)),
      labelled=Labelled(probs, y),
    )
    means = expectation.moments(probs, y)
    return allocation.weigh_counts(
      beta, means, known, error=0.3, quiet=0.6, ratio=jnp.asarray(1.4)
    )

  return run(infer, update['bias'], probs, y)


def facts(beliefs):
  """Expected counts, their deviations and the evidence, [2 K + 1]."""
  k = np.arange(beliefs.probs.shape[1])
  mean = beliefs.probs @ k
  deviation = np.sqrt(np.maximum(beliefs.probs @ k**2 - mean**2, 0))
  return [*mean.tolist(), *deviation.tolist(), float(beliefs.evidence)]


def find(name):
  """Facts of a case."""
  return facts(labelled_beliefs() if name == LABELLED else head_beliefs(name))


class FixedBeliefsTest(parameterized.TestCase):
  @parameterized.parameters(*HEADS, LABELLED)
  def test_beliefs(self, name):
    found = find(name)
    self.assertAlmostEqual(sum(found[:K]), N, delta=0.05)
    recorded = json.loads(FILE.read_text())[name]
    np.testing.assert_allclose(found, recorded, rtol=1e-3, atol=1e-3)


if __name__ == '__main__':
  names = *HEADS, LABELLED
  record = {name: [round(x, 5) for x in find(name)] for name in names}
  lines = (f' {json.dumps(n)}: {json.dumps(v)}' for n, v in record.items())
  FILE.write_text('{\n' + ',\n'.join(lines) + '\n}\n')
