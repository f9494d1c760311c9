"""Programs that are compiled in haste give what `jax.jit` gives."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import compilation


def _sample(key, x):
  noise = jax.random.normal(key, x.shape)
  return jnp.where(noise > 0, jnp.tanh(x), x**2).sum(-1), noise


@parameterized.parameters(compilation.jit_once, compilation.jit_seldom)
class JitTest(parameterized.TestCase):
  def test_values_are_those_of_jit(self, jit):
    args = jax.random.key(0), jnp.linspace(-2.0, 2.0, 60).reshape(3, 20)
    for ours, theirs in zip(jit(_sample)(*args), jax.jit(_sample)(*args)):
      np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

  def test_it_is_traced_as_jit_is(self, jit):
    grads = jax.grad(lambda x: jit(jnp.tanh)(x).sum())(jnp.zeros(3))
    np.testing.assert_array_equal(grads, np.ones(3))

  def test_another_xla_may_lack_the_emitters(self, jit):
    compilation._known_emitters.cache_clear()
    self.addCleanup(compilation._known_emitters.cache_clear)
    none = {'xla_no_such_option': False}
    with mock.patch.object(compilation, '_EMITTERS', none):
      self.assertEqual(compilation._known_emitters(), {})
      self.assertEqual(float(jit(jnp.square)(3.0)), 9.0)


if __name__ == '__main__':
  absltest.main()
