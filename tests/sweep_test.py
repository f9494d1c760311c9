"""Grids of points, and trials spread over chunks and devices."""

import threading
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path
import numpy as np

from configs import llbg_vit
from labelleak import spec, sweep
from labelleak.base import InputError


def _config(*axes):
  return ConfigDict(
    dict(
      lr=1e-3,
      batch_size=64,
      model=dict(name='mlp.mlp', width=8),
      attacks=(dict(name='a', gamma=0.1),),
      sweep=axes,
    )
  ).lock()


class MapTest(absltest.TestCase):
  def test_what_was_finished_is_not_run_again(self):
    runs, texts = [], []

    def trial(t):
      runs.append(t)
      return dict(value=t / 3, pair=(t, float(np.float32(0.1))))

    def keep(num, values):
      self.assertEqual((num, values.shape), (1, (1,)))
      texts.append(values)
      if len(texts) == 2:
        raise KeyboardInterrupt

    with self.assertRaises(KeyboardInterrupt):
      sweep.map_trials(trial, 4, callback=keep)
    values = sweep.map_trials(trial, 4, finished=[np.concatenate(texts)])
    self.assertEqual(runs, [0, 1, 2, 3])
    self.assertEqual(values, sweep.map_trials(trial, 4))  # to the bit
    self.assertEqual(values[1]['value'], 1 / 3)
    self.assertEqual(values[2]['pair'], [2, float(np.float32(0.1))])
    self.assertEqual(
      sweep.map_trials(trial, 2, finished=[np.array(['1', '2'])]), [1, 2]
    )


class GridTest(parameterized.TestCase):
  def test_no_sweep_is_the_config_itself(self):
    ((point, full),) = sweep.grid(_config())
    self.assertEqual(point, {})
    self.assertEqual(full.to_dict(), _config().to_dict())

  def test_product_in_order_the_last_axis_fastest(self):
    config = _config(('batch_size', (1, 2)), ('model.width', (3, 4)))
    points = [(f.batch_size, f.model.width) for _, f in sweep.grid(config)]
    self.assertEqual(points, [(1, 3), (1, 4), (2, 3), (2, 4)])

  def test_paths_that_move_together(self):
    paths = 'batch_size', 'model'
    config = _config((paths, ((1, dict(name='x')), (2, dict(name='y', n=3)))))
    points, full = zip(*sweep.grid(config))
    self.assertEqual([f.model.name for f in full], ['x', 'y'])
    self.assertEqual(
      points,
      (
        {'batch_size': 1, 'model': dict(name='x')},
        {'batch_size': 2, 'model': dict(name='y', n=3)},
      ),
    )
    self.assertNotIn('width', full[0].model)  # replaced, not merged

  def test_dicts_whose_fields_move_together(self):
    config = _config(
      ({'batch_size': 1, 'model.width': 3}, {'model.width': 4}, {'lr': 0.1})
    )
    points, full = zip(*sweep.grid(config))
    self.assertEqual(
      points,
      (
        {'batch_size': 1, 'model.width': 3, 'lr': 1e-3},
        {'batch_size': 64, 'model.width': 4, 'lr': 1e-3},
        {'batch_size': 64, 'model.width': 8, 'lr': 0.1},
      ),
    )
    self.assertEqual([f.batch_size for f in full], [1, 64, 64])

  def test_points_share_nothing(self):
    config = _config(('attacks[0]["gamma"]', (0.5, 0.7)))
    full = [f for _, f in sweep.grid(config)]
    self.assertEqual([f.attacks[0]['gamma'] for f in full], [0.5, 0.7])
    self.assertEqual(config.attacks[0]['gamma'], 0.1)

  @parameterized.parameters(
    ((('batchsize', (1,)),), 'batchsize'),
    ((('model.depth', (1,)),), 'model.depth'),
    ((('attacks[3]["gamma"]', (1,)),), r'attacks\[3\]'),
    ((('batch_size', (1.5,)),), 'batch_size=1.5'),
    (('batch_size',), 'pair'),
    ((({'batchsize': 1}, {'lr': 0.1}),), 'batchsize'),
    (((('lr', 'batch_size'), ((0.1,),)),), 'one part for each'),
    ((('lr', (0.1, 0.1)),), 'twice'),
  )
  def test_bad_sweeps_are_named(self, axes, message):
    with self.assertRaisesRegex(InputError, message):
      list(sweep.grid(_config(*axes)))


def _trial(key, item, shared):
  return {
    'noise': jax.random.normal(key),
    'dot': item['x'] @ shared,
    'grad': jax.grad(lambda s: jnp.sum(jnp.sin(item['x'] @ s)))(shared),
  }


def _inputs(num):
  x = jax.random.normal(jax.random.key(4), (num, 5))
  shared = jnp.arange(10.0).reshape(5, 2)
  return {'x': np.asarray(x)}, shared


KEY = jax.random.key(3)


class OverrideTest(parameterized.TestCase):
  def _points(self, config, path, value):
    config_path.set_value(path, config, value)
    self.notes = sweep.override(config, {path: value})
    return [full for _, full in sweep.grid(config)]

  @parameterized.parameters(
    ('model.name', 'cnn.cnn', 3),
    ('dataset.name', 'mnist', 3),
    ('attacks', (dict(name='counts.ebi'),), 3),
    ('train', dict(steps=9), 3),
    ('per_class_cap', 7, 3),
    ('stands_for.data', 'cifar100', 3),
    ('batch_size', 12, 3),
  )
  def test_a_field_set_by_hand_is_that_of_every_point(self, path, value, num):
    points = self._points(llbg_vit.get_config(), path, value)
    self.assertLen(points, num)
    for full in points:
      at_point = config_path.get_value(path, full)
      self.assertEqual(spec.plain(at_point), spec.plain(value))
    swept = path != 'batch_size'
    self.assertLen(self.notes, swept)
    if swept:
      self.assertStartsWith(self.notes[0], f'{path}={value!r} wins')

  def test_other_axes_stay_as_they_are(self):
    config = llbg_vit.get_config()
    before = config.sweep
    self.assertEmpty(sweep.override(config, {'trials': 3}))
    self.assertEqual(config.sweep, before)

  def test_points_that_become_equal_are_one(self):
    config = ConfigDict(
      dict(
        model=dict(name='a', width=1),
        sweep=(('model', (dict(name='b', width=1), dict(name='c', width=1))),),
      )
    )
    (point,) = self._points(config, 'model.name', 'd')
    self.assertEqual(point.model.to_dict(), dict(name='d', width=1))

  def test_axes_that_move_together_keep_the_others(self):
    config = ConfigDict(
      dict(lr=1.0, size=1, sweep=((('lr', 'size'), ((0.1, 2), (0.2, 3))),))
    )
    points = self._points(config, 'lr', 9.0)
    self.assertEqual([(p.lr, p.size) for p in points], [(9.0, 2), (9.0, 3)])

  def test_a_whole_wins_over_the_sweep_of_a_part(self):
    config = ConfigDict(
      dict(model=dict(width=1), sweep=(('model.width', (2, 3)),))
    )
    (point,) = self._points(config, 'model', dict(width=5))
    self.assertEqual(point.model.width, 5)

  def test_what_cannot_be_meant_is_refused(self):
    config = ConfigDict(dict(train=None, sweep=(('train', (None, 3)),)))
    with self.assertRaisesRegex(InputError, 'train.steps=5 cannot be set by'):
      sweep.override(config, {'train.steps': 5})
    fields = {'train': 5, 'sweep': config.sweep}
    with self.assertRaisesRegex(InputError, 'both set by hand'):
      sweep.override(config, fields)


class RunTrialsTest(parameterized.TestCase):
  @parameterized.product(
    num=[1, 3, 4, 7, 10], per_device=[None, 1, 2], devices=[1, 4]
  )
  def test_equals_a_loop_on_any_number_of_devices(
    self, num, per_device, devices
  ):
    self.assertGreaterEqual(jax.device_count(), 4)
    items, shared = _inputs(num)
    with mock.patch.object(
      jax, 'devices', return_value=jax.local_devices()[:devices]
    ):
      out = sweep.run_trials(
        _trial, KEY, num, items, shared, per_device=per_device
      )
    keys = sweep.trial_keys(KEY, num)
    loop = [_trial(keys[i], {'x': items['x'][i]}, shared) for i in range(num)]
    expected = jax.tree.map(lambda *rows: np.stack(rows), *loop)
    chex.assert_trees_all_close(out, expected, rtol=1e-5, atol=1e-5)

  @parameterized.parameters(1, 4)
  def test_lazy_inputs_are_built_for_one_chunk_at_a_time(self, devices):
    items, shared = _inputs(10)
    asked, done = [], []

    def build(index):
      asked.append(len(index))
      return jax.tree.map(lambda a: a[index], items)

    with mock.patch.object(
      jax, 'devices', return_value=jax.local_devices()[:devices]
    ):
      lazy = sweep.run_trials(
        _trial,
        KEY,
        10,
        build,
        shared,
        per_device=1,
        callback=lambda num, _: done.append(num),
      )
      eager = sweep.run_trials(_trial, KEY, 10, items, shared, per_device=1)
    chex.assert_trees_all_equal(lazy, eager)
    self.assertEqual(set(asked), {devices})
    self.assertEqual(sum(done), 10)
    self.assertLen(done, -(-10 // devices))

  @parameterized.parameters((1, 10, 4), (2, 10, 8), (8, 10, 12), (8, 1, 4))
  def test_a_chunk_is_no_wider_than_allowed_or_of_use(
    self, per_device, trials, width
  ):
    """On four devices, each with as many trials."""
    items, shared = _inputs(trials)
    asked = []

    def build(index):
      asked.append(len(index))
      return jax.tree.map(lambda a: a[index], items)

    with mock.patch.object(
      jax, 'devices', return_value=jax.local_devices()[:4]
    ):
      sweep.run_trials(
        _trial, KEY, trials, build, shared, per_device=per_device
      )
    self.assertEqual(asked, [width] * -(-trials // width))

  def test_work_is_sharded_over_all_devices(self):
    items, shared = _inputs(8)
    text = []

    def trial(key, item, shared):
      jax.debug.inspect_array_sharding(item['x'], callback=text.append)
      return item['x'].sum()

    sweep.run_trials(trial, KEY, 8, items, shared, per_device=2)
    used = {d for sharding in text for d in sharding.device_set}
    self.assertLen(used, jax.device_count())

  def test_a_cpu_runs_trials_side_by_side(self):
    items, shared = _inputs(6)
    meet = threading.Barrier(3)  # breaks, and the test fails, if one is alone

    def met(x):
      meet.wait(timeout=30)
      return x

    def trial(key, item, shared):
      x = item['x'][0]
      return jax.pure_callback(met, jax.ShapeDtypeStruct((), x.dtype), x)

    with mock.patch.object(
      jax, 'devices', return_value=jax.local_devices()[:1]
    ):
      out = sweep.run_trials(trial, KEY, 6, items, shared, per_device=3)
    np.testing.assert_array_equal(out, items['x'][:, 0])

  @parameterized.product(done=[1, 4, 10], devices=[1, 4])
  def test_goes_on_from_finished_trials(self, done, devices):
    items, shared = _inputs(10)
    ran = []

    def build(index):
      ran.extend(index)
      return jax.tree.map(lambda a: a[index], items)

    with mock.patch.object(
      jax, 'devices', return_value=jax.local_devices()[:devices]
    ):
      whole = sweep.run_trials(_trial, KEY, 10, items, shared)
      told = []
      rest = sweep.run_trials(
        _trial,
        KEY,
        10,
        build,
        shared,
        finished=[leaf[:done] for leaf in jax.tree.leaves(whole)],
        callback=lambda num, values: told.append((num, values['dot'])),
      )
    chex.assert_trees_all_equal(rest, whole)
    self.assertEqual(sum(num for num, _ in told), 10 - done)
    if told:
      dots = np.concatenate([dot for _, dot in told])
      np.testing.assert_array_equal(dots, whole['dot'][done:])
    # The first ones are asked for their shapes alone.
    self.assertEqual(
      set(ran) - set(range(devices)), set(range(done, 10)) - set(range(devices))
    )

  def test_says_when_it_compiles(self):
    items, shared = _inputs(3)
    told = []
    sweep.run_trials(
      _trial,
      KEY,
      3,
      items,
      shared,
      callback=lambda num, _: told.append(num),
      tell_compile=told.append,
    )
    self.assertEqual(told[:2], [True, False])
    self.assertEqual(sum(told[2:]), 3)

  def test_a_failing_trial_ends_the_run(self):
    items, shared = _inputs(40)
    asked = []

    def build(index):
      asked.append(index)
      if len(asked) == 5:
        raise InputError('no fifth trial.')
      return jax.tree.map(lambda a: a[index], items)

    with (
      mock.patch.object(jax, 'devices', return_value=jax.local_devices()[:1]),
      self.assertRaisesRegex(InputError, 'no fifth'),
    ):
      sweep.run_trials(_trial, KEY, 40, build, shared)
    self.assertLen(asked, 5)

  def test_per_device_must_be_positive(self):
    with self.assertRaisesRegex(InputError, 'per_device=0'):
      sweep.run_trials(_trial, KEY, 2, *_inputs(2), per_device=0)
