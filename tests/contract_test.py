"""Views that contradict `Known`, and answers of another form, are refused."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, base, hfl, vfl
from labelleak.base import InputError

KEY = jax.random.key(0)
B, K, H = 6, 4, 3
COUNTS = [name for name in attacks.names() if name.startswith('counts.')]


def _grads(classes=K):
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.float32(rng.normal(size=shape))
  bias = normal(classes)
  return {
    'head': dict(kernel=normal(H, classes), bias=bias - bias.mean()),
    'body': dict(kernel=normal(2, H)),
  }


def _linear(variables, x):
  """The head on x [M, H]."""
  head = variables['params']['head']
  return jnp.matmul(x, head['kernel']) + head['bias'][None]


def _apply(variables, x):
  """The head on a linear body of x [M, 2]."""
  return _linear(variables, x @ variables['params']['body']['kernel'])


def _known(**fields):
  x, y = jnp.ones((K, 2)), jnp.eye(K)
  labelled = base.Labelled(x, y)
  grants = dict(
    lr=0.1, defense=(), model=base.Model(_apply, (2,)), labelled=labelled
  )
  return hfl.Known(**dict(num_classes=K, batch_size=B) | grants | fields)


def _infer(name, grads, known=None):
  view = hfl.View(grads, {'params': _grads(grads['head']['bias'].shape[-1])})
  return attacks.load(name).infer(KEY, view, known or _known())


class HorizontalTest(parameterized.TestCase):
  @parameterized.parameters(*COUNTS)
  def test_counts_of_a_sound_view(self, name):
    self.assertEqual(_infer(name, _grads()).sum(), B)

  @parameterized.product(name=COUNTS, classes=(1, K - 1, K + 1))
  def test_another_number_of_classes(self, name, classes):
    with self.assertRaisesRegex(InputError, rf'{name}: .*\({classes},\)'):
      _infer(name, _grads(classes))

  @parameterized.product(
    name=COUNTS, value=(np.nan, np.inf), leaf=('head', 'body')
  )
  def test_entries_that_are_not_finite_are_named(self, name, value, leaf):
    grads = _grads()
    grads[leaf]['kernel'] = grads[leaf]['kernel'].at[1, 2].set(value)
    message = f"{name}: .* 1 of 'grads/{leaf}/kernel'"
    with self.assertRaisesRegex(InputError, message):
      _infer(name, grads)

  @parameterized.parameters(*COUNTS)
  def test_a_trace_answers_that_there_is_no_answer(self, name):
    infer = jax.jit(lambda grads: _infer(name, grads))
    grads = _grads()
    np.testing.assert_array_equal(infer(grads), _infer(name, grads))
    grads['head'] = jax.tree.map(
      lambda a: a.at[..., 1].set(jnp.nan), grads['head']
    )
    np.testing.assert_array_equal(infer(grads), -1)

  @parameterized.parameters(*COUNTS)
  def test_half_floats_are_read_as_floats(self, name):
    half = jax.tree.map(lambda a: a.astype(jnp.float16), _grads())
    whole = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    np.testing.assert_array_equal(_infer(name, half), _infer(name, whole))

  def test_an_update_of_another_model(self):
    grads = _grads()
    grads['body']['kernel'] = grads['body']['kernel'].T
    with self.assertRaisesRegex(InputError, r"'body/kernel' of shape \(3, 2\)"):
      _infer('counts.llg', grads)
    grads['tail'] = grads.pop('body')
    with self.assertRaisesRegex(InputError, "'tail/kernel'.* lack it"):
      _infer('counts.llg', grads)

  def test_labels_of_the_attackers_own_are_one_hot(self):
    wrong = jnp.arange(K), jnp.eye(K)[:, :-1], jnp.eye(K)[:-1]
    for y in (*wrong, jnp.zeros((K, K)), 2 * jnp.eye(K) - 1 / K):
      known = _known(labelled=base.Labelled(jnp.ones((K, 2)), y))
      with self.assertRaisesRegex(InputError, 'one-hot labels'):
        _infer('counts.llg_plus', _grads(), known)

  def test_a_model_needs_its_variables(self):
    attack = attacks.load('counts.calibrated')
    with self.assertRaisesRegex(InputError, 'without view.variables'):
      attack.infer(KEY, hfl.View(_grads()), _known())

  def test_of_the_head_alone_a_learning_rate_tells_nothing(self):
    head, known = dict(head=_grads()['head']), _known(steps=3, lr=None)
    untold = _infer('counts.calibrated', head, known)
    told = _infer('counts.calibrated', head, _known(steps=3, lr=0.1))
    np.testing.assert_array_equal(told, untold)

  def test_gradients_are_in_floats(self):
    for dtype in (jnp.int32, jnp.complex64):
      grads = jax.tree.map(lambda a, d=dtype: a.astype(d), _grads())
      with self.assertRaisesRegex(InputError, f'of dtype {dtype.__name__}'):
        _infer('counts.llbg', grads)

  def test_numbers_of_any_library_are_numbers(self):
    want = hfl.Known(K, B, 2, lr=0.5, defense=(('clip', 0.25),))
    for cast in (np.array, jnp.asarray, np.float32):
      sizes = (np.int32(K), cast(B), cast(2))
      clip = (('clip', np.float32(0.25)),)
      known = hfl.Known(*sizes, lr=cast(0.5), defense=clip)
      self.assertEqual(known, want)
      self.assertIs(type(known.batch_size), int)
    with self.assertRaisesRegex(InputError, 'Known: num_rows=-3'):
      vfl.Known(num_classes=K, batch_size=B, num_rows=-3)

  def test_a_view_of_the_other_kind(self):
    with self.assertRaisesRegex(InputError, 'this view is for horizontal FL'):
      attacks.load('scores.direct').infer(
        KEY, hfl.View(_grads()), vfl.Known(num_classes=K, batch_size=B)
      )

  def test_a_bare_classifier_is_held_to_the_models(self):
    head, variables = _grads()['head'], {'params': _grads()}
    attack = attacks.load('counts.llbg')
    bare = attack.infer(KEY, hfl.View(head, variables), _known())
    np.testing.assert_array_equal(bare, _infer('counts.llbg', {'head': head}))
    wide = dict(head, kernel=jnp.ones((H + 1, K)))
    with self.assertRaisesRegex(InputError, r"'kernel' of shape \(4, 4\)"):
      attack.infer(KEY, hfl.View(wide, variables), _known())

  def test_rounds_are_not_classes(self):
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), _grads())
    with self.assertRaisesRegex(InputError, r'\(2, 4\).*vmap'):
      attacks.load('counts.llbg').infer(KEY, hfl.View(stacked), _known())

  @parameterized.parameters(0, [jnp.zeros(K + 1)], [jnp.zeros((B, K))])
  def test_an_answer_of_another_form(self, *answer):
    answer = answer[0]
    attack = base.attack(lambda *_: answer, name='mine')
    with self.assertRaisesRegex(InputError, r'mine returned .* counts \(4,\)'):
      attack.infer(KEY, hfl.View(_grads()), _known())


class VerticalTest(parameterized.TestCase):
  def _view(self, rows=B, width=K):
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.float32(rng.normal(size=shape))
    params = dict(head=dict(kernel=normal(H, width), bias=normal(width)))
    x = normal(rows, H)
    h = _linear(dict(params=params), x)
    grads = jax.tree.map(lambda a: 0.1 * a, params)
    index = jnp.arange(rows)
    cut = normal(rows, width)
    return vfl.View(x, h, dict(params=params), KEY, grads, cut, index)

  def _known(self, rows=B):
    bottom = lambda variables, x, key: _linear(variables, x)
    return vfl.Known(num_classes=K, batch_size=rows, bottom=bottom)

  @parameterized.product(
    name=(
      'scores.direct',
      'scores.random',
      'linear.expectation_propagation',
      'linear.last_layer',
    ),
    rows=(B - 1, B + 1),
  )
  def test_another_number_of_rows(self, name, rows):
    attack = attacks.load(name)
    self.assertEqual(
      attack.infer(KEY, self._view(rows), self._known(rows)).shape, (rows, K)
    )
    with self.assertRaisesRegex(InputError, f'{name}: .*batch_size'):
      attack.infer(KEY, self._view(rows), self._known())

  def test_one_logit_of_three_classes(self):
    known = vfl.Known(num_classes=3, batch_size=B)
    with self.assertRaisesRegex(
      InputError, 'width 1 for 3 classes: scores.direct'
    ):
      attacks.load('scores.direct').infer(KEY, self._view(width=1), known)

  @parameterized.parameters('cut_grads', 'h', 'param_grads')
  def test_entries_that_are_not_finite_are_named(self, field):
    broken = jax.tree.map(
      lambda a: a.at[0].set(jnp.inf), getattr(self._view(), field)
    )
    view = self._view()._replace(**{field: broken})
    attack = attacks.load('scores.direct')
    with self.assertRaisesRegex(InputError, field):
      attack.infer(KEY, view, self._known())
    scores = jax.jit(lambda view: attack.infer(KEY, view, self._known()))(view)
    self.assertTrue(np.isnan(scores).all())

  def test_gradients_of_other_parameters(self):
    view = self._view()
    grads = dict(head=dict(kernel=jnp.zeros((H, K + 1))))
    with self.assertRaisesRegex(InputError, 'param_grads has .head/kernel'):
      attacks.load('linear.last_layer').infer(
        KEY, view._replace(param_grads=grads), self._known()
      )


if __name__ == '__main__':
  absltest.main()
