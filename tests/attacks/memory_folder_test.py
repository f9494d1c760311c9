"""Memories on disk: the same scores, whatever is stopped between."""

import collections
import functools
import json
import pathlib
import sys
from typing import Any, NamedTuple
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import vfl
from labelleak.attacks import history, over_time
from labelleak.attacks.memory_folder import MemoryFolder
from labelleak.base import InputError, Pool
from labelleak.runs import files

KEY = jax.random.key(0)
N, B, K = 60, 20, 3


class _Memory(NamedTuple):
  known: Any
  values: Any
  flag: bool = True


def _views(epochs=2):
  """(known, views) of noisy cut gradients of well separated classes."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, K, N)
  x = np.float32(4 * np.eye(K)[y] + rng.normal(size=(N, K)))
  known = vfl.Known(
    num_classes=K, batch_size=B, num_rows=N, pool=Pool(lambda i: x[i], N)
  )
  views = []
  for number, rows in enumerate(
    np.tile(np.arange(N).reshape(-1, B), (epochs, 1))
  ):
    cut = 1 / K - np.eye(K)[y[rows]] + rng.normal(size=(B, K))
    key = jax.random.fold_in(KEY, number)
    cut = np.float32(cut / B)
    views.append(vfl.View(None, None, None, key, None, cut, rows))
  return known, views


class MemoryFolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path, 'memory')

  def _back(self, memory, start):
    MemoryFolder(self.path, start).save(memory)
    return MemoryFolder(self.path, start).load()

  @parameterized.parameters(
    history.gaussian_process,
    history.classifier,
    lambda: over_time.average('scores.direct'),
  )
  def test_an_attack_goes_on_where_it_stopped(self, build):
    known, views = _views()
    attack = build()
    whole = attack.init(known)
    for view in views:
      whole = attack.observe(whole, view)
    want = np.asarray(attack.infer(KEY, whole, known))
    for view in views:  # a new process each step
      folder = MemoryFolder(self.path, attack.init(known))
      folder.save(attack.observe(folder.load(), view))
    memory = MemoryFolder(self.path, attack.init(known)).load()
    self.assertIs(memory.known, known)
    got = np.asarray(attack.infer(KEY, memory, known))
    np.testing.assert_array_equal(got, want)

  def test_what_has_not_changed_is_written_once(self):
    known, views = _views()
    attack = history.gaussian_process()
    start = memory = attack.init(known)
    folder = MemoryFolder(self.path, start)
    for view in views:
      times = {f: f.stat().st_mtime_ns for f in self.path.glob('*.npy')}
      memory = attack.observe(memory, view)
      folder.save(memory)
      after = {f: f.stat().st_mtime_ns for f in self.path.glob('*.npy')}
      self.assertEqual(times, {f: after[f] for f in times})
      self.assertLen(after, len(times) + 2)
    folder.save(start)
    self.assertEmpty(list(self.path.glob('*.npy')))

  def test_values_come_back_as_they_were(self):
    array = jnp.arange(6.0).reshape(2, 3)
    large = np.arange(300_000.0).reshape(2, -1)  # which is mapped
    values = (1, 2.5, None, 'name', True, [1, (2,)], {'a': {}}, float('nan'))
    arrays = (array, large, np.zeros((0, 3), np.float16), np.float32(2.5))
    memory = _Memory(len, {'values': values, 'arrays': arrays, 'f': len}, False)
    got = self._back(memory, _Memory(len, {'f': len}))
    self.assertIs(got.known, len)
    self.assertIs(got.flag, False)
    self.assertEqual(repr(got.values['values']), repr(values))
    self.assertIs(got.values['f'], len)
    for back, value in zip(got.values['arrays'], arrays, strict=True):
      np.testing.assert_array_equal(back, value)
      self.assertEqual(back.dtype, value.dtype)
    self.assertIsInstance(got.values['arrays'][0], jax.Array)
    self.assertIsInstance(got.values['arrays'][1], np.memmap)
    self.assertIs(type(got.values['arrays'][3]), np.float32)

  def test_what_is_written_is_not_changed_in_place(self):
    memory = _Memory(None, np.zeros(3))
    back = self._back(memory, _Memory(None, None))
    for array in (memory.values, back.values):
      with self.assertRaisesRegex(ValueError, 'read-only'):
        array[0] = 1.0

  def test_a_kill_while_it_writes_leaves_the_last_memory(self):
    start = _Memory(None, None)
    first, second = (_Memory(None, np.full(3, v)) for v in (1.0, 2.0))
    MemoryFolder(self.path, start).save(first)
    with (
      mock.patch.object(files, 'replace', side_effect=KeyboardInterrupt),
      self.assertRaises(KeyboardInterrupt),
    ):
      MemoryFolder(self.path, start).save(second)
    self.assertLen(list(self.path.glob('*.npy')), 2)
    memory = MemoryFolder(self.path, start).load()
    np.testing.assert_array_equal(memory.values, first.values)
    np.testing.assert_array_equal(self._back(second, start).values, 2.0)
    self.assertLen(list(self.path.glob('*.npy')), 1)

  def test_many_arrays_hold_no_files_open(self):
    many = tuple(np.full(2, i) for i in range(300))
    open_files = pathlib.Path('/proc/self/fd')
    before = len(list(open_files.iterdir()))
    memory = self._back(_Memory(None, many), _Memory(None, None))
    self.assertLess(len(list(open_files.iterdir())), before + 20)
    np.testing.assert_array_equal(memory.values[299], 299)

  def test_nothing_was_kept_or_by_another(self):
    start = _Memory(None, None)
    self.assertIs(MemoryFolder(self.path, start).load(), start)
    MemoryFolder(self.path, start, 'one').save(_Memory(None, np.ones(2)))
    (self.path / 'mine.npy').write_bytes(b'')
    self.assertIs(MemoryFolder(self.path, start, 'other').load(), start)
    (self.path / '0.npy').unlink()  # damage does not matter then
    self.assertIs(MemoryFolder(self.path, start, 'other').load(), start)

  def test_refuses_what_is_damaged_or_no_memory(self):
    MemoryFolder(self.path, None).save(_Memory(None, np.arange(50.0)))
    index = self.path / 'memory.json'
    (file,) = self.path.glob('*.npy')
    tree = json.loads(index.read_bytes())
    other = {**tree, 'memory': {'type': ['os', 'system'], 'fields': {}}}
    absent = {**tree, 'memory': {'type': ['no.such', 'X'], 'fields': {}}}
    fields = {'type': tree['memory']['type'], 'fields': {'unknown': 1}}
    nowhere = {'tuple': [{'given': True}]}
    contents = file.read_bytes()
    for damage in (
      lambda: file.write_bytes(contents[:-9]),
      file.unlink,
      lambda: file.write_bytes(b''),
      lambda: index.write_text('{'),
      lambda: index.write_text('[]'),
      lambda: index.write_text(json.dumps(other)),
      lambda: index.write_text(json.dumps(absent)),
      *(
        functools.partial(
          index.write_text, json.dumps({**tree, 'memory': memory})
        )
        for memory in (fields, nowhere, {}, [], {'set': []})
      ),
    ):
      file.write_bytes(contents)
      index.write_text(json.dumps(tree))
      damage()
      with self.assertRaisesRegex(InputError, 'damaged or .*remove it'):
        MemoryFolder(self.path, None).load()
    self.assertNotIn('no.such', sys.modules)
    index.write_text(json.dumps(tree))
    with (
      mock.patch.object(
        np, 'load', side_effect=OSError(24, 'Too many open files')
      ),
      self.assertRaisesRegex(InputError, 'cannot be read: Too many'),
    ):
      MemoryFolder(self.path, None).load()

  def test_refuses_what_it_would_not_give_back(self):
    local = collections.namedtuple('Local', 'a')
    for value, name in (
      (jax.random.key(0), 'an array of key'),
      (np.array([object()]), 'an array of object'),
      (jnp.zeros(2, jnp.bfloat16), 'an array of bfloat16'),
      (np.ma.masked_array([1, 2], [0, 1]), 'a MaskedArray'),
      ({1, 2}, 'a set'),
      ({1: 2}, 'a dict'),
      (len, 'a builtin_function'),
      (local(1), 'a Local that no module holds'),
    ):
      with self.assertRaisesRegex(InputError, f'holds {name}.*no folder keeps'):
        MemoryFolder(self.path, None).save(_Memory(None, value))


if __name__ == '__main__':
  absltest.main()
