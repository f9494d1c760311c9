"""Scores of fixed trainings: the same as recorded, to two digits.

Other tests hold what scores must be; most changes of a rule leave that as it
is. Trainings without noise, and networks, are left out: rounding moves what
they say of rows that nothing tells.
`python -m tests.attacks.history.fixed_scores_test` records anew, which only a
change that is meant to move scores may do.
"""

import pathlib

from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, vfl
from labelleak.base import Pool
from tests.attacks import fixed_scores

FILE = pathlib.Path(__file__).with_name('fixed_scores.json')
KEY = jax.random.key(5)
N, B, K, F, WIDTH = 96, 32, 4, 3, 6
EPOCHS = 3

PROCESS = dict(name='history.gaussian_process', neighbours=6)
FEW = dict(PROCESS, anchors=30)
# name -> (attack, whether sealed, defense, grants)
CASES = {
  'gaussian': (PROCESS, False, (('gaussian', 0.02),), ()),
  'few anchors': (FEW, False, (('gaussian', 0.02),), ()),
  'sparse': (PROCESS, False, (('sparsify', 0.85),), ()),
  'laplace': (PROCESS, False, (('laplace', 0.03),), ()),
  'laplace, told': (PROCESS, False, (('laplace', 0.03),), ('defense',)),
  'perturbed, told': (
    PROCESS,
    False,
    (('grad_perturb', 2.0),),
    ('defense',),
  ),
  'sealed': (PROCESS, True, (('gaussian', 0.005),), ('bottom',)),
  'sealed, few anchors': (FEW, True, (('gaussian', 0.02),), ('bottom',)),
  'clusters': (dict(name='history.clusters'), False, (), ()),
  'true labels': (dict(name='history.true_labels'), False, (), ('labels',)),
}


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def world():
  """Own features [N, F] of classes that overlap, and labels [N]."""
  rng = np.random.default_rng(11)
  y = rng.integers(0, K, N)
  centres = 1.6 * rng.normal(size=(K, F))
  return np.float32(centres[y] + rng.normal(size=(N, F))), y


def bottom(variables, x, key):
  """One hidden layer, no randomness."""
  del key
  first, head = variables['params']['first'], variables['params']['head']
  hidden = jnp.tanh(x @ first['kernel'])
  return hidden @ head['kernel'] + head['bias'][None]


def views(defense):
  """Yields what a party sees of a training that learns its labels."""
  x, y = world()
  rng = np.random.default_rng(12)
  first = np.float32(rng.normal(size=(F, WIDTH)))
  kernel = np.float32(0.3 * rng.normal(size=(WIDTH, K)))
  bias = np.zeros(K, np.float32)
  others = 0.3 * rng.normal(size=(N, K))
  for epoch in range(EPOCHS):
    for rows in rng.permutation(N).reshape(-1, B):
      hidden = np.tanh(x[rows] @ first)
      h = hidden @ kernel + bias
      label = np.eye(K)[y[rows]]
      u = softmax(h + others[rows] + 0.8 * epoch * label) - label
      u = defend(rng, u / B, defense)
      back = (u @ kernel.T) * (1 - hidden**2)
      grads = dict(
        first=dict(kernel=x[rows].T @ back),
        head=dict(kernel=hidden.T @ u, bias=u.sum(0)),
      )
      params = dict(
        first=dict(kernel=first), head=dict(kernel=kernel, bias=bias)
      )
      yield vfl.View(
        x[rows],
        np.float32(h),
        dict(params=params),
        jax.random.fold_in(KEY, epoch),
        jax.tree.map(np.float32, grads),
        np.float32(u),
        rows,
      )
      kernel = kernel - np.float32(3 * grads['head']['kernel'])
      bias = bias - np.float32(3 * grads['head']['bias'])


def defend(rng, u, defense):
  """Cut gradients [B, K] under a defense, by NumPy."""
  for kind, value in defense:
    if kind == 'gaussian':
      u = u + value * rng.normal(size=u.shape)
    elif kind == 'laplace':
      u = u + value * rng.laplace(size=u.shape)
    elif kind == 'sparsify':
      u = np.where(np.abs(u) >= np.quantile(np.abs(u), value), u, 0.0)
    else:
      weight = rng.laplace(scale=2 / value, size=u.shape) / len(u)
      u = u + weight.sum(1, keepdims=True) / K - weight
  return u


def summary(name):
  """Returns a few numbers that all scores of a case enter."""
  build, sealed, defense, grants = CASES[name]
  x, y = world()
  held = np.concatenate([x, x[:10] + 0.3])  # the last are of no step
  given = dict(
    bottom=bottom,
    labels=np.eye(K, dtype=np.float32)[y],
    defense=defense,
    pool=Pool(lambda i: held[i], len(held)),
  )
  known = vfl.Known(
    num_classes=K,
    batch_size=B,
    num_rows=len(held),
    **{field: given[field] for field in ('pool', *grants)},
  )
  attack = attacks.build(build)
  memory = attack.init(known)
  hidden = dict(cut_grads=None) if sealed else dict(param_grads=None)
  for view in views(defense):
    memory = attack.observe(memory, view._replace(**hidden))
  return fixed_scores.summarise(attack.infer(KEY, memory, known), seed=13)


class FixedScoresTest(parameterized.TestCase):
  @parameterized.parameters(*CASES)
  def test_scores(self, name):
    fixed_scores.check(FILE, name, summary(name), atol=0.02)


if __name__ == '__main__':
  fixed_scores.record(FILE, CASES, summary)
