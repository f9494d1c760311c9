"""The page of `labelleak audit`, of simulated rounds and beside their truth.

The first trial's view goes through the code of `labelleak audit`, as a capture
would. All trials say how many labels each attack names, and how often the
page's intervals hold the true counts.
"""

from collections.abc import Mapping, Sequence
import math

import chex
import numpy as np
import optax

from labelleak import base, hfl, messages, spec, sweep
from labelleak.attacks.counts import posterior
from labelleak.audit import assessment, horizontal, page, readings
from labelleak.base import InputError
from labelleak.experiments import Measure
from labelleak.experiments.hfl.build import Round
from labelleak.experiments.hfl.scoring import Score
from labelleak.experiments.result import Result

_BASELINE = 'counts.random'  # whose memory is the view
_LEAVES = 'kernel', 'bias'


def record(score: Score) -> Score:
  """Returns metrics with what a capture holds, once for a trial.

  Args:
    score: the metrics.
  """

  def score_trial(attacked, batches, shared):
    values = score(attacked, batches, shared)
    if attacked.name != _BASELINE:
      return values
    view, truth = attacked.memory, batches.y.sum((0, 1)).astype(int)
    heads = hfl.head(view.grads), hfl.head(view.variables['params'])
    if heads[0][1] is None:
      raise InputError(
        "the model's head has no bias, and an audit counts by it; choose"
        ' another model, or audit=None.'
      )
    readings.check_size(len(truth), batches.mask.size)
    grads, server = (dict(zip(_LEAVES, leaves)) for leaves in heads)
    norm = optax.tree.norm(view.grads)
    return values | dict(grads=grads, server=server, norm=norm, truth=truth)

  return score_trial


def report(
  measure: Measure, setup: Round, known: Sequence[str], *, remedies: bool
) -> Measure:
  """Returns a measure that also writes audit.html and audit.json.

  Rows of `calibrated` have the coverage and the width of the page's intervals.

  Args:
    measure: of label counts, scored by `record`.
    setup: of the round, whose clients are described.
    known: what the page is told.
    remedies: whether to simulate what defenses would leave.

  Raises:
    InputError: no described client, or rounds that are counted together.
  """
  if setup.shifting:
    raise InputError(
      'shifting=True counts several rounds together, and an audit is of one;'
      ' drop it, or audit=None.'
    )
  if setup.known['client'] is None:
    raise InputError(
      'client=None is none to audit; describe it, such as by'
      " client={'lr': 0.01, 'batch_size': 32}."
    )
  setting, key = _tell(setup, known), sweep.key(setup.seed, 'audit')

  def audit(progress):
    results = measure(progress)
    trials = next(result.arrays for result in results if result.arrays)
    captures = _list_captures(setup, trials)
    covered = _cover(captures, setting, trials['truth'])
    results = [_crop(result, covered) for result in results]
    assessed = horizontal.assess(
      key,
      captures[0]._replace(notes=_sum_up(results)),
      setting._replace(truth=trials['truth'][0]),
      simulate=remedies,
    )
    texts = {
      'audit.html': page.render(assessed),
      'audit.json': assessment.to_json(assessed),
    }
    return [results[0]._replace(files=texts), *results[1:]]

  return audit


def _tell(setup: Round, known: Sequence[str]) -> readings.Setting:
  """Returns what is told of the round, without its truth."""
  told = {'classes', 'examples', 'clients', *({'defense'} & {*known})}
  rate = setup.lr if {'client', 'lr'} & {*known} else None
  num = setup.setting.batch_size
  steps = setup.known['steps'] if 'steps' in known else 1
  client = hfl.Client(lr=rate, batch_size=math.ceil(num / steps))  # in slices
  if rate:
    told.add('lr')
  if 'client' in known:
    client = setup.known['client']
    told |= {*setup.setting.extra['client']}
  return readings.Setting(
    client=client,
    examples=num,
    clients=setup.num_clients,
    rates=(rate,) if rate else (),
    told=frozenset(told),
    defense=setup.known['defense'] if 'defense' in known else None,
  )


def _list_captures(
  setup: Round, trials: Mapping[str, chex.ArrayTree]
) -> list[messages.Capture]:
  """Returns the views of trials as `messages.read` would of their files."""
  tensors = len(base.named_leaves(setup.shapes()['params']))
  return [
    messages.Capture(
      update={k: setup.lr * g[t] for k, g in trials['grads'].items()},
      server={k: p[t] for k, p in trials['server'].items()},
      names={leaf: f'head/{leaf}' for leaf in _LEAVES},
      tensors=tensors,
      buffers=(),
      norm=float(setup.lr * norm),
      notes=(),
    )
    for t, norm in enumerate(trials['norm'])
  ]


def _cover(
  captures: Sequence[messages.Capture],
  setting: readings.Setting,
  truth: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns how intervals [K] hold the truth, and their width, [T] each."""
  rate = next(iter(setting.rates), None)
  probs = [readings.read(c, setting, rate).probs for c in captures]
  low, high, _ = posterior.interval(np.stack(probs), readings.LEVEL)
  return dict(
    coverage=((low <= truth) & (truth <= high)).mean(1),
    interval_width=(high - low).mean(1),
  )


def _crop(result: Result, covered: Mapping[str, np.ndarray]) -> Result:
  """Returns a result without captures; of `calibrated`, with its intervals."""
  added = covered if result.attack['name'] == 'counts.calibrated' else {}
  return result._replace(values={**result.values, **added}, arrays={})


def _sum_up(results: Sequence[Result]) -> tuple[str, ...]:
  """Says what was simulated, and what came of all trials."""
  setting = results[0].setting
  state = 'trained' if setting.trained else 'untrained'
  notes = [
    f'Simulated on {setting.data} with {spec.describe(setting.model)}, {state}.'
  ]
  if setting.defense:
    listed = ' and '.join(map(spec.describe, setting.defense))
    notes.append(f'Defended by {listed}; remedies were simulated without it.')
  named = ', '.join(
    f'{_name(r)} {r.values["count_accuracy"].mean():.1%}' for r in results
  )
  num = len(results[0].values['count_accuracy'])
  notes.append(f'Of the labels of {num} such rounds were named: {named}.')
  for result in results:
    if 'coverage' in result.values:
      share = result.values['coverage'].mean()
      notes.append(f'In them {share:.1%} of the intervals held the true count.')
      break
  return tuple(notes)


def _name(result):
  """Returns an attack without its module, which goes without saying."""
  return spec.describe(result.attack).removeprefix('counts.')
