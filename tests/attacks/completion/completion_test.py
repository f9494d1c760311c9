"""Model completion: what is trained, and what predicts."""

import dataclasses

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import attacks, base, models, train, vfl
from labelleak.attacks.completion import batches, learners
from labelleak.base import InputError

_QUICK = dict(epochs=3, iterations=100, ema=0.98)


def _party(name='mlp.fcnn', width=4, **options):
  model = models.load(name, num_classes=width, **options)
  return vfl.party(model, optax.sgd(0.1))


def _known(rng, party, num_classes=3, held=60, labelled=18, features=5):
  """Features of Gaussian classes, far apart."""
  y = np.arange(held + labelled) % num_classes
  x = rng.normal(size=(len(y), features)) + 6 * np.eye(features)[y]
  x = x.astype(np.float32)
  one_hot = np.eye(num_classes, dtype=np.float32)
  pool = x[labelled:]
  known = vfl.Known(
    num_classes=num_classes,
    batch_size=16,
    party=party,
    pool=base.Pool(lambda index: pool[index], held),
    labelled=base.Labelled(x[:labelled], one_hot[y[:labelled]]),
  )
  return known, pool, y[labelled:]


class DrawTest(parameterized.TestCase):
  def test_passes_drop_their_last_rows(self):
    index = train.whole_batches(10, 4, np.arange(1, 7), (0,))
    self.assertEqual(index.shape, (6, 4))
    for i in range(0, 6, 2):
      self.assertLen(set(index[i : i + 2].ravel().tolist()), 8)  # a pass
    self.assertGreater(len({tuple(i) for i in index.tolist()}), 4)
    again = train.whole_batches(10, 4, np.arange(4, 7), (0,))
    np.testing.assert_array_equal(again, index[3:])

  def test_labels_stay_with_their_rows(self):
    x = np.arange(12.0)[:, None]
    y = np.eye(12)[np.arange(12)]
    pool = base.Pool(lambda index: 100.0 + index[:, None], 50)
    labelled, numbers = base.Labelled(x, y), np.arange(1, 6)
    batch = batches.draw(pool, labelled, (4, 4), numbers, (1, 2))
    np.testing.assert_array_equal(batch.y.argmax(-1), batch.x[..., 0])
    self.assertEqual(batch.u.shape, (5, 4, 1))
    self.assertTrue((batch.u >= 100).all())
    self.assertLen(set(batch.u.ravel().tolist()), 20)  # within one pass
    again = batches.draw(pool, labelled, (4, 4), numbers[3:], (1, 2))
    np.testing.assert_array_equal(again.u, batch.u[3:])
    other = batches.draw(pool, labelled, (4, 4), numbers, (1, 3))
    self.assertFalse(np.array_equal(other.u, batch.u))


class LearnersTest(parameterized.TestCase):
  @parameterized.parameters('head', 'all')
  def test_what_is_trained(self, tune):
    party = _party(widths=(6,), batch_norm=True)
    known, _, _ = _known(np.random.default_rng(0), party)
    options = learners.options(tune=tune, iterations=5, epochs=1)
    model = learners.semi_supervised(party, 3, options)
    stolen = party.init(jax.random.key(5), known.labelled.x[:1])
    state = model.init(jax.random.key(0), stolen, known.labelled.x[:1])
    numbers = np.arange(1, 6)
    drawn = batches.draw(known.pool, known.labelled, (16, 16), numbers, (0,))
    end, _ = jax.lax.scan(model.step, state, drawn)
    logits = model.predict(end, stolen, known.labelled.x)
    self.assertEqual(logits.shape, (len(known.labelled.x), 3))
    if tune == 'head':
      # Statistics drift, parameters do not, and neither is what predicts.
      chex.assert_trees_all_equal(end.frozen['params'], stolen['params'])
      old, new = (v['batch_stats']['bn0']['mean'] for v in (stolen, end.frozen))
      self.assertGreater(float(jnp.abs(old - new).max()), 1e-3)
      drifted = jax.tree.map(lambda a: a + 1.0, end.frozen)
      same = model.predict(
        end._replace(frozen=drifted), stolen, known.labelled.x
      )
      np.testing.assert_array_equal(same, logits)
      self.assertEqual(set(end.average['params']), {'bn0', 'head'})
    else:
      moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()),
        end.trained['params']['bottom'],
        stolen['params'],
      )
      self.assertGreater(min(jax.tree.leaves(moved)), 0)
      other = party.init(jax.random.key(6), known.labelled.x[:1])
      same = model.predict(end, other, known.labelled.x)
      np.testing.assert_array_equal(same, logits)

  @parameterized.parameters(1, 3, 5)
  def test_heads(self, layers):
    """All weights one: the bias alone decides at the start."""
    head = models.load('mlp.inference_head', num_classes=4, layers=layers)
    h = jax.random.normal(jax.random.key(1), (7, 6))
    variables = head.init(jax.random.key(0), h)
    params = variables['params']
    count = 6 * 4 + 4 + (layers - 1) * (36 + 6) + layers * 12
    self.assertEqual(sum(a.size for a in jax.tree.leaves(params)), count)
    logits = head.apply(variables, h) - params['head']['bias'][None]
    np.testing.assert_allclose(
      logits, logits[:, :1] * np.ones((1, 4)), rtol=1e-4
    )

  def test_random_heads_differ(self):
    h = jax.random.normal(jax.random.key(1), (7, 6))
    for init in ('he', 'torch'):
      head = models.load('mlp.inference_head', num_classes=4, init=init)
      variables = head.init(jax.random.key(0), h)
      self.assertGreater(
        float(variables['params']['head']['kernel'].std()), 0.1
      )

  @parameterized.parameters(
    (dict(layers=6), 'layers=6'),
    (dict(activation='gelu'), "activation='gelu'"),
    (dict(init='zeros'), "init='zeros'"),
    (dict(tune='bottom'), "tune='bottom'"),
    (dict(epochs=0), 'epochs=0'),
    (dict(temperature=-1.0), 'temperature=-1.0'),
    (dict(lamda=3.0), "takes no 'lamda'"),
  )
  def test_bad_options(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      attacks.load('completion.passive', **options)


class AttacksTest(parameterized.TestCase):
  def _fitted(self, name, known, variables=None, key=0, **options):
    attack = attacks.load(name, **options)
    attack.check(known)
    view = vfl.View(None, None, variables, None, None, None)
    epochs = []
    predict = attack.fit(
      jax.random.key(key), view, known, lambda e, _: epochs.append(e)
    )
    self.assertEqual(epochs, list(range(1, options['epochs'] + 1)))
    return predict

  def test_clear_classes_are_named_by_a_separating_bottom(self):
    """The bottom tells the classes apart; the head has to name them."""
    party = _party('mlp.linear', width=3)
    known, x, y = _known(np.random.default_rng(0), party)
    kernel = jnp.eye(5, 3)[:, jnp.array([2, 0, 1])]
    stolen = {'params': {'head': {'kernel': kernel, 'bias': jnp.zeros(3)}}}
    predict = self._fitted('completion.passive', known, stolen, **_QUICK)
    self.assertGreater((predict(x).argmax(-1) == y).mean(), 0.95)

  def test_pure_noise_is_chance(self):
    """Features that say nothing: 1/K within 4 standard errors."""
    party = _party('mlp.linear', width=3)
    rng = np.random.default_rng(0)
    known, _, _ = _known(rng, party)
    x = rng.normal(size=(900, 5)).astype(np.float32)
    y = np.arange(900) % 3
    noise = rng.normal(size=(18, 5)).astype(np.float32)
    known = dataclasses.replace(
      known, labelled=known.labelled._replace(x=noise)
    )
    stolen = party.init(jax.random.key(0), x[:1])
    predict = self._fitted('completion.passive', known, stolen, **_QUICK)
    accuracy = (predict(x).argmax(-1) == y).mean()
    self.assertAlmostEqual(accuracy, 1 / 3, delta=4 * (2 / 9 / 900) ** 0.5)

  def test_supervised_sees_all_labels(self):
    party = _party('mlp.fcnn', widths=(8,), width=3)
    known, x, y = _known(np.random.default_rng(0), party)
    options = dict(epochs=30, batch_size=16)
    attack = attacks.load('completion.supervised', **options)
    with self.assertRaisesRegex(InputError, "needs 'labels'"):
      attack.check(known)
    with self.assertRaisesRegex(InputError, '18 labels of 60 rows'):
      attack.check(dataclasses.replace(known, labels=known.labelled.y))
    known = dataclasses.replace(known, labels=np.eye(3, dtype=np.float32)[y])
    predict = self._fitted('completion.supervised', known, **options)
    self.assertGreater((predict(x).argmax(-1) == y).mean(), 0.95)

  def test_renamed_classes_rename_what_is_predicted(self):
    """Labels (0 1 2) -> (1 2 0): so do the scores, up to the bias's draw."""
    party = _party('mlp.linear', width=3)
    known, x, _ = _known(np.random.default_rng(0), party)
    stolen = party.init(jax.random.key(0), x[:1])
    first = self._fitted('completion.passive', known, stolen, **_QUICK)(x)
    labelled = known.labelled._replace(y=np.roll(known.labelled.y, 1, axis=1))
    renamed = dataclasses.replace(known, labelled=labelled)
    second = self._fitted('completion.passive', renamed, stolen, **_QUICK)(x)
    agree = (np.argmax(first, 1) + 1) % 3 == np.argmax(second, 1)
    self.assertGreater(agree.mean(), 0.9)

  @parameterized.parameters(
    (dict(party=None), "needs 'party'"),
    (dict(pool=None), "needs 'pool'"),
    (
      dict(labelled=base.Labelled(np.zeros((3, 5), np.float32), np.eye(3))),
      r'batch_size=16 must be .* in 1\.\.3; the 3 labelled',
    ),
  )
  def test_grants(self, fields, message):
    known, _, _ = _known(np.random.default_rng(0), _party())
    known = dataclasses.replace(known, **fields)
    for name in ('passive', 'active', 'semi_supervised'):
      with self.assertRaisesRegex(InputError, message):
        attacks.load(f'completion.{name}').check(known)

  def test_tokens_are_refused(self):
    known, _, _ = _known(np.random.default_rng(0), _party())
    take, x = known.pool.take, known.labelled.x.astype(np.int32)
    known = dataclasses.replace(
      known,
      labelled=known.labelled._replace(x=x),
      pool=base.Pool(lambda index: take(index).astype(np.int32), 60),
    )
    with self.assertRaisesRegex(InputError, 'cannot be mixed'):
      attacks.load('completion.passive').check(known)

  def test_active_shares_a_run_where_its_optimizer_is_the_same(self):
    one, other, third = (
      attacks.load('completion.active', **options).optimizer
      for options in ({}, dict(layers=2), dict(r_max=1.0))
    )
    self.assertIs(one, other)
    self.assertIsNot(one, third)
    self.assertIsNone(attacks.load('completion.passive').optimizer)
    with self.assertRaisesRegex(InputError, "reading='new'"):
      attacks.load('completion.active', reading='new')


if __name__ == '__main__':
  absltest.main()
