"""Who may import whom, checked on the syntax trees."""

import ast
import configparser
import inspect
import pathlib
import re

from absl.testing import absltest, parameterized

from labelleak import attacks, registry

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'labelleak'

# Left imports right: a module sees only the groups after its own.
ORDER = (
  ('launch', '__main__'),
  ('experiments',),
  ('audit', 'gate'),
  ('report',),
  ('sweep', 'metrics', 'attacks'),
  ('hfl', 'vfl', 'messages'),
  ('he', 'defenses'),
  ('models', 'train'),
  ('data',),
  ('optimizers',),
  ('contract',),
  ('registry', 'runs'),
  ('annotation', 'validate'),
  ('spec',),
  ('base',),
  ('lazy', 'compilation'),
)
RANK = {name: rank for rank, group in enumerate(ORDER) for name in group}
UNSAFE = {
  'cloudpickle',
  'dill',
  'joblib',
  'marshal',
  'pickle',
  'shelve',
  'tensorflow',
  'torch',
  'torchvision',
}
# Modules of `attacks` with an upper bound, which is given the true labels.
BOUNDS = {
  'completion/bound.py',
  'history/bound.py',
  'reconstruction/inverting.py',
}
LABELS = {'counts', 'label', 'labels', 'target', 'targets', 'truth', 'y'}


def _trees():
  """(layer, file, tree) of every module; a package is one layer."""
  files = [ROOT / 'launch.py', *sorted(PACKAGE.rglob('*.py'))]
  for file in files:
    if file == PACKAGE / '__init__.py':
      continue
    inside = file.is_relative_to(PACKAGE)
    layer = file.relative_to(PACKAGE).parts[0] if inside else file.name
    yield layer.removesuffix('.py'), file, ast.parse(file.read_text())


def _imported(tree):
  """Dotted names that a module imports, wherever the statement stands."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      prefix = '.' * node.level + (node.module or '')
      yield from (f'{prefix}.{alias.name}' for alias in node.names)


def _layers(tree):
  """Layers of labelleak that a module imports."""
  return {
    name.split('.')[1]
    for name in _imported(tree)
    if name.startswith('labelleak.')
  }


def _wrong(layer, tree):
  """Imports of `layer` that are not in a group further right."""
  return sorted(
    seen
    for seen in _layers(tree)
    if seen != layer and not RANK.get(seen, -1) > RANK[layer]
  )


def _unsafe(tree):
  """Imports and keywords that would execute what a file says."""
  found = {name.split('.')[0] for name in _imported(tree)} & UNSAFE
  for node in ast.walk(tree):
    if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
      off = isinstance(node.value, ast.Constant) and not node.value.value
      found |= set() if off else {'allow_pickle'}
  return found


def _reached(start):
  """Layers that `start` imports, directly or through others."""
  graph = {}
  for layer, _, tree in _trees():
    graph.setdefault(layer, set()).update(_layers(tree))
  reached, queue = set(), [start]
  while queue:
    for layer in graph.get(queue.pop(), ()):
      if layer not in reached:
        reached.add(layer)
        queue.append(layer)
  return reached


def _fields(tree, name):
  """Annotated fields of the classes called `name`."""
  return {
    field.target.id
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef) and node.name == name
    for field in node.body
    if isinstance(field, ast.AnnAssign)
  }


def _reads_labels(tree):
  """Whether a module of attacks reads `Known.labels`, or what may be it."""
  return any(
    (
      isinstance(node, ast.Attribute)
      and (node.attr, ast.unparse(node.value)) == ('labels', 'known')
    )
    or (
      isinstance(node, ast.Call)
      and ast.unparse(node.func) == 'getattr'
      and 'labels' in ast.unparse(node)
    )
    for node in ast.walk(tree)
  )


def _built(name):
  """What a constructor of attacks returns with the arguments it asks for."""
  asks = inspect.signature(registry.find('attacks', name)).parameters
  return attacks.load(name, **(dict(num=1) if 'num' in asks else {}))


class LayersTest(parameterized.TestCase):
  def test_every_module_has_its_place(self):
    layers = {layer for layer, _, _ in _trees()}
    self.assertContainsSubset(layers, RANK)
    self.assertContainsSubset({'launch', 'attacks', 'hfl', 'base'}, layers)

  def test_imports_point_right(self):
    for layer, file, tree in _trees():
      self.assertEmpty(_wrong(layer, tree), f'{file} imports leftwards')
      for name in _imported(tree):
        self.assertFalse(name.startswith('.'), f'{file}: relative {name}')

  @parameterized.parameters(
    ('hfl', 'from labelleak import sweep', ['sweep']),
    ('hfl', 'from labelleak import vfl', ['vfl']),  # same group
    ('hfl', 'def f():\n  import labelleak.attacks.counts', ['attacks']),
    ('base', 'from labelleak.data import Source', ['data']),
    ('attacks', 'from labelleak import metrics, hfl', ['metrics']),
    ('hfl', 'from labelleak import surprise', ['surprise']),
    ('data', 'from labelleak.data import plans', []),
    ('attacks', 'from labelleak import base, hfl', []),
  )
  def test_the_check_finds_what_it_should(self, layer, source, wrong):
    self.assertEqual(_wrong(layer, ast.parse(source)), wrong)

  def test_attacks_reach_neither_data_nor_metrics(self):
    reached = _reached('attacks')
    self.assertIn('base', reached)
    self.assertNoCommonElements(
      reached, ['data', 'metrics', 'experiments', 'report', 'sweep']
    )
    self.assertIn('data', _reached('experiments'))  # the walk does walk

  def test_nothing_is_unpickled_and_torch_stays_outside(self):
    for _, file, tree in _trees():
      self.assertEmpty(_unsafe(tree), f'{file}')

  @parameterized.parameters(
    ('import torch.nn as nn', {'torch'}),
    ('from tensorflow import io', {'tensorflow'}),
    ('import tensorflow_datasets', set()),
    ('np.load(f, allow_pickle=True)', {'allow_pickle'}),
    ('np.load(f, allow_pickle=trust)', {'allow_pickle'}),
    ('np.load(f, allow_pickle=False)', set()),
  )
  def test_the_unsafe_is_found(self, source, found):
    self.assertEqual(_unsafe(ast.parse(source)), found)

  def test_module_names_say_what_is_inside(self):
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    lines = config['options']['install_requires'].split('\n')
    dependencies = {re.split(r'[ ><=]', line)[0] for line in lines if line}
    self.assertIn('jax', dependencies)
    banned = dependencies | {'utils', 'util', 'helpers', 'misc', 'core', '_src'}
    for _, file, _ in _trees():
      names = set(file.relative_to(ROOT).with_suffix('').parts)
      self.assertNoCommonElements(names, banned, f'{file}')

  def test_what_an_attack_sees_has_no_labels_of_the_victim(self):
    fields = {'View': set(), 'Known': set(), 'Model': set(), 'Pool': set()}
    for _, _, tree in _trees():
      for name in fields:
        fields[name] |= _fields(tree, name)
    self.assertIn('grads', fields['View'])
    self.assertIn('labelled', fields['Known'])  # the attacker's own
    for name in ('View', 'Model', 'Pool'):
      self.assertNoCommonElements(fields[name], LABELS)
    # Of upper bounds alone, as the next test holds them to.
    self.assertEqual(fields['Known'] & LABELS, {'labels'})

  def test_the_labels_of_the_victim_are_of_upper_bounds_alone(self):
    readers = {
      str(file.relative_to(PACKAGE / 'attacks'))
      for layer, file, tree in _trees()
      if layer == 'attacks' and _reads_labels(tree)
    }
    self.assertEqual(readers, BOUNDS)
    needing = {
      name
      for name in registry.names('attacks')
      if 'labels' in getattr(_built(name), 'needs', ())
    }
    self.assertEqual(needing, {'completion.supervised', 'history.true_labels'})
    bound = attacks.load('reconstruction.inverting_gradients', labels='granted')
    self.assertIn('labels', bound.needs)

  @parameterized.parameters(
    ('f = lambda known: known.labels', True),
    ('def f(own):\n  return getattr(own, "labels")', True),
    ('f = lambda key, view, known: known.labelled', False),
    ('f = lambda found: found.labels', False),
  )
  def test_who_reads_labels_is_found(self, source, reads):
    self.assertEqual(_reads_labels(ast.parse(source)), reads)


class ConfigsTest(absltest.TestCase):
  def test_a_config_is_data(self):
    files = sorted((ROOT / 'configs').glob('*.py'))
    self.assertNotEmpty(files)
    for file in files:
      tree = ast.parse(file.read_text())
      self.assertContainsSubset(_layers(tree), ['base'], f'{file}')  # errors
      tops = {name.split('.')[0] for name in _imported(tree)}
      self.assertNoCommonElements(tops, ['flax', 'jax', 'numpy', 'optax'])


if __name__ == '__main__':
  absltest.main()
