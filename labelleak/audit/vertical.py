"""From the log of a passive party to a `VerticalAssessment`."""

from typing import Optional

import jax
import jax.numpy as jnp
import numpy as np

import labelleak
from labelleak import messages, metrics
from labelleak.audit import answers, clear, patterns, sealed
from labelleak.audit.answers import Answer, Rows, Setting
from labelleak.audit.assessment import (
  Assumption,
  Attempt,
  LogSource,
  VerticalAssessment,
)
from labelleak.base import InputError

_SEALED_STEPS = 50  # of which each takes about a second
_LIMITS = (
  'The numbers hold for a party that follows the protocol and reads this log,'
  ' and nothing else.',
  'What is named is the label that entered the loss: where the active party'
  ' changes labels before, those.',
  'A confidence holds if the description does; of one logit the log cannot tell'
  ' noise from a gradient.',
  "What the party's own features tell of the labels was not compared, and model"
  ' completion, which needs labelled rows, was not run.',
)
_SEALED_LIMIT = (
  'Below a trained model expectation propagation has been sure and wrong; it is'
  ' believed here where it explains the gradients.'
)


def assess(
  key: jax.Array,
  log: messages.Log,
  setting: Setting,
  *,
  files: tuple[str, ...] = (),
) -> VerticalAssessment:
  """Assesses what a passive party's log gives away of the labels.

  Args:
    key: of starts and draws.
    log: of `messages.read_log`.
    setting: what is told of the training.
    files: that were read.

  Raises:
    InputError: a description that contradicts the log, or labels that are not
      those of its rows.
  """
  setting = _complete(log, setting)
  total, log = len(log.steps), log._replace(steps=log.steps[: setting.steps])
  notes = list(log.notes)
  if len(log.steps) < total:
    notes.append(
      f'Only the first {len(log.steps)} of {total} steps were attacked; --steps'
      ' says how many.'
    )
  rows = answers.find_rows(log.steps)
  truth = _select_truth(setting, rows)
  if setting.sealed:
    results, warnings, remarks = sealed.attack(key, log, rows, setting)
    notes += remarks
  else:
    results, warnings = clear.attack(key, log.steps, rows, setting)
  attempts = [_judge(answer, setting, truth) for answer in results]
  return VerticalAssessment(
    version=labelleak.__version__,
    source=LogSource(
      files=files,
      shapes=log.shapes,
      steps=len(log.steps),
      lines=len(rows.place),
      notes=tuple(notes),
    ),
    assumed=_list_assumptions(setting),
    num_classes=setting.num_classes,
    num_rows=len(rows.ids),
    guessing=1 / setting.num_classes,
    leaked=_select_leak(attempts),
    attempts=(*_guess(setting, truth, len(rows.ids)), *attempts),
    truth=None if truth is None else _count(truth, setting.num_classes),
    warnings=(*warnings, *_compare_visits(results)),
    limits=(*_LIMITS, *([_SEALED_LIMIT] if setting.sealed else [])),
  )


def _complete(log: messages.Log, setting: Setting) -> Setting:
  """Completes a setting by what the log shows, where it was not told.

  Raises:
    InputError: a sealed log that is not there, or as of `_find_top`.
  """
  step = log.steps[0]
  if setting.sealed and not step.param_grads:
    raise InputError(
      f'{log.path} has no param_grads/, which --sealed reads; log them, or'
      ' leave out --sealed.'
    )
  is_sealed = setting.sealed or step.cut_grads is None
  most = _SEALED_STEPS if is_sealed else len(log.steps)
  vectors = step.h if is_sealed else step.cut_grads
  loss = setting.loss
  if vectors is not None and 'loss' not in setting.told:
    single = setting.num_classes == 2 and vectors.shape[1] == 1
    loss = 'sigmoid' if single else loss
  return setting._replace(
    sealed=is_sealed,
    steps=min(setting.steps or most, len(log.steps)),
    loss=loss,
    top=setting.top if is_sealed else _find_top(step.cut_grads, setting),
  )


def _find_top(cut: np.ndarray, setting: Setting) -> str:
  """Finds what lies above a cut [B, D] by its width.

  Raises:
    InputError: logits that are added, of another number than was told.
  """
  num_classes, width = setting.num_classes, cut.shape[1]
  fits = width == num_classes or (width == 1 and num_classes == 2)
  if setting.top == 'model' or fits:
    return setting.top
  if 'top' in setting.told:
    raise InputError(
      f'cut gradients of width {width} are not those of logits of {num_classes}'
      ' classes that are added; set --top model, or --classes.'
    )
  if width > 1 and patterns.is_logits(cut):
    raise InputError(
      f'cut gradients of width {width} are those of logits of {width} classes'
      f' that are added, not of {num_classes}; set --classes {width}, or --top'
      ' model.'
    )
  return 'model'


def _select_truth(setting: Setting, rows: Rows) -> Optional[np.ndarray]:
  """Selects the labels [N] of the rows, refuses others than classes."""
  labels = setting.labels
  if labels is None:
    if setting.granted:
      raise InputError('--granted draws of labels that are told; set --labels.')
    return None
  truth = np.array([labels.get(row, -1) for row in rows.ids.tolist()])
  missing = rows.ids[truth < 0]
  if missing.size:
    raise InputError(
      f'--labels has none for {missing.size} of {truth.size} rows, such as row'
      f' {missing[0]}; give the labels of all rows, by their number.'
    )
  if truth.max() >= setting.num_classes:
    raise InputError(
      f'--labels has class {truth.max()}, which is not in 0..'
      f'{setting.num_classes - 1}; set --classes, or number classes from 0.'
    )
  return truth


def _judge(answer: Answer, setting: Setting, truth) -> Attempt:
  """Judges an answer by its own trust, and by the truth."""
  num_classes = setting.num_classes
  scored = np.ones(len(answer.scores), bool)
  if answer.skip is not None:
    scored = ~answer.skip
  accuracy = renamed = None
  if truth is not None and scored.any():
    scores = jnp.asarray(answer.scores[scored], jnp.float32)
    y = jax.nn.one_hot(truth[scored], num_classes)
    renamed = float(metrics.permuted_label_accuracy(scores, y))
    if answer.named:
      accuracy = float(metrics.label_accuracy(scores, y))
  return Attempt(
    name=answer.name,
    granted=answer.granted,
    counts=_count(answer.scores.argmax(1), num_classes),
    named=answer.named,
    confidence=_pool(answer.trust, num_classes),
    accuracy=accuracy,
    renamed=renamed,
  )


def _pool(trust, num_classes) -> Optional[float]:
  """Returns the mean trust of all rows; guessing where there is none.

  Returns:
    None where most rows have none.
  """
  if trust is None or not np.isfinite(trust).mean() > 0.5:
    return None
  return float(np.nan_to_num(trust, nan=1 / num_classes).mean())


def _guess(setting, truth, num_rows) -> list[Attempt]:
  """Lists ways to guess: every class alike, and the most frequent one."""
  num_classes = setting.num_classes
  even = Attempt(
    name='guessing',
    granted=(),
    counts=tuple(
      num_rows // num_classes + (i < num_rows % num_classes)
      for i in range(num_classes)
    ),
    named=True,
    guess=True,
    confidence=1 / num_classes,
    accuracy=None if truth is None else 1 / num_classes,
  )
  if truth is None:
    return [even]
  counts = _count(truth, num_classes)
  largest = int(np.argmax(counts))
  majority = Attempt(
    name='largest class',
    granted=('which class is the largest',),
    counts=tuple(num_rows * (i == largest) for i in range(num_classes)),
    named=True,
    guess=True,
    accuracy=counts[largest] / num_rows,
  )
  return [even, majority]


def _select_leak(attempts) -> Optional[float]:
  """Returns the largest share that an attack names, if any is known."""
  shares = [
    a.confidence if a.accuracy is None else a.accuracy
    for a in attempts
    if a.named
  ]
  return max((share for share in shares if share is not None), default=None)


def _compare_visits(results):
  """Says whether a row's label changes from step to step."""
  for answer in results:
    trust = answer.trust
    if answer.name != 'direct' or trust is None:
      continue
    changed = (trust < 1).mean()
    if changed > 0:
      yield (
        f'{changed:.1%} of the rows bear another label in another step; labels'
        ' that are drawn anew (label differential privacy) would explain it.'
      )


def _count(labels, num_classes) -> tuple[int, ...]:
  return tuple(map(int, np.bincount(labels, minlength=num_classes)))


def _list_assumptions(setting: Setting) -> tuple[Assumption, ...]:
  """Lists what is told, then what is assumed instead."""
  values = setting._asdict()
  unused = ('granted', 'top') if setting.sealed else ('activation', 'bottom')
  for field in ('labels', 'told', *unused):
    del values[field]
  names = {'num_classes': 'classes'}
  listed = [
    Assumption(names.get(field, field), value, field in setting.told)
    for field, value in values.items()
  ]
  return tuple(sorted(listed, key=lambda a: not a.told))
