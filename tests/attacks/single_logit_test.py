"""One logit of two classes is read as well as the two that say the same."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, he, models, vfl
from labelleak.attacks import single_logit
from labelleak.attacks.linear import closed_form
from labelleak.base import Batch, InputError
from labelleak.train import optimizer

B, F = 24, 30


def _step(name='mlp.mlp2', width=1, loss=None, sealed=True):
  """Returns the view of a first step, what is known, and the labels."""
  rng = np.random.default_rng(5)
  xs = tuple(rng.normal(size=(B, F)).astype(np.float32) for _ in range(2))
  labels = rng.integers(2, size=B)
  module = models.load(name, num_classes=width)
  party = vfl.party(module, optimizer('sgd', 0.1))
  links = [vfl.link(aggregate=he.ideal() if sealed else None), vfl.link()]
  protocol = vfl.protocol([party, party], None, links, loss=loss)
  batch = Batch(
    xs, np.eye(2, dtype=np.float32)[labels], np.arange(B), np.ones(B)
  )
  state = protocol.init(jax.random.key(1), xs)
  _, (views, _) = protocol.step(state, batch)
  known = vfl.Known(2, B, bottom=vfl.bottom(party))
  return views[0], known, labels, state


class SingleLogitTest(parameterized.TestCase):
  def test_two_logits_of_one_have_its_gradients(self):
    z, y = jnp.array([[-3.0], [0.5], [2.0]]), jnp.array([[0.0], [1.0], [0.0]])
    u = jax.nn.sigmoid(z) - y
    logits = single_logit.split_logit(z)
    both = jax.nn.softmax(logits) - jnp.concatenate([1 - y, y], 1)
    np.testing.assert_allclose(single_logit.split_gradient(u), both, atol=1e-6)
    _, pull = jax.vjp(single_logit.split_logit, z)
    np.testing.assert_allclose(pull(both)[0], u, atol=1e-6)

  def test_more_logits_stay(self):
    view, known, *_ = _step(width=2, sealed=False)
    self.assertIs(single_logit.as_classes(view, known)[0], view)

  @parameterized.product(loss=('sigmoid', 'taylor'))
  def test_the_sign_is_the_label(self, loss):
    loss = getattr(vfl, loss)()
    view, known, labels, _ = _step(loss=loss, sealed=False)
    scores = attacks.load('scores.direct').infer(None, view, known)
    np.testing.assert_array_equal(scores.argmax(1), labels)

  def test_the_closed_form_is_exact_with_a_bias(self):
    """B <= H + 1 equations of a bottom that has a bias."""
    view, known, *_ = _step('mlp.linear', loss=vfl.sigmoid())
    clear, *_ = _step('mlp.linear', loss=vfl.sigmoid(), sealed=False)
    solved = closed_form.solve(view, known)
    self.assertGreaterEqual(int(solved.rank), B)
    expected = single_logit.split_gradient(clear.cut_grads)
    np.testing.assert_allclose(solved.u, expected, atol=1e-4)

  @parameterized.parameters(
    'last_layer', 'least_squares', 'expectation_propagation', 'full'
  )
  def test_linear_attacks_read_it_under_a_seal(self, name):
    view, known, labels, _ = _step(loss=vfl.sigmoid())
    attack = attacks.load(f'linear.{name}')
    scores = jax.jit(lambda k, v: attack.infer(k, v, known))(
      jax.random.key(0), view
    )
    self.assertEqual(scores.shape, (B, 2))
    missed = (scores.argmax(1) != labels).sum()  # a ridge of .3 costs one
    self.assertLessEqual(missed, name == 'least_squares')

  def test_one_logit_of_three_classes_is_refused(self):
    view, known, *_ = _step(loss=vfl.sigmoid())
    for name in ('linear.full', 'linear.last_layer'):
      with self.assertRaisesRegex(InputError, 'K=3, the cut is 1 wide'):
        attacks.load(name).infer(
          jax.random.key(0), view, known.replace(num_classes=3)
        )


if __name__ == '__main__':
  absltest.main()
