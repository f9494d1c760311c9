"""Count and linear attacks on 50 fixed views: the same answers, bit for bit.

A redesign of the house must not move an attack. The views are made here, by
NumPy and a linear map of the test's own, so that nothing of the package but the
attacks decides the answers. `python -m tests.attacks.fixed_views_test` records
them anew, which only a change that is meant to move an attack may do.

Counts are compared exactly everywhere. Scores are, too, where they were
recorded: the same versions and processor; elsewhere up to rounding.
"""

import pathlib

from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, hfl, vfl
from labelleak.base import Labelled, Model

FILE = pathlib.Path(__file__).with_name('fixed_views.npz')
KEY = jax.random.key(7)
LR = 0.1
MODEL = ('model',)
AUX = ('model', 'labelled')

# name, arguments, grants
COUNTS = (
  ('random', {}, ()),
  ('idlg', {}, ()),
  ('llg', {}, ()),
  ('llg', dict(form='original'), ()),
  ('llg_plus', {}, AUX),
  ('llg_star', {}, MODEL),
  ('llg_star', dict(inputs='ones'), MODEL),
  ('ebi', {}, ()),
  ('llbg', {}, ()),
  ('llbg', dict(confidence=0.5), ()),
  ('llbg', dict(confidence='aux'), AUX),
  ('calibrated', {}, ()),
  ('calibrated', {}, ('lr', *MODEL)),
  ('calibrated', {}, ('lr', *AUX)),
  ('calibrated', {}, ('lr', 'defense', *MODEL)),
)
LINEAR = (
  ('last_layer', {}),
  ('expectation_propagation', {}),
  ('expectation_propagation', dict(rounds=8, ridge=0.1)),
  ('expectation_propagation', dict(code=(dict(name='complement'),))),
)
# (K, B, S, C, defense) by turns
ROUNDS = (
  (10, 64, 10, 1, None),
  (8, 30, 4, 2, (('gaussian', 0.005),)),
  (10, 40, 5, 1, (('clip', 0.2), ('gaussian', 0.01))),
)
# (K, B, width)
BATCHES = ((10, 96, 20), (2, 16, 12))
NUM_ROUNDS, NUM_BATCHES = 30, 20
FEATURES = 9


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def apply(variables, x):
  """A linear model: head only."""
  head = variables['params']['head']
  return x @ head['kernel'] + head['bias'][None]


def bottom(variables, x, key):
  """One hidden layer, no randomness."""
  params = variables['params']
  hidden = params['linear0']
  h = jnp.tanh(x @ hidden['kernel'] + hidden['bias'][None])
  return h @ params['head']['kernel'] + params['head']['bias'][None]


def layer(rng, rows, columns):
  kernel = rng.normal(size=(rows, columns)) / rows**0.5
  return dict(
    kernel=np.float32(kernel), bias=np.float32(0.1 * rng.normal(size=columns))
  )


def round_of(seed):
  """Round `seed`: view, what the server knows, what it may be granted."""
  k, size, steps, clients, defense = ROUNDS[seed % len(ROUNDS)]
  rng = np.random.default_rng([seed, 1])
  head = layer(rng, FEATURES, k)
  share = rng.dirichlet(np.full(k, 0.5))
  update = dict(kernel=0.0, bias=0.0)
  for _ in range(clients):
    labels = rng.choice(k, size=size, p=share)
    x = rng.normal(size=(size, FEATURES)) + 0.5 * rng.normal(size=FEATURES)
    x = np.maximum(x, 0)
    kernel, bias = head['kernel'].astype(float), head['bias'].astype(float)
    width = -(-size // steps)
    for start in range(0, size, width):
      own = x[start : start + width]
      y = np.eye(k)[labels[start : start + width]]
      u = (softmax(own @ kernel + bias) - y) / len(own)
      steps_of = dict(kernel=own.T @ u, bias=u.sum(0))
      if defense and defense[0][0] == 'clip':
        norm = np.sqrt(sum((g**2).sum() for g in steps_of.values()))
        steps_of = {n: g * min(1, 0.2 / norm) for n, g in steps_of.items()}
      if defense:
        sigma = defense[-1][1]
        steps_of = {
          n: g + sigma * rng.normal(size=g.shape) for n, g in steps_of.items()
        }
      kernel -= LR * steps_of['kernel']
      bias -= LR * steps_of['bias']
    update['kernel'] += (head['kernel'] - kernel) / LR / clients
    update['bias'] += (head['bias'] - bias) / LR / clients
  grads = {'head': {name: np.float32(a) for name, a in update.items()}}
  view = hfl.View(
    *jax.tree.map(jnp.asarray, (grads, {'params': {'head': head}}))
  )
  aux = rng.integers(k, size=4 * k)
  grants = dict(
    lr=LR,
    defense=defense,
    model=Model(apply, (FEATURES,)),
    labelled=Labelled(
      np.float32(np.maximum(rng.normal(size=(4 * k, FEATURES)), 0)),
      np.eye(k, dtype=np.float32)[aux],
    ),
  )
  facts = dict(num_classes=k, batch_size=size, steps=steps, clients=clients)
  return view, facts, grants


def batch_of(seed):
  """Step `seed`: a passive party's view, and what it knows."""
  k, size, width = BATCHES[seed % len(BATCHES)]
  rng = np.random.default_rng([seed, 2])
  params = dict(linear0=layer(rng, FEATURES, width), head=layer(rng, width, k))
  x = np.float32(rng.normal(size=(size, FEATURES)))
  y = np.eye(k)[rng.integers(k, size=size)]
  hidden = np.tanh(x @ params['linear0']['kernel'] + params['linear0']['bias'])
  h = hidden @ params['head']['kernel'] + params['head']['bias']
  u = (softmax(h + 0.3 * rng.normal(size=(size, k))) - y) / size
  back = (u @ params['head']['kernel'].T) * (1 - hidden**2)
  grads = dict(
    linear0=dict(kernel=x.T @ back, bias=back.sum(0)),
    head=dict(kernel=hidden.T @ u, bias=u.sum(0)),
  )
  grads = jax.tree.map(np.float32, grads)
  view = vfl.View(
    x, np.float32(h), {'params': params}, jax.random.key(seed), grads, None
  )
  return view, dict(num_classes=k, batch_size=size)


_loaded = {}  # one function an attack, so that what was compiled is used again


def load(name, hyper):
  """The jitted `infer` of an attack."""
  place = f'{name}{hyper}'
  if place not in _loaded:
    _loaded[place] = jax.jit(attacks.load(name, **hyper).infer)
  return _loaded[place]


def counts(seed):
  """Counts of every attack on a round, [attacks, K] int."""
  view, facts, grants = round_of(seed)
  found = []
  for name, hyper, fields in COUNTS:
    own = {field: grants[field] for field in fields}
    known = hfl.Known(**facts, **own)
    found.append(np.asarray(load(f'counts.{name}', hyper)(KEY, view, known)))
  return np.stack(found)


def scores(seed):
  """Scores of every attack on a batch, [attacks, B, K]."""
  view, facts = batch_of(seed)
  known = vfl.Known(**facts, bottom=bottom)
  found = []
  for name, hyper in LINEAR:
    infer = load(f'linear.{name}', hyper)
    with jax.default_matmul_precision('highest'):
      found.append(np.asarray(infer(KEY, view, known)))
  return np.stack(found)


def machine():
  """What rounding depends on."""
  lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  kept = ('model name', 'model\t', 'stepping', 'flags')
  cpu = [line for line in lines if line.startswith(kept)]
  return '\n'.join([jax.__version__, *cpu[: len(kept)]])


class FixedViewsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    with np.load(FILE, allow_pickle=False) as f:
      cls.recorded = dict(f)

  @parameterized.parameters(*range(NUM_ROUNDS))
  def test_counts(self, seed):
    found = counts(seed)
    k, size, _, clients, _ = ROUNDS[seed % len(ROUNDS)]
    self.assertEqual(found.shape, (len(COUNTS), k))
    np.testing.assert_array_equal(found.sum(1), clients * size)
    np.testing.assert_array_equal(found, self.recorded[f'counts{seed}'])

  @parameterized.parameters(*range(NUM_BATCHES))
  def test_scores(self, seed):
    found, recorded = scores(seed), self.recorded[f'scores{seed}']
    if machine() == str(self.recorded['machine']):
      np.testing.assert_array_equal(found, recorded)
    np.testing.assert_allclose(found, recorded, atol=1e-3)


def _record():
  arrays = dict(machine=machine())
  arrays |= {f'counts{seed}': counts(seed) for seed in range(NUM_ROUNDS)}
  arrays |= {f'scores{seed}': scores(seed) for seed in range(NUM_BATCHES)}
  np.savez_compressed(FILE, **arrays)


if __name__ == '__main__':
  _record()
