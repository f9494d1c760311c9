"""What rows say beside their numbers: facts, groups, attacks and defenses.

A row is one attack at one point, as `experiments.result` writes it. Nothing in
its setting's `extra` is required.
"""

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any

from labelleak import spec
from labelleak.metrics import significance

Row = Mapping[str, Any]

# Metrics of the model that a run trained, whatever attacked it.
OF_MODEL = (
  'main_accuracy',
  'main_top5_accuracy',
  'main_f1',
  'relative_accuracy',
  'train_accuracy',
)
RANDOM = 'counts.random', 'scores.random'  # attacks that guess
# Grants that go without saying: what the server holds, which runs the protocol
# and has the model, and what a party has.
_PUBLIC = 'lr', 'steps', 'clients', 'client', 'defense', 'model', 'bottom'
_OWN = 'party', 'pool'  # no grants: its own model and rows
_NESTED = 'stands_for', 'extra'  # of a setting
_SHORT = 'counts', 'scores', 'reconstruction'  # modules that go without saying


def setting(row: Row) -> dict[str, Any]:
  """Returns all that identifies a point, `extra` beside the other facts."""
  stated = row['setting']
  required = {k: v for k, v in stated.items() if k not in _NESTED}
  return required | stated['extra']


def identity(*values: Any) -> str:
  """Returns what equals that of values of the same contents, dicts included."""
  return json.dumps(values, sort_keys=True)


def point(row: Row) -> str:
  """Returns what is equal for rows of one point and one trained model."""
  model = {} if trains_model(row) else row['metrics']
  return identity(
    *(row[k] for k in ('config', 'point', 'setting', 'trials', 'seed')),
    *(model.get(metric) for metric in OF_MODEL),
  )


def groups(rows: Sequence[Row]) -> list[list[Row]]:
  """Returns the rows of each `point`, in order."""
  by_point = {}
  for row in rows:
    by_point.setdefault(point(row), []).append(row)
  return list(by_point.values())


def trains_model(row: Row) -> bool:
  """Whether a row has a model of its own: an attack on it, or none at all."""
  return row['attack']['name'] == 'none' or 'backdoor_rate' in row['metrics']


def attack_metrics(row: Row) -> list[str]:
  """Returns metrics of the attack; the model's, too, where it is its own.

  Where there are no others, they are all that it has.
  """
  skip = () if trains_model(row) else OF_MODEL
  metrics = [metric for metric in row['metrics'] if metric not in skip]
  return metrics or list(row['metrics'])


def attack(row: Row, among: Sequence[Row]) -> str:
  """Describes an attack, its arguments and what it was granted.

  What the server or a party holds goes without saying: `+` names what was
  granted beyond, `-` what of it was not: 'llbg(confidence=aux)+labelled'.

  Args:
    row: of `rows.jsonl`.
    among: the rows that it is shown with; `-` is there where it tells the same
      attacks apart.
  """
  alike = [r['known'] for r in among if r['attack'] == row['attack']]
  # A server runs the defense, and a party has to be told.
  is_party = 'split' in row['setting']['extra']
  public = tuple(k for k in _PUBLIC if k != 'defense' or not is_party)
  beyond = [k for k in row['known'] if k not in (*public, *_OWN)]
  lacks = [
    k
    for k in public
    if k not in row['known'] and any(k in known for known in alike)
  ]
  name = short_name(row['attack']['name'])
  called = spec.describe({**row['attack'], 'name': name})
  return ''.join(
    [called, *(f'+{k}' for k in beyond), *(f'-{k}' for k in lacks)]
  )


def short_name(attack: str) -> str:
  """Returns an attack without its module, where the rest says enough.

  >>> short_name('counts.llbg'), short_name('linear.full')
  ('llbg', 'linear.full')
  """
  module, _, name = attack.rpartition('.')
  return name if module in _SHORT else attack


def defense(specs: Sequence[spec.Spec], joint: str = '+') -> str:
  """Describes all that defends: 'smoothing(alpha=0.5)+gaussian(stddev=0.1)'."""
  return joint.join(spec.describe(s) for s in specs) or 'none'


def differ(ours: Mapping[str, Any], published: Mapping[str, Any]) -> bool:
  """Whether two means are more than two standard deviations apart.

  That is the deviation of a difference of trials. Not where neither is known,
  and not within 1 % of the published mean, which is rounded.

  Args:
    ours: mean and std, over trials.
    published: as well.
  """
  stds = [s['std'] for s in (ours, published) if s['std'] is not None]
  apart = abs(ours['mean'] - published['mean'])
  rounded = apart <= 0.01 * abs(published['mean'])
  return bool(stds) and not rounded and apart > 2 * math.hypot(*stds)


def misses_below_chance(row: Row) -> bool:
  """Whether an attack on labels misses more of them than a guess would.

  Not where the best renaming of classes is short of a guess, too: examples that
  were not named count as missed, and hide nothing.
  """
  accuracy = row['metrics'].get('label_accuracy')
  if accuracy is None:
    return False
  stated = setting(row)
  renamed = row['metrics'].get('permuted_label_accuracy', dict(mean=1.0))
  steps = (stated.get('observed') or dict(steps=1))['steps']
  # Where the first batch is drawn, all trials attack the same examples.
  trials = 1 if stated.get('draw') == 'first' else row['trials']
  hides = renamed['mean'] >= 1 / stated['num_classes']
  return hides and significance.below_chance(
    accuracy['mean'],
    accuracy['stderr'],
    stated['num_classes'],
    rows=(stated['batch_size'] or 1) * steps * trials,
  )
