"""Residues of logistic regression: solved, read past the rank, pooled."""

import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, vfl
from labelleak.attacks.residues import propagation
from labelleak.base import InputError


def _bottom(variables, x, key):
  del key
  params = variables['params']
  h = x @ params['kernel']
  return h + params['bias'][None] if 'bias' in params else h


def _view(x, w, u, t, *, bias=None, padding=0, activation=lambda z: z / 4):
  """Returns the view of a host of features x [B, F], from its equations alone.

  The gradient of the mean over rows that are no padding, typed anew in NumPy.
  """
  size = len(x) - padding
  h = x @ w + (bias or 0.0)
  d = activation(h + u) - t / 2
  params, grads = (
    {'kernel': w[:, None]},
    {'kernel': (x[:size].T @ d[:size])[:, None]},
  )
  if bias is not None:
    params['bias'], grads['bias'] = (
      np.array([bias]),
      d[:size].sum(keepdims=True),
    )
  index = np.where(np.arange(len(x)) < size, np.arange(len(x)), -1)
  return vfl.View(
    x=jnp.asarray(x),
    h=jnp.asarray(h[:, None]),
    variables={'params': jax.tree.map(jnp.asarray, params)},
    key=jax.random.key(0),
    param_grads=jax.tree.map(lambda g: jnp.asarray(g / size), grads),
    cut_grads=None,
    index=jnp.asarray(index),
  )


def _draw(size, columns, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(size, columns))
  t = np.where(x[:, 0] + rng.normal(size=size) > 0, 1.0, -1.0)
  return rng, x, t


def _read(name, view, size, **options):
  known = vfl.Known(2, size, bottom=_bottom)
  infer = attacks.load(f'residues.{name}', **options).infer
  return np.asarray(infer(jax.random.key(0), view, known))


class ResiduesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))

  @parameterized.parameters(None, 0.3)
  def test_up_to_the_rank_residues_are_solved(self, bias):
    rng, x, t = _draw(12, 12)
    u = 0.1 * rng.normal(size=12)
    view = _view(x, rng.normal(size=12) / 20, u, t, bias=bias)
    scores = _read('least_squares', view, 12)
    d = (np.asarray(view.h)[:, 0] + u) / 4 - t / 2
    np.testing.assert_allclose(scores, np.stack([d, -d], 1), atol=1e-6)

  def test_padding_is_no_row(self):
    _, x, t = _draw(12, 12)
    view = _view(x, np.zeros(12), np.zeros(12), t, padding=3)
    scores = _read('least_squares', view, 12)
    np.testing.assert_allclose(scores[:9, 1], t[:9] / 2, atol=1e-6)
    np.testing.assert_array_equal(scores[9:], 0)

  @parameterized.parameters('taylor', 'sigmoid')
  def test_labels_are_read_past_the_rank(self, loss):
    """Two rows for each equation: all labels, and sure of them."""
    activation = {
      'taylor': lambda z: z / 4,
      'sigmoid': lambda z: 1 / (1 + np.exp(-z)) - 0.5,
    }[loss]
    _, x, t = _draw(40, 14)
    w = np.zeros(14)
    view = _view(x, w, np.zeros(40), t, activation=activation)
    scores = _read('expectation_propagation', view, 40, loss=loss)
    np.testing.assert_array_equal(scores, np.stack([t < 0, t > 0], 1))
    squares = _read('least_squares', view, 40, loss=loss)
    self.assertLess((squares.argmax(1) == (t > 0)).mean(), 1.0)

  def test_the_own_part_is_taken_off(self):
    """With large own weights least squares reads those."""
    rng, x, t = _draw(20, 10)
    view = _view(x, 3 * rng.normal(size=10), np.zeros(20), t)
    own = view._replace(h=jnp.zeros_like(view.h))
    right = lambda v: (
      _read('expectation_propagation', v, 20, searches=0).argmax(1) == (t > 0)
    ).mean()
    self.assertGreater(right(view), right(own) + 0.1)

  def test_few_equations_find_no_certain_labels(self):
    """Many of 2^40 labels solve two equations to nine digits."""
    _, x, t = _draw(80, 2)
    view = _view(x, np.zeros(2), np.zeros(80), t)
    scores = _read('expectation_propagation', view, 80)
    self.assertTrue(((scores > 0) & (scores < 1)).all())

  @parameterized.parameters('binary', 'zeros', 'twins')
  def test_what_several_solutions_do_not_share_is_not_certain(self, table):
    """Of few values, rows of zeros and rows alike more than one set fits."""
    rng, x, _ = _draw(40, 20)
    t = np.where(rng.normal(size=40) > 0, 1.0, -1.0)
    if table == 'binary':
      x = (x[:, :12] > 0).astype(float)
    elif table == 'zeros':
      x[:6] = 0
    else:
      x[1], x[3], t[:4] = x[0], x[2], (1, -1, -1, 1)
    columns = x.shape[1]
    view = _view(x, np.zeros(columns), np.zeros(40), t)
    scores = _read('expectation_propagation', view, 40)
    sure = scores.max(1) == 1
    right = scores.argmax(1) == (t > 0)
    self.assertTrue(right[sure].all(), (~right[sure]).sum())

  def test_rows_of_zeros_are_not_named_by_a_search(self):
    """Two searches agree on half of them by chance."""
    rng, x, _ = _draw(40, 20)
    t = np.where(rng.normal(size=40) > 0, 1.0, -1.0)
    x[:12] = 0
    view = _view(x, np.zeros(20), np.zeros(40), t)
    scores = _read('expectation_propagation', view, 40, searches=2)
    np.testing.assert_allclose(scores[:12], 0.5, atol=1e-6)
    self.assertTrue((scores[12:].max(1) == 1).all())

  def test_a_loss_that_contradicts_is_refused(self):
    _, x, t = _draw(6, 3)
    view = _view(x, np.zeros(3), np.zeros(6), t)
    infer = attacks.load(
      'residues.expectation_propagation', loss='taylor'
    ).infer
    known = vfl.Known(2, 6, bottom=_bottom, loss='sigmoid')
    with self.assertRaisesRegex(
      InputError, "contradicts Known: loss='sigmoid'"
    ):
      infer(jax.random.key(0), view, known)

  def test_beliefs_are_those_of_all_labels(self):
    """Posterior means beside the sum over 2^B labels, of Gaussian noise."""
    rng, x, t = _draw(9, 4, seed=2)
    basis = np.linalg.qr(x)[0]
    noise = 0.05
    observed = -basis.T @ t / 2 + noise**0.5 * rng.normal(size=4)
    found = propagation.propagate(
      jnp.asarray(basis), jnp.asarray(observed), jnp.asarray(noise), 300
    )
    labels = np.array(list(itertools.product((-1.0, 1.0), repeat=9)))
    misfit = observed[None] + labels @ basis / 2
    weight = np.exp(-(misfit**2).sum(1) / (2 * noise))
    exact = weight @ labels / weight.sum()
    np.testing.assert_allclose(found, exact, atol=0.25)
    self.assertLess(np.abs(found - exact).mean(), 0.06)

  def test_answers_do_not_follow_the_order_of_rows(self):
    rng, x, t = _draw(30, 10)
    order = rng.permutation(30)
    w, u = rng.normal(size=10) / 5, rng.normal(size=30) / 5
    read = lambda i: _read(
      'expectation_propagation', _view(x[i], w, u[i], t[i]), 30, searches=0
    )
    np.testing.assert_allclose(
      read(order), read(np.arange(30))[order], atol=1e-5
    )

  def test_what_is_no_single_logit_is_refused(self):
    _, x, t = _draw(6, 3)
    view = _view(x, np.zeros(3), np.zeros(6), t)
    infer = attacks.load('residues.least_squares').infer
    with self.assertRaisesRegex(
      InputError, 'one logit of two classes, not 1 of 3'
    ):
      infer(None, view, vfl.Known(3, 6, bottom=_bottom))
    with self.assertRaisesRegex(InputError, 'sees updates of an arbiter alone'):
      infer(
        None, view._replace(param_grads=None), vfl.Known(2, 6, bottom=_bottom)
      )
    with self.assertRaisesRegex(InputError, "loss='squared' is unknown"):
      attacks.load('residues.epochs', loss='squared')


class EpochsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))

  def _train(self, epochs, *, columns=10, guest=6, size=24, batches=2):
    """Trains host and guest on FATE's loss, typed anew; yields the views."""
    rng, x, t = _draw(size * batches, columns, seed=4)
    other = rng.normal(size=(len(x), guest))
    w, v = rng.uniform(size=columns), rng.uniform(size=guest)
    for number in range(epochs * batches):
      rows = np.arange(size) + size * (number % batches)
      view = _view(x[rows], w, other[rows] @ v, t[rows])
      yield t, view._replace(index=jnp.asarray(rows))
      d = (x[rows] @ w + other[rows] @ v) / 4 - t[rows] / 2
      w = w - 0.3 * x[rows].T @ d / size
      v = v - 0.3 * other[rows].T @ d / size

  def _accuracy(self, epochs, **options):
    attack = attacks.load('residues.epochs')
    known = vfl.Known(2, 24, num_rows=50, bottom=_bottom)
    memory = attack.init(known)
    truth, views = zip(*self._train(epochs, **options))
    for view in views:
      memory = attack.observe(memory, view)
    t = truth[0]
    scores = np.asarray(attack.infer(jax.random.key(0), memory, known))
    self.assertEqual(scores.shape, (50, 2))
    np.testing.assert_array_equal(scores[len(t) :], 0)
    return (scores[: len(t)].argmax(1) == (t > 0)).mean()

  def test_epochs_show_what_the_guest_cannot_move(self):
    one, many = self._accuracy(1), self._accuracy(12)
    self.assertLess(one, 0.9)
    self.assertGreater(many, one + 0.08)

  def test_a_batch_that_comes_back_unchanged_says_no_more(self):
    attack = attacks.load('residues.epochs')
    known = vfl.Known(2, 24, num_rows=50, bottom=_bottom)
    _, view = next(self._train(1))
    answers = []
    for times in (1, 4):
      memory = attack.init(known)
      for _ in range(times):
        memory = attack.observe(memory, view)
      answers.append(attack.infer(jax.random.key(0), memory, known))
    np.testing.assert_allclose(*answers, atol=1e-9)

  def test_views_that_are_not_finite_are_refused(self):
    attack = attacks.load('residues.epochs')
    known = vfl.Known(2, 24, num_rows=50, bottom=_bottom)
    _, view = next(self._train(1))
    bad = view.param_grads | {'kernel': jnp.full((10, 1), jnp.nan)}
    with self.assertRaisesRegex(InputError, 'not finite'):
      attack.observe(attack.init(known), view._replace(param_grads=bad))

  def test_rows_are_needed(self):
    with self.assertRaisesRegex(InputError, 'needs num_rows'):
      attacks.load('residues.epochs').init(vfl.Known(2, 24, bottom=_bottom))


if __name__ == '__main__':
  absltest.main()
