"""Loading by name: what is listed, what is loaded, and what is not called."""

import sys
import types
from unittest import mock

from absl.testing import absltest, parameterized

from labelleak import attacks, registry
from labelleak.base import Attack, InputError

PACKAGES = ('attacks', 'data', 'defenses', 'he', 'models')


def quoted() -> 'Attack':
  """Is annotated as under `from __future__ import annotations`."""
  return Attack(lambda key, view, known: None)


class NamesTest(parameterized.TestCase):
  @parameterized.parameters(*PACKAGES)
  def test_what_is_listed_loads_and_is_of_a_kind(self, package):
    kinds, names = registry.kinds(package), registry.names(package)
    self.assertNotEmpty(kinds)
    self.assertNotEmpty(names)
    for name in names:
      made = registry.find(package, name).__annotations__['return']
      self.assertTrue(made in kinds or issubclass(made, kinds), name)

  def test_a_family_hides_its_modules(self):
    names = attacks.names()
    self.assertContainsSubset(
      ['counts.llbg', 'linear.last_layer', 'completion.passive'], names
    )
    for name in names:
      module = f'labelleak.attacks.{name.rpartition(".")[0]}'
      self.assertIn(module, sys.modules)
    self.assertNotIn('counts.bias.llbg', names)
    self.assertLen(set(names), len(names))

  def test_an_old_name_loads_and_is_not_listed(self):
    for old, new in (
      ('linear.full', 'linear.expectation_propagation'),
      ('decoding.drawn', 'decoding.complements'),
    ):
      found = registry.find('attacks', old)
      self.assertIs(found, registry.find('attacks', new))
      self.assertNotIn(old, attacks.names())
      self.assertIn(new, attacks.names())

  @parameterized.parameters(
    'counts.evidence.row_sums',
    'completion.malicious.sgd',
    'completion.learners.options',
    'over_time.remembers',
    'os.system',
    'subprocess.run',
  )
  def test_what_is_no_attack_is_not_called(self, name):
    with self.assertRaisesRegex(InputError, 'annotated to return Attack or'):
      registry.load('attacks', name)

  def test_an_annotation_may_be_a_string(self):
    self.assertIsInstance(attacks.load(f'{__name__}.quoted'), Attack)

  def test_without_kinds_all_functions_of_keywords_are_listed(self):
    module = types.ModuleType('labelleak.loose')
    exec('def one(*, a=1): return a\ndef two(a): return a', vars(module))
    with mock.patch.dict(sys.modules, {module.__name__: module}):
      module.one.__module__ = module.two.__module__ = module.__name__
      self.assertEqual(registry.names('loose'), ['one'])
      self.assertEqual(registry.load('loose', 'one', a=3), 3)


if __name__ == '__main__':
  absltest.main()
