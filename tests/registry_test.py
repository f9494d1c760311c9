"""Loading by name: what is listed, what is loaded, and what is not called."""

import pathlib
import re
import subprocess
import sys
import types
from unittest import mock

from absl.testing import absltest, parameterized

from labelleak import attacks, registry
from labelleak.base import Attack, InputError

PACKAGES = 'attacks', 'data', 'defenses', 'experiments', 'he', 'models', 'vfl'
LOADED = (*PACKAGES, 'train')  # every package that something is loaded of
_ROOT = pathlib.Path(registry.__file__).parent


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

  def test_each_package_that_is_loaded_of_says_what_it_makes(self):
    call = re.compile(r"registry\.(?:load|build|find)\(\s*'(\w+)'")
    texts = [path.read_text() for path in _ROOT.rglob('*.py')]
    self.assertSameElements(
      {package for text in texts for package in call.findall(text)}, LOADED
    )
    for package in LOADED:
      self.assertNotEmpty(registry.kinds(package), package)

  @parameterized.parameters(*LOADED)
  def test_a_name_of_any_other_function_is_not_called(self, package):
    for name in ('subprocess.getoutput', 'os.system', 'json.loads', 'os.fork'):
      says = 'must be annotated to return'
      with (
        mock.patch.object(subprocess, 'Popen') as popen,
        self.assertRaisesRegex(InputError, says),
      ):
        registry.load(package, name, cmd='x')
      popen.assert_not_called()

  @parameterized.parameters('', '.', '..', 'a..b', '.a', 'a.', '-', '\0', 'a/b')
  def test_what_cannot_be_a_name_is_unknown(self, name):
    with self.assertRaisesRegex(InputError, 'attacks has no .*; known: '):
      registry.load('attacks', name)

  def test_a_module_that_fails_is_named(self):
    folder = self.create_tempdir().full_path
    path = pathlib.Path(folder, 'failing_module.py')
    path.write_text('raise OSError("no\\nway")')
    with mock.patch.object(sys, 'path', [folder, *sys.path]):
      says = r'failing_module cannot be imported \(OSError: no way\); mend it'
      with self.assertRaisesRegex(InputError, says):
        registry.load('attacks', 'failing_module.attack')

  @parameterized.parameters(
    ('models', dict(name='mlp.mlp', width='x'), "width='x' must be a"),
    (
      'models',
      dict(name='mlp.mlp', num_classes=3),
      "given 'num_classes' by",
    ),
    ('models', dict(width=3), "models lacks 'name'"),
    ('models', dict(name=3), 'models.name=3 must be text'),
    ('models', 'mlp.mlp', "models='mlp.mlp' must be a dict"),
  )
  def test_a_spec_is_held_to_annotations(self, package, spec, says):
    with self.assertRaisesRegex(InputError, says):
      registry.build(package, spec, num_classes=10)

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
    old, new = 'decoding.drawn', 'decoding.complements'
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
