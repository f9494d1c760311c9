"""The README's Python runs as it stands, and its commands are what CI runs."""

import configparser
import os
import pathlib
import re

from absl.testing import absltest
import numpy as np
from packaging import requirements, utils

from labelleak import hfl

ROOT = pathlib.Path(__file__).resolve().parents[2]
_STRANGER = ('configs/proportional.py', '')  # the reader's own
TEXT = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```$', TEXT, re.DOTALL | re.MULTILINE)
FILES = {  # blocks whose first line is a comment that names a file
  match[1]: block
  for block in BLOCKS
  if (match := re.match(r'# (\S+\.py)\n', block))
}


class SnippetsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    previous = os.getcwd()
    os.chdir(self.create_tempdir().full_path)
    self.addCleanup(os.chdir, previous)

  def test_compose_and_own_update(self):
    compose, _, own, told = (b for b in BLOCKS if b not in FILES.values())
    names = {}
    exec(compile(compose, 'README.md: Compose', 'exec'), names)
    y, composed = names['batch'].y, np.asarray(names['counts'])
    self.assertEqual(composed.sum(), len(y))
    truth = y.sum(0)
    accuracy = np.minimum(composed, truth).sum() / truth.sum()
    # Naming only the two heaviest classes recovers about three quarters.
    self.assertGreater(accuracy, 0.8)
    # The same update by way of a file in torch's layout.
    kernel, bias = map(np.asarray, hfl.head(names['view'].grads))
    np.savez('update.npz', **{'fc.weight': kernel.T, 'fc.bias': bias})
    exec(compile(own, 'README.md: Your own update', 'exec'), names)
    np.testing.assert_array_equal(names['counts'], composed)
    exec(compile(told, 'README.md: Your own update', 'exec'), names)
    described = np.minimum(np.asarray(names['counts']), truth).sum()
    self.assertGreater(described / truth.sum(), accuracy - 0.02)
    known = names['known']
    diagnosis = names['attacks'].counts.diagnose(names['view'], known)
    self.assertEqual(diagnosis, ())

  def test_compose_vertically(self):
    block = next(b for b in BLOCKS if 'vfl.protocol' in b)
    names = {}
    exec(compile(block, 'README.md: Compose', 'exec'), names)
    self.assertIsNone(names['views'][0].cut_grads)
    found = np.asarray(names['scores']).argmax(-1)
    self.assertGreater((found == names['batch'].y.argmax(-1)).mean(), 0.9)


class ExampleTest(absltest.TestCase):
  def test_is_the_recipe_that_strangers_run(self):
    recipes = (ROOT / 'docs/extending.md').read_text()
    self.assertLen(FILES, 2)
    for block in FILES.values():
      self.assertIn(f'```python\n{block}```', recipes)


class CommandsTest(absltest.TestCase):
  def test_each_is_complete(self):
    for marker, does in (('run', 'launch.py'), ('test', 'pytest')):
      block = re.search(
        rf'^<!-- {marker} -->\n```bash\n(.*?)\n```\n<!-- /{marker} -->$',
        TEXT,
        re.DOTALL | re.MULTILINE,
      )
      self.assertIsNotNone(block, marker)
      command = block[1]
      self.assertNotIn('\n', command)  # one command, as .ci/run sources it
      self.assertStartsWith(command, 'python3 -m venv')
      self.assertIn(does, command)

  def test_versions_are_pinned_for_every_dependency(self):
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    texts = setup['options']['install_requires'].splitlines()
    for extra in setup['options.extras_require'].values():
      texts += extra.splitlines()
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = [requirements.Requirement(line) for line in lines if line[0] != '#']
    versions = {}
    for pin in pins:
      (exact,) = pin.specifier
      self.assertEqual(exact.operator, '==')
      versions[utils.canonicalize_name(pin.name)] = exact.version
    for text in filter(None, texts):
      needed = requirements.Requirement(text)
      self.assertIn(utils.canonicalize_name(needed.name), versions)
      version = versions[utils.canonicalize_name(needed.name)]
      self.assertIn(version, needed.specifier, text)

  def test_tests_run_with_these_versions(self):
    for file in ('README.md', 'CONTRIBUTING.md', '.ci/run'):
      self.assertIn('-c constraints.txt', (ROOT / file).read_text(), file)

  def test_other_licences_are_told_where_they_are_installed(self):
    for file in ('README.md', 'CONTRIBUTING.md', 'setup.cfg'):
      text = (ROOT / file).read_text()
      for name, licence in (('phe', 'GPL-3'), ('gmpy2', 'LGPL-3')):
        self.assertRegex(text, rf'{name}\W+(is )?{licence}', file)

  def test_links_and_configs_exist(self):
    links = re.findall(r'\]\((?!http)([^)#]+)\)', TEXT)
    named = re.findall(r'configs/\w+\.py', TEXT.replace(*_STRANGER))
    for path in {*links, *named}:
      self.assertTrue((ROOT / path).exists(), path)
