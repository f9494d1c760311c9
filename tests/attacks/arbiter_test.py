"""An arbiter's updates, undone: optax's gradients come back."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import he, models, train, vfl
from labelleak.attacks import arbiter
from labelleak.base import Attack, Batch, InputError

_KEEP = Attack(lambda key, memory, known: memory, lambda m, v: (*m, v))
_KEEP = _KEEP._replace(init=lambda known: ())


def _updates(grads, weight_decay=0.0, **options):
  """Yields views of an optimizer's updates for gradients [T, F]."""
  options = dict(options)
  tx = train.optimizer(
    options.pop('name'), options.pop('lr'), weight_decay=weight_decay, **options
  )
  w = {'a': jnp.ones(grads.shape[1])}
  state = tx.init(w)
  for g in grads:
    updates, state = tx.update({'a': g}, state, w)
    yield vfl.View(*(None,) * 2, {'params': w}, *(None,) * 3, updates=updates)
    w = optax.apply_updates(w, updates)


def _undo(views, **options):
  attack = arbiter.undo(_KEEP, options)
  memory = attack.init(None)
  for view in views:
    memory = attack.observe(memory, view)
  seen = attack.infer(None, memory, None)
  return np.stack([view.param_grads['a'] for view in seen])


class UndoTest(parameterized.TestCase):
  @parameterized.parameters(
    dict(name='sgd'),
    dict(name='sgd', weight_decay=0.1),
    dict(name='sgd', momentum=0.9),
    dict(name='sgd', momentum=0.9, nesterov=True),
    dict(name='rmsprop', decay=0.9),
    dict(name='rmsprop', decay=0.99, eps_in_sqrt=False),
    # Near its largest update both gradients are all but one.
    dict(name='adam', varied=0.03, rtol=0.03),
    dict(name='adam', b1=0.5, b2=0.9, weight_decay=0.01),
  )
  def test_gradients_come_back(self, varied=0.3, rtol=1e-4, **options):
    options['lr'] = 0.15
    with jax.enable_x64(True):
      rng = np.random.default_rng(0)
      # Of one trend, as in a training, and of a scale for each entry.
      trend = rng.normal(size=(1, 9)) * 10.0 ** np.arange(-3, 6)[None] / 1e3
      grads = jnp.asarray(trend * (1 + varied * rng.normal(size=(12, 9))))
      found = _undo(_updates(grads, **options), **options)
    np.testing.assert_allclose(found, grads, rtol=rtol)

  @parameterized.parameters('adam', 'rmsprop')
  def test_float32_has_lost_the_size(self, name):
    with self.assertRaisesRegex(InputError, 'float32 has lost them'):
      _undo(_updates(jnp.ones((1, 2)), name=name, lr=0.1), name=name, lr=0.1)

  @parameterized.parameters(
    (dict(name='lion', lr=0.1), "'lion' is unknown; use one of"),
    (dict(name='sgd', lr=optax.constant_schedule(1.0)), 'must be a number'),
    (dict(name='adam', lr=0.1, nesterov=True), "takes no 'nesterov'"),
  )
  def test_what_cannot_be_undone_is_refused(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      arbiter.undo(_KEEP, options)

  def test_a_party_that_sees_its_gradient_needs_no_undoing(self):
    attack = arbiter.undo(_KEEP, dict(name='sgd', lr=0.1))
    view = vfl.View(*(None,) * 6)
    with self.assertRaisesRegex(InputError, 'sees its gradient'):
      attack.observe(attack.init(None), view)


class ProtocolTest(absltest.TestCase):
  def test_an_arbiter_shows_updates_in_the_place_of_gradients(self):
    rng = np.random.default_rng(1)
    xs = tuple(rng.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    y = np.eye(2, dtype=np.float32)[rng.integers(2, size=6)]
    batch = Batch(xs, y, np.arange(6), np.ones(6))
    views = []
    for coordinated in (False, True):
      module = models.load('mlp.linear', num_classes=1, bias=False)
      party = vfl.party(module, train.optimizer('sgd', 0.5))
      link = vfl.link(aggregate=he.ideal(), coordinated=coordinated)
      protocol = vfl.protocol(
        [party] * 2, None, [link, vfl.link()], loss=vfl.taylor()
      )
      state = protocol.init(jax.random.key(0), xs)
      views.append(protocol.step(state, batch)[1][0])
    (seen, own), (shown, active) = views
    self.assertIsNone(seen.updates)
    self.assertIsNone(shown.param_grads)
    kernel = lambda tree: tree['head']['kernel']
    np.testing.assert_allclose(
      kernel(shown.updates), -0.5 * kernel(seen.param_grads), rtol=1e-6
    )
    np.testing.assert_array_equal(
      kernel(own.param_grads), kernel(active.param_grads)
    )


if __name__ == '__main__':
  absltest.main()
