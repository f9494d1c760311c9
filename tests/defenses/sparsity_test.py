"""What sparsity keeps, drops and remembers, against NumPy."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError
from labelleak.defenses import sparsity


def _cuts(steps=1, rows=32, width=10, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(steps, rows, width)).astype(np.float32)


def _apply(tx, cut, **extra):
  return tx.update(jnp.array(cut), tx.init(jnp.array(cut)), **extra)[0]


class KeepLargestTest(parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(0.1, 0.25, 0.29, 0.5, 0.75, 1.0)
  def test_is_the_released_code(self, keep):
    cut = _cuts()[0]
    k = int(cut.size * keep)
    threshold = np.sort(np.abs(cut).ravel())[-k]
    oracle = np.where(np.abs(cut) > threshold, cut, 0)
    tx = sparsity.keep_largest(keep=keep).gradient
    out = self.variant(lambda cut: _apply(tx, cut))(cut)
    np.testing.assert_array_equal(out, oracle)
    self.assertEqual(np.count_nonzero(out), k - 1)  # 31 of 320 at .1
    mask = (np.arange(32) < 17).astype(np.float32)
    padded = _apply(tx, cut * mask[:, None], mask=jnp.array(mask))
    np.testing.assert_array_equal(padded[:17], _apply(tx, cut[:17]))

  def test_none_survive_a_tie(self):
    out = _apply(sparsity.keep_largest(keep=0.5).gradient, np.ones((4, 3)))
    self.assertFalse(np.any(out))

  def test_keeping_none_is_refused(self):
    with self.assertRaisesRegex(InputError, r'keep=0\.1 of 6 entries is none'):
      _apply(sparsity.keep_largest(keep=0.1).gradient, np.ones((2, 3)))
    with self.assertRaisesRegex(InputError, r'keep=0 must be in \(0, 1\]'):
      sparsity.keep_largest(keep=0)

  def test_it_is_not_compress(self):
    """Of one matrix, keeping .5 strictly drops one entry more."""
    cut = _cuts()[0]
    kept = _apply(sparsity.keep_largest(keep=0.5).gradient, cut)
    rest = _apply(sparsity.compress(drop=0.5).gradient, cut)
    self.assertEqual(np.count_nonzero(rest) - np.count_nonzero(kept), 1)


class SparsifyTest(parameterized.TestCase):
  @parameterized.product(
    drop=(0.5, 0.95, 0.995), memory=(None, 'position', 'sample')
  )
  def test_is_a_loop_in_numpy(self, drop, memory):
    cuts = _cuts(steps=6).astype(np.float64)
    rng = np.random.default_rng(1)
    index = np.stack([rng.permutation(50)[:32] for _ in cuts])
    places = index if memory == 'sample' else np.tile(np.arange(32), (6, 1))
    residual, oracle = np.zeros((50, 10)), []
    for cut, place in zip(cuts, places):
      g = cut + residual[place]
      wait = np.abs(g) < np.quantile(np.abs(g), drop)
      if memory is not None:
        residual[place] = np.where(wait, g, 0)
      oracle.append(np.where(wait, 0, g))

    rows = 50 if memory == 'sample' else None
    tx = sparsity.sparsify(drop=drop, memory=memory, rows=rows).gradient
    step = lambda state, inputs: tx.update(inputs[0], state, index=inputs[1])[
      ::-1
    ]
    inputs = jnp.array(cuts, jnp.float32), jnp.array(index)
    state, out = jax.lax.scan(step, tx.init(inputs[0][0]), inputs)
    np.testing.assert_allclose(out, oracle, atol=1e-5)
    if memory is not None:  # nothing is lost
      total = np.zeros((50, 10))
      sent = np.zeros((50, 10))
      for cut, each, place in zip(cuts, out, places):
        total[place] += cut
        sent[place] += each
      held = np.zeros((50, 10))
      held[: len(state)] = state
      np.testing.assert_allclose(sent + held, total, atol=1e-4)

  @parameterized.parameters(0.0, 0.3, 0.62, 0.995, 1.0)
  def test_the_quantile_is_that_of_the_real_rows(self, share):
    magnitude = np.abs(_cuts(rows=6)[0])
    real = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0], np.float32)[:, None]
    found = sparsity._quantile(jnp.array(magnitude), jnp.array(real), share)
    oracle = np.quantile(magnitude[real[:, 0] > 0], share)
    np.testing.assert_allclose(found, oracle, rtol=1e-5)

  def test_only_the_largest_is_sent_at_one(self):
    cut = _cuts()[0]
    out = _apply(sparsity.sparsify(drop=1.0).gradient, cut)
    largest = np.unravel_index(np.abs(cut).argmax(), cut.shape)
    self.assertEqual(np.count_nonzero(out), 1)
    self.assertEqual(out[largest], cut[largest])

  @parameterized.parameters('position', 'sample')
  def test_padding_touches_no_residual(self, memory):
    rows = 8 if memory == 'sample' else None
    tx = sparsity.sparsify(drop=0.6, memory=memory, rows=rows).gradient
    first, second = jnp.array(_cuts(steps=2, rows=4))
    index = jnp.arange(4)
    _, state = tx.update(first, tx.init(first), index=index)
    mask = jnp.array([1.0, 1.0, 0.0, 0.0])
    # Padding repeats row 0; its residual must come from row 0 alone.
    padding = jnp.array([0, 1, 0, 0])
    _, after = tx.update(
      second * mask[:, None], state, index=padding, mask=mask
    )
    np.testing.assert_array_equal(after[2:], state[2:])
    g = second[:2] + state[:2]
    wait = np.abs(g) < np.quantile(np.abs(g), 0.6)
    np.testing.assert_allclose(after[:2], np.where(wait, g, 0), atol=1e-6)

  def test_the_released_form_forgets_in_a_short_batch(self):
    """In full batches by place; the short one neither reads nor leaves any."""
    released = sparsity.sparsify(drop=0.6, memory='released').gradient
    place = sparsity.sparsify(drop=0.6).gradient
    bare = sparsity.sparsify(drop=0.6, memory=None).gradient
    cuts = jnp.array(_cuts(steps=4, rows=4))
    states = released.init(cuts[0]), place.init(cuts[0])
    for cut in cuts[:2]:
      (sent, ours), (wanted, theirs) = (
        tx.update(cut, state) for tx, state in zip((released, place), states)
      )
      states = ours, theirs
      np.testing.assert_array_equal(sent, wanted)
    self.assertGreater(np.abs(states[0]).max(), 0)
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    short = cuts[2] * mask[:, None]
    sent, state = released.update(short, states[0], mask=mask)
    np.testing.assert_array_equal(sent, bare.update(short, (), mask=mask)[0])
    np.testing.assert_array_equal(state, np.zeros_like(state))

  def test_misuse_is_refused(self):
    tx = sparsity.sparsify(drop=0.5).gradient
    with self.assertRaisesRegex(InputError, r'shape \(2, 3\), not \(4, 3\)'):
      tx.update(jnp.zeros((4, 3)), tx.init(jnp.zeros((2, 3))))
    for hyper, message in (
      (dict(drop=99.5), r'drop=99\.5 must be in \[0, 1\]'),
      (
        dict(drop=0.5, memory='batch'),
        "memory='batch' is unknown; use one of: None, ",
      ),
      (dict(drop=0.5, memory='sample'), "memory='sample' with rows=None"),
      (dict(drop=0.5, rows=5), "memory='position' with rows=5"),
    ):
      with self.assertRaisesRegex(InputError, message):
        sparsity.sparsify(**hyper)


if __name__ == '__main__':
  absltest.main()
