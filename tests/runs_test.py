"""The store of a run: what it keeps, what a kill leaves, what it refuses."""

import json
import pathlib

from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
import numpy as np

from labelleak import runs
from labelleak.base import InputError
from tests.report import sample


def _values(rows):
  return [dict(count_accuracy=np.arange(3.0) + i) for i in range(len(rows))]


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = ConfigDict(dict(lr=0.1, model=dict(name='m', width=2)))

  def test_rows_and_values_come_back(self):
    self.assertEqual(runs.open_workdir(self.workdir, self.config), [])
    rows = [sample.horizontal(), sample.horizontal('counts.ebi')]
    runs.append_point(self.workdir, rows, _values(rows))
    self.assertEqual(runs.open_workdir(self.workdir, self.config), rows)
    more = [sample.horizontal(point={'a': 1})]
    runs.append_point(self.workdir, more, _values(more))
    self.assertEqual(
      runs.open_workdir(self.workdir, self.config), [*rows, *more]
    )
    values = runs.read_arrays(self.workdir)
    wanted = {0: [0, 1, 2], 1: [1, 2, 3], 2: [0, 1, 2]}
    self.assertLen(values, len(wanted))
    for index, numbers in wanted.items():
      np.testing.assert_array_equal(values[f'{index}/count_accuracy'], numbers)

  @parameterized.parameters(0, 1, 20)
  def test_torn_points_are_forgotten(self, cut):
    runs.open_workdir(self.workdir, self.config)
    names = 'counts.llbg', 'counts.ebi'
    first = [sample.horizontal(name, point={'a': 1}) for name in names]
    second = [sample.horizontal(name, point={'a': 2}) for name in names]
    runs.append_point(self.workdir, first, _values(first))
    # Killed while the second point was written: no values yet, a torn line.
    path = self.workdir / 'rows.jsonl'
    with open(path, 'a') as f:
      f.write(json.dumps(second[0]) + '\n')
      f.write(json.dumps(second[1])[:cut])
    self.assertEqual(runs.open_workdir(self.workdir, self.config), first)
    self.assertEqual(runs.read_rows(self.workdir), first)

  @parameterized.parameters(
    ('lr', 0.2, r'config.lr was 0.1 and is 0.2'),
    ('model', dict(name='m', width=3), r'config.model.width was 2 and is 3'),
    ('model', dict(name='m'), r'config.model.width is only in that run'),
  )
  def test_another_config_is_refused(self, field, value, message):
    runs.open_workdir(self.workdir, self.config)
    runs.open_workdir(self.workdir, self.config)  # the same one is not
    other = self.config.copy_and_resolve_references()
    other[field] = ConfigDict(value) if isinstance(value, dict) else value
    with self.assertRaisesRegex(InputError, message):
      runs.open_workdir(self.workdir, other)

  def test_a_run_in_an_earlier_form_is_refused(self):
    path = self.workdir / 'config.json'
    for contents in (dict(lr=0.1), dict(layout=1, config=dict(lr=0.1))):
      path.write_text(json.dumps(contents))
      with self.assertRaisesRegex(InputError, 'earlier labelleak') as caught:
        runs.open_workdir(self.workdir, self.config)
      line = str(caught.exception)
      self.assertNotIn('\n', line)
      self.assertIn(str(self.workdir), line)
      self.assertIn('choose another --workdir or remove this one', line)
      # It is left as it was.
      self.assertEqual(json.loads(path.read_text()), contents)
      self.assertFalse((self.workdir / 'rows.jsonl').exists())

  def test_what_differs_in_a_long_sweep_is_named_in_a_line(self):
    self.config.sweep = (('lr', tuple(0.1 * i for i in range(1, 99))),)
    runs.open_workdir(self.workdir, self.config)
    other = self.config.copy_and_resolve_references()
    other.sweep = (('lr', tuple(0.1 * i for i in range(2, 100))),)
    where = r'config.sweep\[0\]\[1\]\[0\] was 0.1 and is 0.2'
    with self.assertRaisesRegex(InputError, where) as caught:
      runs.open_workdir(self.workdir, other)
    self.assertLess(len(str(caught.exception)), 300)
    other.sweep = (*self.config.sweep, ('seed', (0, 1)))
    with self.assertRaisesRegex(InputError, 'had 1 entries and has 2'):
      runs.open_workdir(self.workdir, other)


if __name__ == '__main__':
  absltest.main()
