"""Damaged files end in one line, or are read as what they still are.

A flipped byte of a pixel or a weight that decodes is no fault; a traceback is,
and so are another shape, another number of classes or rows, and what is not
finite.
"""

import re

import numpy as np
import pytest

from labelleak.base import InputError
from tests.repository import files

_MOST = 40  # damages of a kind by default, of some 20 to a file
# What is no such file in any light, whatever else it may hold.
_FATAL = re.compile(
  r' (empty|a folder|text|json|noise|16 bits|'
  r'head\.\w+ (u?int8|int64|bool|complex64|text|stacked|flat|scalar|nan|inf))$'
)
_ROUNDS = 4  # of each file, in the slow half


def _strangers(tmp_path):
  """A good file of each other kind."""
  contents = []
  for name, kind in files.KINDS.items():
    root = tmp_path / 'strangers' / name
    root.mkdir(parents=True)
    kind.write(root, np.random.default_rng(1))
    contents += [
      p.read_bytes() for p in sorted(root.rglob('*.*'))[:1] if p.is_file()
    ]
  return contents


def _check(kind, root, good, damage):
  """Reads a damaged folder; returns whether it was refused."""
  try:
    facts = kind.read(root)
  except InputError as e:
    text = str(e)
    assert '\n' not in text, (damage, text)
    assert '; ' in text and text.endswith('.'), (damage, text)
    return True
  except Exception as e:
    raise AssertionError(f'{damage}: {type(e).__name__}: {e}') from e
  assert not _FATAL.search(damage), damage
  assert facts.shapes == good.shapes, damage
  assert np.isfinite(facts.values).all(), damage
  same = facts.rows == good.rows
  assert same or (kind.loose and 0 < facts.rows <= 2 * good.rows), damage
  return False


def _damage(name, tmp_path, *, rounds, most=None):
  """Damages the files of a kind; returns how many and how many were refused."""
  kind = files.KINDS[name]
  root = tmp_path / 'root'
  root.mkdir()
  kind.write(root, np.random.default_rng(0))
  good = kind.read(root)
  strangers = _strangers(tmp_path)
  paths = sorted(path for path in root.rglob('*') if path.is_file())
  outcomes = []
  for seed in range(rounds):
    rng = np.random.default_rng([seed, len(name)])
    for path in [paths[i] for i in rng.permutation(len(paths))]:
      for damage in files.damages(path, rng, strangers):
        if most is None or len(outcomes) < most:
          where = f'{name}, seed {seed}, {path.relative_to(root)}, {damage}'
          outcomes.append(_check(kind, root, good, where))
  after = kind.read(root)
  np.testing.assert_array_equal(after.values, good.values)
  return len(outcomes), sum(outcomes)


@pytest.mark.parametrize('name', files.KINDS)
def test_some_damage(name, tmp_path):
  total, refused = _damage(name, tmp_path, rounds=2, most=_MOST)
  assert total >= 18
  assert refused > total / 3  # much of it can be seen


@pytest.mark.slow
def test_much_damage(tmp_path, capsys):
  """Counts inputs over all kinds, and says how many there were."""
  counts = {}
  for name in files.KINDS:
    (tmp_path / name).mkdir()
    counts[name] = _damage(name, tmp_path / name, rounds=_ROUNDS)
  total, refused = map(sum, zip(*counts.values()))
  with capsys.disabled():
    print(
      f'\n{total} damaged inputs, {refused} refused, 0 tracebacks: {counts}'
    )
  assert total >= 400
