"""From the capture of a horizontal round to an `Assessment`.

Beside the published attacks it asks for the counts' posterior, and for what in
the update contradicts the description (`attacks.counts.diagnose`).
"""

from collections.abc import Mapping
from concurrent import futures
import dataclasses
import functools
import math

import chex
import jax
import numpy as np

import labelleak
from labelleak import compilation, hfl, messages
from labelleak.attacks import counts as attacks
from labelleak.attacks.counts import posterior
from labelleak.audit import readings, remedies
from labelleak.audit.assessment import (
  Assessment,
  Assumption,
  Estimate,
  Score,
  Source,
)
from labelleak.audit.readings import Setting
from labelleak.base import InputError

_PUBLISHED = {
  'LLG': attacks.llg,
  'EBI': attacks.ebi,
  'LLBG': attacks.llbg,
}
_LIMITS = (
  'The numbers hold for an attacker who sees this one update of the head, and'
  ' nothing else.',
  "Other layers, several rounds, or examples of the attacker's own may give"
  ' away more.',
  'Intervals are too narrow where the model was already sure of its examples.',
  'Inputs, and which example has which label, were not attacked.',
  'Where the description of the client is wrong, the numbers are, too; the'
  ' warnings name what the update contradicts.',
)
_SIMULATED = (
  'Remedies were simulated on the head alone, whose inputs vary about one mean:'
  ' they rank defenses, and do not certify one.'
)
_DEFENDED = (
  'Where the update contradicts the description was not looked for, as a'
  ' defense acts on it.'
)
_NOT_SIMULATED = 'What defenses would leave was not simulated.'


def assess(
  key: chex.PRNGKey,
  capture: messages.Capture,
  setting: Setting,
  *,
  files: tuple[str, ...] = (),
  simulate: bool = True,
) -> Assessment:
  """Assesses what an update gives away of the labels behind it.

  Args:
    key: of simulated rounds.
    capture: of `messages.read`.
    setting: what is told of the round.
    files: that were read.
    simulate: whether to simulate remedies.

  Raises:
    InputError: a head without bias, counts that cannot be of this round, or
      more examples than can be counted.
  """
  if 'bias' not in capture.update:
    raise InputError(
      f'the head {capture.names} has no bias that changed, and the audit counts'
      ' by it; use attacks.counts.llg, which reads the kernel.'
    )
  num_classes = len(capture.update['bias'])
  sizes = ()
  if isinstance(setting.examples, range):
    setting, note = readings.infer_size(capture, setting)
    sizes = (note,)
  num = setting.clients * setting.examples
  readings.check_size(num_classes, num)
  _check_truth(setting.truth, num_classes, num)
  rates = setting.rates or (None,)
  with futures.ThreadPoolExecutor() as pool:  # which compiles in parallel
    found = pool.map(functools.partial(readings.read, capture, setting), rates)
    warned = ()
    if not setting.defense:
      middle = readings.describe(capture, setting, rates[len(rates) // 2])
      warned = pool.submit(attacks.diagnose, *middle)
    found = list(found)
    middle = found[len(found) // 2]
    simulated = ()
    if simulate:
      labels = middle.probs @ np.arange(num + 1) / setting.clients
      simulated = remedies.simulate(
        key,
        capture.update,
        capture.server,
        middle.known.client,
        labels=labels,
        clients=setting.clients,
      )
    scores = _score(capture, setting, middle)
  return Assessment(
    version=labelleak.__version__,
    source=_describe_source(capture, files),
    assumed=_list_assumptions(setting, num_classes),
    num_classes=num_classes,
    num_examples=num,
    leaked=max(score.expected for score in scores),
    level=readings.LEVEL,
    classes=_estimate(middle, setting.truth),
    scores=scores,
    learning_rates=_compare_rates(setting.rates, found, middle),
    remedies=simulated,
    warnings=warned and warned.result(),
    limits=(
      *sizes,
      *_LIMITS,
      *((_DEFENDED,) if setting.defense else ()),
      _SIMULATED if simulated else _NOT_SIMULATED,
    ),
  )


def _score(capture, setting, middle) -> tuple[Score, ...]:
  """Scores guessing, the classes alone, and each attack."""
  num_classes, num = len(middle.counts), middle.known.num_examples
  there = middle.probs[:, 0] < 0.5
  answers = {
    'guessing': np.full(num_classes, num / num_classes),
    'classes alone': np.where(there, num / max(there.sum(), 1), 0.0),
    **_attack(capture, setting, middle),
    'calibrated': middle.counts,
  }
  return tuple(
    _score_one(name, value, middle, setting.truth)
    for name, value in answers.items()
  )


def _attack(capture, setting, middle) -> Mapping[str, np.ndarray]:
  """Counts by the published attacks, which know one epoch of plain SGD."""
  client = setting.client
  epochs = client.epochs
  size = client.batch_size or setting.examples
  known = hfl.Known(
    num_classes=len(middle.counts),
    batch_size=setting.examples,
    steps=math.ceil(setting.examples / size),
    clients=setting.clients,
  )
  names = [n for n in _PUBLISHED if n != 'LLG' or 'kernel' in capture.update]

  def infer(key, head):
    view = hfl.View(grads={'head': jax.tree.map(lambda u: u / epochs, head)})
    return [_PUBLISHED[name]().infer(key, view, known) for name in names]

  counts = compilation.jit_once(infer)(
    jax.random.key(0), middle.view.grads['head']
  )
  return dict(zip(names, map(np.asarray, counts)))


def _score_one(name, counts, middle, truth=None) -> Score:
  """Scores counts by the posterior, by `calibrated` and by the truth."""
  num = middle.known.num_examples
  overlap = lambda other: float(np.minimum(counts, other).sum() / num)
  return Score(
    name=name,
    counts=tuple(map(float, counts)),
    expected=expected_accuracy(counts, middle.probs),
    agreement=overlap(middle.counts),
    accuracy=None if truth is None else overlap(truth),
  )


def expected_accuracy(counts: np.ndarray, probs: np.ndarray) -> float:
  """Returns sum_i E min(m_i, lambda_i) / N of counts m [K], [K, N + 1]."""
  k = np.arange(probs.shape[1])
  return float((probs * np.minimum(counts[:, None], k)).sum() / k[-1])


def _estimate(reading, truth) -> tuple[Estimate, ...]:
  """Returns count, interval and presence of each class."""
  interval = functools.partial(posterior.interval, level=readings.LEVEL)
  low, high, _ = jax.device_get(compilation.jit_once(interval)(reading.probs))
  return tuple(
    Estimate(
      count=float(reading.counts[i]),
      low=int(low[i]),
      high=int(high[i]),
      present=float(np.clip(1 - reading.probs[i, 0], 0.0, 1.0)),
      truth=None if truth is None else int(truth[i]),
    )
    for i in range(len(low))
  )


def _compare_rates(rates, found, middle) -> tuple[Score, ...]:
  """Scores each of several learning rates by the middle one."""
  if len(rates) < 2:
    return ()
  return tuple(
    _score_one(f'lr = {rate:.3g}', reading.counts, middle)
    for rate, reading in zip(rates, found)
  )


def _describe_source(capture, files) -> Source:
  shapes = {leaf: value.shape for leaf, value in capture.update.items()}
  return Source(
    files=files,
    names=dict(capture.names),
    shapes=shapes,
    tensors=capture.tensors,
    norm=capture.norm,
    notes=capture.notes,
  )


def _list_assumptions(setting, num_classes) -> tuple[Assumption, ...]:
  """Lists what is told, then what is assumed instead."""
  client = dataclasses.asdict(setting.client)
  client['optimizer'] = dict(setting.client.optimizer)
  if len(setting.rates) > 1:
    client['lr'] = list(setting.rates)
  values = dict(
    classes=num_classes,
    examples=setting.examples,
    clients=setting.clients,
    **client,
  )
  if setting.defense:
    values['defense'] = [f'{k} {v:.4g}' for k, v in setting.defense]
  listed = [
    Assumption(field, _plain(value), field in setting.told)
    for field, value in values.items()
  ]
  return tuple(sorted(listed, key=lambda a: not a.told))


def _plain(value):
  """Returns a value as JSON gives it back."""
  return list(value) if isinstance(value, tuple) else value


def _check_truth(truth, num_classes, num):
  """Refuses counts that are not of this round."""
  if truth is None:
    return
  if truth.shape != (num_classes,) or truth.sum() != num:
    raise InputError(
      f'truth: {truth.size} counts that sum to {truth.sum():g} must be'
      f' {num_classes} that sum to {num}; give those of all examples.'
    )
