"""Labels from signs: where nothing was added, and nowhere else."""

from absl.testing import absltest, parameterized
import jax
import numpy as np
from scipy import special

from labelleak import defenses
from labelleak.attacks.history import signs

B, K = 40, 4


def _errors(learned, seed=0, classes=K):
  """Returns S - Y [B, K] of softmaxes that know labels, and labels."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, classes, B)
  logits = 2 * rng.normal(size=(B, classes)) + learned * np.eye(classes)[y]
  return np.float32(special.softmax(logits, axis=1) - np.eye(classes)[y]), y


def _defend(cut, seed=0, **spec):
  tx = defenses.build((spec,)).gradient
  sent, _ = tx.update(cut, tx.init(cut), key=jax.random.key(seed))
  return np.asarray(sent)


class SignsTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 4.0, 16.0)
  def test_errors_name_labels_however_learned(self, learned):
    cuts, labels = zip(*(_errors(learned, seed) for seed in range(20)))
    found = signs.read(cuts)
    for cut, each, y in zip(cuts, found, labels, strict=True):
      spoke = cut[np.arange(B), y] < 0
      np.testing.assert_array_equal(each, np.eye(K)[y] * spoke[:, None])
      self.assertGreater(spoke.mean(), 0.4)

  @parameterized.parameters(
    dict(name='sparsify', drop=0.8, memory=None),
    dict(name='clip_batch', max_norm=0.1),
  )
  def test_what_is_left_of_errors_names_labels(self, **spec):
    cut, y = _errors(1.0)
    (found,) = signs.read([_defend(cut, **spec)])
    named = found.any(1)
    self.assertGreaterEqual(named.sum(), 20)
    np.testing.assert_array_equal(found[named], np.eye(K)[y][named])

  @parameterized.parameters(
    dict(name='gaussian', stddev=0.001),
    dict(name='gaussian', stddev=1.0),
    dict(name='laplace', scale=0.01),
    dict(name='sparsify', drop=0.8),
  )
  def test_noise_and_residuals_are_noticed(self, **spec):
    tx = defenses.build((spec,)).gradient
    cuts, state = [], None
    for seed in range(6):
      cut, _ = _errors(1.0, seed)
      state = tx.init(cut) if state is None else state
      sent, state = tx.update(cut, state, key=jax.random.key(seed))
      cuts.append(np.asarray(sent))
    self.assertIsNone(signs.read(cuts))

  def test_centred_noise_of_two_classes_has_the_same_signs(self):
    cuts = [_errors(1.0, classes=2)[0]]
    self.assertIsNone(signs.read(cuts))

  def test_few_rows_are_chance(self):
    cut, _ = _errors(1.0)
    self.assertIsNone(signs.read([cut[:19]]))
    self.assertIsNotNone(signs.read([cut[:19], cut[19:20]]))
    self.assertIsNone(signs.read([]))

  def test_one_row_that_is_otherwise_spoils_all(self):
    cut, _ = _errors(1.0)
    for row in (
      -cut[3],  # three are negative
      cut[3] + np.float32(1e-3),  # sums to more than 0
      cut[3] - np.float32(1e-4),  # or less
      np.maximum(cut[3], 0.0),  # without its label
    ):
      other = cut.copy()
      other[3] = row
      self.assertIsNone(signs.read([cut, other]))

  def test_one_vector_of_noise_for_all_rows_is_noticed(self):
    for seed in range(50):
      cut, _ = _errors(0.0, seed, classes=3)
      noise = np.random.default_rng(seed).normal(size=3)
      self.assertIsNone(signs.read([np.float32(cut + 0.05 * noise)]))


if __name__ == '__main__':
  absltest.main()
