"""Attacks on label codes: what they read, and what no code lets them read."""

import functools
import itertools
from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special, stats

from labelleak import attacks, defenses, metrics, vfl
from labelleak.attacks import decoding
from labelleak.attacks.linear import equations
from labelleak.base import InputError, Labelled
from labelleak.defenses import LabelCode, coae, label_codes
from labelleak.vfl import Known

KEY = jax.random.key(0)
COMPLEMENT = dict(name='complement')
DRAW = dict(name='draw')
RENAMED = dict(name='permutation', seed=5)


def observe(code, *, size=512, classes=10, std=0.2, seed=0):
  """(view, known, y) of two parties' random logits, whose cut is in the clear.

  Known grants the first row of each class.
  """
  keys = jax.random.split(jax.random.key(seed), 4)
  own, other = std * jax.random.normal(keys[0], (2, size, classes))
  labelled = jax.random.randint(keys[1], (size,), 0, classes)
  y = jax.nn.one_hot(labelled, classes)
  fake = label_codes.encode_rows(keys[2], code, y, jnp.arange(size))
  cut = (jax.nn.softmax(own + other) - fake) / size
  x = jax.random.normal(keys[3], (size, 3))
  first = y.argmax(0)
  view = vfl.View(x, own, {}, keys[3], {}, cut)
  return view, Known(classes, size, labelled=Labelled(x[first], y[first])), y


@functools.cache
def compiled(name, size, classes, **options):
  """Scores of an attack on (view, labelled rows), jitted once."""
  infer = attacks.load(name, **options).infer
  known = lambda labelled: Known(classes, size, labelled=labelled)
  return jax.jit(lambda view, labelled: infer(KEY, view, known(labelled)))


def rates(
  code, name='decoding.mixture', *, size=512, classes=10, std=0.2, **options
):
  """(accuracy, accuracy after the best renaming) of an attack."""
  view, known, y = observe(code, size=size, classes=classes, std=std)
  scores = compiled(name, size, classes, **options)(view, known.labelled)
  accuracy = metrics.label_accuracy(scores, y)
  return float(accuracy), float(metrics.permuted_label_accuracy(scores, y))


class MixtureTest(parameterized.TestCase):
  @parameterized.parameters((2, 0.5), (2, 1.0), (5, 1.0), (10, 0.5), (10, 2.0))
  def test_coae_is_read_where_its_complement_is_not_enough(
    self, classes, confusion
  ):
    code = coae.coae(num_classes=classes, confusion=confusion).labels
    view, known, y = observe(code, classes=classes, std=0.25)
    plain = attacks.load('scores.direct', rule='complement')
    complement = metrics.label_accuracy(plain.infer(KEY, view, known), y)
    published = attacks.load('scores.direct').infer(KEY, view, known)
    found, _ = rates(code, classes=classes, std=0.25)
    self.assertLess(float(metrics.label_accuracy(published, y)), 0.01)
    self.assertGreater(found, 0.95)
    if classes == 10:
      self.assertLess(complement, found - 0.08)

  def test_a_renaming_hides_names_and_nothing_else(self):
    """Over all secrets a name is worth a guess; rows are told apart in each."""
    found = []
    for names in itertools.permutations(range(4)):
      order = np.array(names)
      rename = LabelCode(lambda key, y, order=order: y[:, order], lambda p: p)
      code = label_codes.chain(
        label_codes.complement(num_classes=4).labels, rename
      )
      found.append(rates(code, size=128, classes=4))
    accuracy, permuted = np.mean(found, 0)
    self.assertAlmostEqual(accuracy, 1 / 4, delta=1e-6)
    self.assertEqual(permuted, 1.0)

  def test_one_labelled_row_of_each_class_breaks_a_renaming(self):
    code = defenses.build((COMPLEMENT, RENAMED), 10).labels
    self.assertLess(rates(code)[0], 0.4)
    self.assertGreaterEqual(rates(code, names='granted')[0], 0.98)

  def test_drawn_labels_are_not_told_apart(self):
    """One class that a row is not of: 1 / 9 is what that is worth."""
    size = 2000
    code = defenses.build((COMPLEMENT, DRAW), 10).labels
    error = 4 * np.sqrt(1 / 9 * 8 / 9 / size)
    for name, options in (
      ('decoding.mixture', {}),
      ('decoding.mixture', dict(names='granted')),
      ('scores.direct', dict(rule='complement')),
    ):
      accuracy, permuted = rates(code, name, size=size, **options)
      self.assertLess(accuracy, 1 / 9 + error)
      self.assertLess(permuted, 1 / 9 + 2 * error)
    self.assertGreater(
      rates(defenses.build((COMPLEMENT,), 10).labels, size=size)[0], 0.98
    )

  @parameterized.parameters(1, 3, 5)
  def test_drawn_classes_are_excluded_and_no_more(self, num):
    """Untrained, the rest is a guess; trained, the model's own answer."""
    code = defenses.build((COMPLEMENT, dict(name='draw', num=num)), 10).labels
    size = 2000
    accuracy, _ = rates(code, 'decoding.complements', size=size, num=num)
    left = 1 / (10 - num)
    error = 4 * np.sqrt(left * (1 - left) / size)
    self.assertAlmostEqual(accuracy, left, delta=error)
    view, known, y = observe(code, size=size)
    learned = view.cut_grads * (1 - y)  # S is 0 for the label
    infer = attacks.load('decoding.complements', num=num).infer
    found = infer(KEY, view._replace(cut_grads=learned), known)
    self.assertGreater(float(metrics.label_accuracy(found, y)), 0.97)

  @parameterized.parameters(2, 4)
  def test_the_likelihood_is_that_of_gaussians_on_the_simplex(self, classes):
    """Rows sum to 1: K - 1 coordinates, of one variance; 2 pi is left out."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % classes
    rows = np.eye(classes)[labels] + 0.2 * rng.normal(size=(60, classes))
    rows -= (rows.sum(1, keepdims=True) - 1) / classes
    start = jax.nn.one_hot(labels, classes)
    fit = decoding._fit(jnp.asarray(rows, jnp.float32), start, 50)
    members = np.exp(np.asarray(fit.scores, float))
    basis = np.linalg.svd(np.ones((1, classes)))[2][1:]  # of sums of zero
    places, centers = rows @ basis.T, np.asarray(fit.centers) @ basis.T
    squared = ((places[:, None] - centers[None]) ** 2).sum(-1)
    var = (members * squared).sum() / (60 * (classes - 1))
    log = [
      np.log(share) + stats.multivariate_normal(center, var).logpdf(places)
      for share, center in zip(members.mean(0), centers)
    ]
    mean = special.logsumexp(log, axis=0).mean()
    mean += (classes - 1) / 2 * np.log(2 * np.pi)
    self.assertAlmostEqual(float(fit.likelihood), mean, places=3)

  @chex.variants(with_jit=True, without_jit=True)
  def test_rows_and_classes_have_no_order(self):
    view, known, _ = observe(
      label_codes.complement(num_classes=5).labels, classes=5
    )
    rows = np.random.default_rng(0).permutation(512)
    order = np.random.default_rng(1).permutation(5)
    attack = attacks.load('decoding.mixture', rounds=20)
    infer = self.variant(lambda view: attack.infer(KEY, view, known))
    scores = infer(view)
    turned = view._replace(
      h=view.h[rows][:, order], cut_grads=view.cut_grads[rows][:, order]
    )
    chex.assert_trees_all_close(
      infer(turned), scores[rows][:, order], rtol=1e-3, atol=1e-2
    )

  @parameterized.parameters(
    (dict(rounds=0), 'rounds=0 must be a whole number'),
    (dict(names='best'), "names='best' .*: 'least', 'granted'"),
  )
  def test_bad_options_are_named(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      attacks.load('decoding.mixture', **options)

  def test_what_it_cannot_read_is_named(self):
    view, known, _ = observe(LabelCode())
    infer = attacks.load('decoding.mixture').infer
    with self.assertRaisesRegex(InputError, 'this link is sealed'):
      infer(KEY, view._replace(cut_grads=None), known)
    with self.assertRaisesRegex(InputError, 'logits of K=7'):
      infer(KEY, view, Known(7, 512))
    granted = attacks.load('decoding.mixture', names='granted').infer
    with self.assertRaisesRegex(InputError, "needs 'labelled'"):
      granted(KEY, view, Known(10, 512))


class Bottom(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(32)(x))
    return nn.Dense(6, name='head')(x)


@functools.cache
def sealed(code, num):
  """(view, bottom, y) of a sealed step: two parties' bottoms, sums alone."""
  bottom = vfl.bottom(vfl.party(Bottom(), optax.sgd(0.1)))
  keys = jax.random.split(jax.random.key(3), 6)
  xs = 0.3 * jax.random.normal(keys[0], (2, num, 30))
  y = jax.nn.one_hot(jax.random.randint(keys[1], (num,), 0, 6), 6)
  own, other = (Bottom().init(k, x) for k, x in zip(keys[2:4], xs))
  forward = lambda p: bottom({'params': p}, xs[0], keys[4])
  h, pull = jax.vjp(forward, own['params'])
  s = jax.nn.softmax(h + bottom(other, xs[1], keys[4]))
  u = (s - code.encode(keys[5], y)) / num
  return vfl.View(xs[0], h, own, keys[4], pull(u)[0], None), bottom, y


def scores(name, victim, num, **options):
  """Of an attack on a victim that encodes its labels so."""
  view, bottom, _ = sealed(victim, num)
  attack = attacks.load(name, **options)
  infer = lambda view: attack.infer(KEY, view, Known(6, num, bottom=bottom))
  return jax.jit(infer)(view)


OTHERS = label_codes.complement(num_classes=6).labels
PLAIN = LabelCode()


class SealedTest(parameterized.TestCase):
  def test_fake_labels_are_bits_past_the_reach_of_least_squares(self):
    _, _, y = sealed(OTHERS, 300)
    found = scores(
      'linear.expectation_propagation', OTHERS, 300, code=(COMPLEMENT,)
    )
    accuracy = float(metrics.label_accuracy(found, y))
    linear = scores('decoding.least_squares', OTHERS, 300)
    least = float(metrics.label_accuracy(linear, y))
    self.assertGreater(accuracy, 0.99)
    self.assertBetween(least, 0.3, 0.9)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-4)

  @parameterized.parameters(
    ((),),
    ((dict(name='smoothing', alpha=0.4),),),
    ((dict(name='permutation', seed=5),),),
    ((COMPLEMENT, dict(name='permutation', seed=5)),),
  )
  def test_a_code_that_is_known_hides_nothing(self, code):
    _, _, y = sealed(PLAIN, 300)
    victim = defenses.build(code, 6).labels
    found = scores('linear.expectation_propagation', victim, 300, code=code)
    self.assertGreater(float(metrics.label_accuracy(found, y)), 0.99)
    self.assertGreater(found.max(-1).mean(), 0.9)

  def test_an_assumed_code_may_be_fitted_while_a_trial_is_traced(self):
    view, bottom, _ = sealed(OTHERS, 300)
    known = Known(6, 300, bottom=bottom)

    def shape(**options):
      assumed = (dict(name='coae', steps=7, **options),)
      infer = attacks.load('linear.expectation_propagation', code=assumed).infer
      return jax.eval_shape(lambda v: infer(KEY, v, known), view).shape

    self.assertEqual(shape(lossless=False), (300, 6))
    with self.assertRaisesRegex(InputError, 'decodes . of 6 classes'):
      shape()

  def test_own_logits_are_decoded(self):
    view, known, _ = observe(LabelCode())
    plain = attacks.load('decoding.logits').infer(KEY, view, known)
    chex.assert_trees_all_close(plain, jax.nn.softmax(view.h))
    decoded = attacks.load('decoding.logits', code=(COMPLEMENT,))
    found = decoded.infer(KEY, view, known)
    np.testing.assert_array_equal(found.argmax(-1), view.h.argmin(-1))

  def test_a_ridge_shrinks_least_squares(self):
    """(A A^T + r) z = b and U = A^T z: a large ridge leaves A^T b / r."""
    rng = np.random.default_rng(0)
    matrix, observed = rng.normal(size=(5, 12)), rng.normal(size=5)
    apply = lambda u: jnp.asarray(matrix, 'f') @ u.ravel()
    adjoint = lambda z: (jnp.asarray(matrix, 'f').T @ z).reshape(4, 3)
    eq = equations.Equations(apply, adjoint, jnp.asarray(observed, 'f'), 0, 0)
    with (
      mock.patch.object(equations, 'whiten', return_value=eq),
      mock.patch.object(equations, 'read_logits', lambda name, *a: a),
      mock.patch.dict(decoding._RULES, complement=lambda u: u),
    ):
      for ridge in (0.5, 20.0):
        infer = attacks.load('decoding.least_squares', ridge=ridge).infer
        gram = matrix @ matrix.T + ridge * np.eye(5)
        expected = matrix.T @ np.linalg.solve(gram, observed)
        view = vfl.View(None, None, {}, None, {}, None)
        known = vfl.Known(3, 4, bottom=lambda *_: None)
        found = infer(KEY, view, known)
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)

  def test_what_they_lack_is_named(self):
    view, known, _ = observe(LabelCode())
    with self.assertRaisesRegex(InputError, "squares needs 'bottom'"):
      attacks.load('decoding.least_squares').infer(KEY, view, known)
    with self.assertRaisesRegex(InputError, "rule='most'.* one of: 'argmin'"):
      attacks.load('decoding.least_squares', rule='most')


if __name__ == '__main__':
  absltest.main()
