"""Importing labelleak imports nothing else; its modules come when used."""

import subprocess
import sys

from absl.testing import absltest

import labelleak


class LazyTest(absltest.TestCase):
  def test_importing_the_package_is_free(self):
    code = (
      'import sys, labelleak as ll;'
      'assert not {"jax", "flax", "numpy", "optax"} & set(sys.modules);'
      'll.attacks.counts.llbg();'
      'assert "jax" in sys.modules;'
      'assert "tensorflow" not in sys.modules and "torch" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)

  def test_modules_are_attributes(self):
    for package, module in (
      ('attacks', 'counts'),
      ('data', 'triggers'),
      ('defenses', 'noise'),
      ('he', 'exchange'),
      ('models', 'mlp'),
    ):
      parent = getattr(labelleak, package)
      self.assertIs(
        getattr(parent, module), sys.modules[f'labelleak.{package}.{module}']
      )
      self.assertIn(module, dir(parent))
      self.assertIn('load', dir(parent))
      self.assertNotEmpty(parent.names())
    self.assertContainsSubset(['attacks', '__version__'], dir(labelleak))

  def test_what_is_not_there_is_said(self):
    for module in (labelleak, labelleak.attacks):
      with self.assertRaisesRegex(AttributeError, "no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with self.assertRaises(ImportError):
      from labelleak import nothing  # noqa: F401


if __name__ == '__main__':
  absltest.main()
