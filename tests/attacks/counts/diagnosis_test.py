"""What an update says of a wrong description, on updates of known clients."""

import dataclasses
import types
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import hfl
from labelleak.attacks import counts
from labelleak.attacks.counts import captured, diagnosis, posterior
from labelleak.base import InputError
from tests.attacks.counts import described_test
from tests.attacks.counts.described_test import ADAM, FITS, SGD, K

NUM = 128


def _warnings(told, truly, *, edit=lambda update: update, seeds=2):
  """Warnings about rounds that `truly` was behind."""
  head, updates, _ = described_test.train(truly, NUM, False)
  known = hfl.Known(K, NUM, client=told, defense=())
  made = []
  for i in range(seeds):
    update = edit(jax.tree.map(lambda a, i=i: a[i], updates))
    view = hfl.View({'head': update}, {'params': {'head': head}})
    made.append(counts.diagnose(view, known))
  return made


class DiagnoseTest(parameterized.TestCase):
  def test_a_true_description_is_believed(self):
    for told in (SGD, FITS['momentum']):
      self.assertEqual(_warnings(told, told), [(), ()])

  @parameterized.parameters(
    (
      hfl.Client(lr=0.01, batch_size=8, optimizer=described_test.MOMENTUM),
      'momentum .9',
    ),
    (FITS['sigmoid'], 'a sigmoid head'),
    (dataclasses.replace(SGD, lr=1e-3, optimizer=ADAM), 'Adam'),
    (hfl.Client(lr=1e-4, batch_size=32, reduction='sum'), "reduction='sum'"),
  )
  def test_another_client_is_named(self, truly, cause):
    told = hfl.Client(lr=truly.lr, batch_size=truly.batch_size)
    for warnings in _warnings(told, truly):
      self.assertLen(warnings, 1)
      self.assertIn(cause, warnings[0])

  @parameterized.parameters(
    (lambda u: -u, 'its sign turned'),
    (lambda u: 0.01 * u, 'not divided by the learning rate'),
    (lambda u: 5 * u, 'a learning rate at least'),
    (lambda u: 0 * u, 'nothing was trained'),
    (jnp.sign, 'of one size'),
  )
  def test_an_update_in_other_units_is_named(self, change, cause):
    edit = lambda update: jax.tree.map(change, update)
    for warnings in _warnings(SGD, SGD, edit=edit):
      self.assertLen(warnings, 1)
      self.assertIn(cause, warnings[0])

  def test_sums_that_must_not_be_zero(self):
    for told, cause in (
      (dataclasses.replace(SGD, loss='sigmoid'), 'a sigmoid head would not'),
      (dataclasses.replace(SGD, optimizer=ADAM), 'of Adam would not'),
    ):
      (warnings,) = _warnings(told, SGD, seeds=1)
      self.assertIn(cause, warnings[0])

  @parameterized.parameters((0.0, True), (0.04, True), (0.12, False))
  def test_noise_explains_a_sum(self, noise, doubted):
    """Of a tenth of the size, 5.6, by 4 entries: 3 noise 2 / 5.6 is allowed."""
    beta = np.array([3.0, -2.0, -0.5, 0.06])
    response = types.SimpleNamespace(noise=noise, shares=None)
    found = diagnosis._doubt_sum(beta, hfl.Client(), response)
    self.assertLen(found, doubted)
    if doubted:
      self.assertIn('sums to 10% of its size', found[0])

  @parameterized.parameters(
    (4.07, 0.0, 0.0, ''),
    (4.07, 0.0, 7.9, ''),
    (4.07, 0.0, 8.1, 'with its sign turned'),
    (4.09, 0.0, 0.0, 'at least 1.02 times as large'),
    (4.45, 0.1, 0.0, ''),  # noise explains 3 * .1 * sqrt(2) of 4
    (4.55, 0.1, 0.0, 'at least 1.14 times as large'),
    (0.41, 0.0, 0.0, ''),
    (0.39, 0.0, 0.0, 'is 0.098 of what'),
  )
  def test_scale_and_sign_are_doubted(self, size, noise, turned, said):
    """Of an update whose negative entries sum to `size` of 4."""
    beta = np.array([size, -size])
    view = hfl.View({'head': {'bias': jnp.asarray(beta)}})
    response = types.SimpleNamespace(mass=4.0, noise=noise)

    def infer(view, known):
      sign = jnp.sign(view.grads['head']['bias'][0])
      return posterior.Posterior(None, -sign * turned / 2)

    client = hfl.Client(lr=0.1)
    known = hfl.Known(2, 8, client=client, defense=())
    with (
      mock.patch.object(captured, 'infer_counts', infer),
      mock.patch.object(captured, 'infer_at_typical_reach', infer),
    ):
      found = diagnosis._doubt_scale(view, known, beta, client, response)
    self.assertLen(found, bool(said))
    self.assertIn(said, ' '.join(found))

  def test_slices_of_a_data_loader_are_guessed_at_any_scale(self):
    """Slices of 10, 10, 10 and 5 under plain SGD, of which it is told S."""
    k, sizes, scale = 10, (10, 10, 10, 5), 0.3
    rng = np.random.default_rng(0)
    beta = np.zeros(k)
    for size in sizes:
      labels = rng.choice(k, size, p=rng.dirichlet(np.full(k, 0.5)))
      beta += 1 / k - np.bincount(labels, minlength=k) / size
    head = {'bias': jnp.asarray(scale * beta, jnp.float32)}
    known = hfl.Known(k, sum(sizes), len(sizes), lr=0.01, defense=())
    (found,) = diagnosis.diagnose(hfl.View({'head': head}), known)
    self.assertIn('fits far better if it is', found)

  def test_a_turned_update_of_many_classes_at_another_scale(self):
    k, num = 60, 64
    labels = np.random.default_rng(0).choice(k, num, p=np.arange(k) / 1770)
    beta = 1 / k - np.bincount(labels, minlength=k) / num
    head = {'bias': jnp.asarray(-0.1 * beta, jnp.float32)}
    known = hfl.Known(k, num, client=hfl.Client(lr=0.1), defense=())
    with mock.patch.object(diagnosis.head_update, 'MOST_CLASSES', 10):
      (found,) = diagnosis.diagnose(hfl.View({'head': head}), known)
    self.assertIn('sign turned', found)

  @parameterized.parameters(
    (1.0, 0.0, ''),
    (0.97, 0.0, ''),
    (1.0, 0.5, ''),  # label smoothing that was told is no other scale
    (0.5, 0.0, 'if it is 0.5'),
    (0.02, 0.0, 'if it is 0.02'),
    (3.0, 0.0, 'at least 2.98 times'),
    (-1.0, 0.0, 'sign turned'),
    (-0.1, 0.0, 'sign turned'),
    (-3.0, 0.0, 'sign turned'),
  )
  def test_the_scale_of_few_labels_of_many_classes(self, factor, smooth, said):
    k, num = 3000, 50
    labels = np.random.default_rng(0).choice(40, num)
    beta = np.random.default_rng(1).dirichlet(np.full(k, 20.0)) - smooth / k
    beta -= (1 - smooth) * np.bincount(labels, minlength=k) / num
    head = {'bias': jnp.asarray(factor * beta, jnp.float32)}
    client = hfl.Client(lr=0.1, label_smoothing=smooth)
    known = hfl.Known(k, num, client=client, defense=())
    infer = captured.infer_at_typical_reach

    def look(view, known):
      self.assertEqual(known.defense, ())  # any scale need not be tried
      return infer(view, known)

    with mock.patch.object(captured, 'infer_at_typical_reach', look):
      found = diagnosis.diagnose(hfl.View({'head': head}), known)
    self.assertLen(found, bool(said))
    self.assertIn(said, ' '.join(found))

  def test_a_sigmoid_head_of_many_classes_is_looked_at_at_any_scale(self):
    """Whose negative entries say nothing: here there are none."""
    k, num = 3000, 50
    labels = np.random.default_rng(0).choice(1500, num, replace=False)
    beta = 0.5 - np.bincount(labels, minlength=k) / num
    head = {'bias': jnp.asarray(beta, jnp.float32)}
    client = hfl.Client(lr=0.1, loss='sigmoid', reduction='sum')
    known = hfl.Known(k, num, client=client, defense=())
    calls = []

    def look(view, known):
      calls.append(known.defense)
      return posterior.Posterior(None, jnp.float32(-jnp.inf))

    with mock.patch.object(captured, 'infer_at_typical_reach', look):
      diagnosis.diagnose(hfl.View({'head': head}), known)
    self.assertEqual(calls, [(), (), None])

  def test_causes_are_those_that_are_large_enough(self):
    explain = lambda least, steps=8, **fields: diagnosis._explain(
      least,
      hfl.Client(lr=0.1, **fields),
      hfl.Known(K, 32, client=hfl.Client(batch_size=32 // steps)),
    )
    rate = 'a learning rate at least 1.5 times as large'
    self.assertEqual(explain(1.5), f'momentum .9 or {rate}')
    self.assertEqual(explain(1.5, steps=1), rate)
    self.assertEqual(explain(1.5, optimizer=described_test.MOMENTUM), rate)
    # Momentum's gains over 8 steps are (1 - .9^(8 - s)) / .1, 3.59 on average.
    self.assertIn('momentum', explain(3.5))
    self.assertNotIn('momentum', explain(3.7))
    self.assertIn('or 3 or more times as many epochs', explain(3.2))
    summed = "(reduction='sum')"
    self.assertNotIn(summed, explain(6.3))  # a fifth of 32 examples is 6.4
    self.assertIn(summed, explain(6.5))
    self.assertIn(summed, explain(0.9, batch_size=4))

  def test_a_trace_has_no_values(self):
    view = lambda bias: hfl.View({'head': {'bias': bias}})
    known = hfl.Known(K, NUM)
    with self.assertRaisesRegex(InputError, 'outside of jit'):
      jax.eval_shape(lambda b: counts.diagnose(view(b), known), np.ones(K))


if __name__ == '__main__':
  absltest.main()
