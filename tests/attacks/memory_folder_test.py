"""Memories on disk: the same scores, whatever is stopped between."""

import json
import pathlib
import sys
from typing import Any, NamedTuple

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import vfl
from labelleak.attacks import history, over_time
from labelleak.attacks.memory_folder import MemoryFolder
from labelleak.base import InputError, Pool

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
    for number, view in enumerate(views):  # a new process each step
      folder = MemoryFolder(self.path)
      memory, facts = folder.load(attack.init(known))
      self.assertEqual(facts, dict(number=number) if number else {})
      memory = attack.observe(memory, view)
      folder.save(memory, dict(number=number + 1))
    memory, _ = MemoryFolder(self.path).load(attack.init(known))
    self.assertIs(memory.known, known)
    got = np.asarray(attack.infer(KEY, memory, known))
    np.testing.assert_array_equal(got, want)

  def test_what_has_not_changed_is_written_once(self):
    known, views = _views()
    attack, folder = history.gaussian_process(), MemoryFolder(self.path)
    memory = attack.init(known)
    for view in views:
      times = {f: f.stat().st_mtime_ns for f in self.path.glob('*.npy')}
      memory = attack.observe(memory, view)
      folder.save(memory)
      after = {f: f.stat().st_mtime_ns for f in self.path.glob('*.npy')}
      self.assertEqual(times, {f: after[f] for f in times})
      self.assertLen(after, len(times) + 2)
    folder.save(attack.init(known))
    self.assertEmpty(list(self.path.glob('*.npy')))

  def test_values_come_back_as_they_were(self):
    array = jnp.arange(6.0).reshape(2, 3)
    values = (
      1,
      2.5,
      None,
      'name',
      True,
      array,
      {'a': (array, np.int64(3))},
      (),
    )
    nothing = np.zeros((0, 3), np.float16)
    MemoryFolder(self.path).save(_Memory(len, [values, nothing], False))
    (got, _) = MemoryFolder(self.path).load(_Memory(print, None))
    self.assertIs(got.known, print)
    self.assertIs(got.flag, False)
    back, empty = got.values
    self.assertEqual(back[:5], values[:5])
    np.testing.assert_array_equal(back[5], array)
    np.testing.assert_array_equal(back[6]['a'][0], array)
    self.assertEqual(back[6]['a'][1], 3)
    self.assertEqual(back[7], ())
    self.assertEqual((empty.shape, empty.dtype), ((0, 3), np.float16))

  def test_a_kill_while_it_writes_leaves_the_last_memory(self):
    first, second = (_Memory(None, np.full(3, v)) for v in (1.0, 2.0))
    MemoryFolder(self.path).save(first)
    index = (self.path / 'memory.json').read_bytes()
    (old,) = self.path.glob('*.npy')
    kept = old.read_bytes()
    MemoryFolder(self.path).save(second)
    old.write_bytes(kept)  # as if killed before the index was replaced
    (self.path / 'memory.json').write_bytes(index)
    memory, _ = MemoryFolder(self.path).load(second)
    np.testing.assert_array_equal(memory.values, first.values)

  def test_nothing_was_kept(self):
    start = _Memory(None, None)
    memory, facts = MemoryFolder(self.path).load(start)
    self.assertIs(memory, start)
    self.assertEqual(facts, {})

  def test_refuses_what_is_damaged_or_no_memory(self):
    MemoryFolder(self.path).save(_Memory(None, np.arange(50.0)))
    index = self.path / 'memory.json'
    (file,) = self.path.glob('*.npy')
    tree = json.loads(index.read_bytes())
    other = {**tree, 'memory': {'type': ['os', 'system'], 'fields': {}}}
    absent = {**tree, 'memory': {'type': ['no.such', 'X'], 'fields': {}}}
    fields = {'type': tree['memory']['type'], 'fields': {'unknown': 1}}
    contents = file.read_bytes()
    for damage in (
      lambda: file.write_bytes(contents[:-9]),
      file.unlink,
      lambda: file.write_bytes(b''),
      lambda: index.write_text('{'),
      lambda: index.write_text('[]'),
      lambda: index.write_text(json.dumps(other)),
      lambda: index.write_text(json.dumps(absent)),
      lambda: index.write_text(json.dumps({**tree, 'memory': fields})),
      lambda: index.write_text(json.dumps({**tree, 'memory': {}})),
    ):
      file.write_bytes(contents)
      index.write_text(json.dumps(tree))
      damage()
      with self.assertRaisesRegex(InputError, 'damaged or .*remove it'):
        MemoryFolder(self.path).load(_Memory(None, None))
    self.assertNotIn('no.such', sys.modules)

  def test_refuses_what_it_would_not_give_back(self):
    for value, name in (
      (jax.random.key(0), 'array of key'),
      (np.array([object()]), 'array of object'),
      ({1, 2}, 'set'),
    ):
      with self.assertRaisesRegex(InputError, f'holds {name}.*no folder keeps'):
        MemoryFolder(self.path).save(_Memory(None, value))


if __name__ == '__main__':
  absltest.main()
