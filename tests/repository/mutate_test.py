"""The script that mutates the package, on a few lines."""

import ast

from absl.testing import absltest

from tests.repository import mutations, reach

_SOURCE = b"""
def f(a: dict[0, 1], b):  # \xc3\xa4
  if a is None:
    raise ValueError('a' + str(b - 1))
  s = '\xc3\xa4' + a; c = a[0] - -b
  return c.sum(-1), c.mean(), a.get(0), f'{a - b}', 'x' + b
"""


class MutateTest(absltest.TestCase):
  def test_what_computes_is_changed_and_nothing_else(self):
    found = mutations.mutations('labelleak/hfl/rounds.py', _SOURCE)
    self.assertEqual(
      [(m.line, m.kind, m.old, m.new) for m in found],
      [
        (5, 'sign', 'a[0] - -b', '((a[0]) + (-b))'),
        (5, 'term', 'a[0] - -b', '(a[0])'),
        (5, 'index', '0', '-1'),
        (5, 'sign', '-b', '(b)'),
        (6, 'axis', '-1', '0'),
      ],
    )

  def test_a_mutation_changes_one_expression(self):
    for mutation in mutations.mutations('labelleak/hfl/rounds.py', _SOURCE):
      changed = mutation.apply(_SOURCE)
      ast.parse(changed)
      size = len(mutation.new) - len(mutation.old)
      self.assertLen(changed, len(_SOURCE) + size)
      self.assertNotEqual(changed, _SOURCE)

  def test_every_module_has_tests_and_its_own_first(self):
    for file, first in (
      ('hfl/rounds.py', 'hfl/hfl_test.py'),
      ('defenses/marvell.py', 'defenses/marvell_test.py'),
      ('attacks/inversion/restarts.py', 'attacks/inversion_test.py'),
      ('data/reading/raw.py', 'data/data_test.py'),
    ):
      tests = mutations.mirrors(f'labelleak/{file}')
      self.assertEqual(tests[0], f'tests/{first}')

  def test_what_mirrors_no_module_tests_its_folders(self):
    self.assertEqual(
      mutations.wider('labelleak/attacks/linear/leaves.py'),
      ['tests/attacks/fixed_views_test.py'],
    )

  def test_tests_that_reach_a_line_come_first(self):
    file, other = 'labelleak/a.py', 'labelleak/b.py'
    reaches = {
      'slow': reach.Reach(3.0, {file: [1, 2], other: [5]}),
      'quick': reach.Reach(1.0, {file: [2]}),
      'beside': reach.Reach(0.1, {file: [1]}),
      'elsewhere': reach.Reach(0.1, {other: [2]}),
      'process': reach.Reach(0.1, {}),
    }
    self.assertEqual(
      reach.order(reaches, file, 2), ['quick', 'slow', 'beside', 'process']
    )


if __name__ == '__main__':
  absltest.main()
