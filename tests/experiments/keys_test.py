"""A key has a role: every key of an experiment is made in one place."""

import ast
import collections
import itertools
import pathlib

from absl.testing import absltest
import jax
import numpy as np

from labelleak import sweep

ROOT = pathlib.Path(__file__).resolve().parents[2] / 'labelleak/experiments'
_TRACE = 'trace'  # of shapes alone: no number is drawn


def _calls(name):
  """(file, arguments) of every call of an attribute, in `experiments/`."""
  for file in sorted(ROOT.rglob('*.py')):
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
        yield file, node.args


def _role(node):
  """The text of a role; a numbered one with the number 0."""
  if isinstance(node, ast.JoinedStr):
    parts = (p.value if isinstance(p, ast.Constant) else 0 for p in node.values)
    return ''.join(map(str, parts))
  return node.value


ROLES = [
  _role(args[1])
  for name in ('sweep.key', 'sweeps.key')
  for _, args in _calls(name)
]


class KeysTest(absltest.TestCase):
  def test_no_other_key_is_made_from_a_seed(self):
    for name in ('random.key', 'PRNGKey'):
      self.assertEmpty(list(_calls(name)))

  def test_every_place_has_a_role_of_its_own(self):
    counts = collections.Counter(r for r in ROLES if r != _TRACE)
    self.assertGreater(len(counts), 6)
    self.assertEqual(set(counts.values()), {1}, counts)

  def test_no_two_keys_are_alike_nor_what_follows_from_them(self):
    numbered = (f'attack {i}' for i in range(8))
    roles = sorted({*ROLES, *numbered})
    bits = []
    for seed, role in itertools.product(range(4), roles):
      key = sweep.key(seed, role)
      follow = [jax.random.split(key, n) for n in (2, 3, 5)]
      keys = [key[None], sweep.trial_keys(key, 20), follow[-1]]
      bits.append(np.concatenate([jax.random.key_data(k) for k in keys]))
    bits = np.concatenate(bits)
    per_role = len(bits) // (4 * len(roles))
    owners = np.arange(len(bits)) // per_role
    first = {}
    for owner, row in zip(owners.tolist(), bits.tolist()):
      self.assertEqual(first.setdefault(tuple(row), owner), owner)
