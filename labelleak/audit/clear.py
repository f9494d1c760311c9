"""Attacks on cut gradients that were received in the clear."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, base, vfl
from labelleak.attacks.scores import directions
from labelleak.audit import answers
from labelleak.audit.answers import Answer, Rows, Setting
from labelleak.base import Labelled
from labelleak.messages import Step

_ROUNDING = 4e-3  # of a line's size, as bfloat16 leaves it
_FEW = 0.01  # share of lines that noise alone explains


def attack(
  key: jax.Array, steps: tuple[Step, ...], rows: Rows, setting: Setting
) -> tuple[list[Answer], list[str]]:
  """Runs the attacks that cut gradients support; returns warnings, too."""
  cut = np.concatenate([step.cut_grads for step in steps])
  sizes = np.concatenate([np.full(len(s.rows), len(s.rows)) for s in steps])
  if setting.top == 'model':
    return _read_directions(key, steps, rows, setting), []
  fits, warnings = _check(cut, sizes, setting)
  answer = _name_directly(cut, fits, rows, setting)
  if fits.mean() > 1 - _FEW:
    return [answer], warnings
  return [answer, *_read_directions(key, steps, rows, setting)], warnings


def _name_directly(cut, fits, rows, setting) -> Answer:
  """Names labels by signs: `scores.direct`."""
  logits = cut if cut.shape[1] > 1 else answers.split_gradient(jnp.array(cut))
  known = vfl.Known(num_classes=setting.num_classes, batch_size=len(cut))
  view = answers.make_view(jnp.asarray(logits))
  infer = attacks.load('scores.direct').infer
  scores = np.asarray(infer(jax.random.key(0), view, known))
  scale = np.abs(scores).max(1, keepdims=True)
  return Answer(
    name='direct',
    scores=rows.average(scores / np.where(scale > 0, scale, 1.0)),
    trust=answers.pool_trust(rows, scores.argmax(1), fits),
  )


def _check(cut, sizes, setting) -> tuple[np.ndarray, list[str]]:
  """Returns which lines are as the loss makes them, [M], and warnings."""
  nonzero = cut.any(1)
  largest = np.abs(cut).max(1)
  if cut.shape[1] == 1:
    fits = nonzero
  else:
    size = np.abs(cut).sum(1)
    zero_sum = np.abs(cut.sum(1)) <= _ROUNDING * size
    fits = (cut < 0).sum(1) == 1
    if setting.loss == 'softmax':
      fits &= zero_sum
  warnings = [*_explain_misfits(cut, fits | ~nonzero, setting)]
  if setting.loss == 'taylor':
    even = [abs(largest * scale - 0.5) < 1e-3 for scale in (1, sizes)]
    return fits & np.logical_or(*even), [*warnings, *_explain_taylor(even)]
  bound = 1 / sizes if setting.reduction == 'mean' else 1.0
  wild = largest > (1 + _ROUNDING) * bound
  if wild.mean() > _FEW and fits.mean() > 0.5:
    most = float((largest / bound).max())
    warnings.append(_explain_scale(most, largest.max(), setting))
    if largest.max() > 1 + _ROUNDING or 'reduction' in setting.told:
      fits &= ~wild
  return fits, warnings


def _explain_misfits(cut, fits, setting) -> Iterator[str]:
  """Says why lines of logits may not be as the loss makes them."""
  share = 1 - fits.mean()
  if share <= _FEW:
    return
  start = f'{share:.0%} of the cut gradients are not those of added logits'
  size = np.abs(cut).sum(1)
  zero_sum = (np.abs(cut.sum(1)) <= _ROUNDING * size).mean() > 1 - _FEW
  single = ((cut < 0).sum(1) == 1).mean() > 1 - _FEW
  if single and setting.loss == 'softmax':
    yield (
      f'{start} under softmax: one entry is negative, but they do not sum to'
      ' zero; --loss sigmoid would explain it.'
    )
  elif zero_sum:
    yield (
      f'{start} under one-hot labels: they sum to zero, but not one entry alone'
      ' is negative; soft or confused labels (smoothing, CoAE) would explain'
      ' it.'
    )
  else:
    yield (
      f'{start} under {setting.loss}: noise, or a model above the cut (--top'
      ' model), would explain it, and the sign then names less.'
    )


def _explain_scale(times, largest, setting) -> str:
  """Says what a cut gradient beyond the bound of its loss means."""
  start = (
    f'A cut gradient is {times:.3g} times as large as the {setting.reduction}'
    ' loss of a batch allows'
  )
  if setting.reduction == 'mean' and largest <= 1 + _ROUNDING:
    return f'{start}; a summed loss (--reduction sum) would explain it.'
  return f'{start}; noise, a loss scale or class weights would explain it.'


def _explain_taylor(even) -> list[str]:
  """Says where the sign of FATE's residue is no certain label."""
  if np.logical_or(*even).mean() > 1 - _FEW:
    return []
  return [
    'The sign of .25 z - .5 y is the label while the joint score z is within 2'
    ' of 0; nothing in the log tells where it is not.'
  ]


def _read_directions(key, steps, rows, setting) -> list[Answer]:
  """Reads norms and directions, whatever lies above the cut."""
  grant_key, cluster_key = jax.random.split(key)
  num_classes = setting.num_classes
  results = []
  if num_classes == 2:
    results.append(_compare_norms(steps, rows))
  first = np.concatenate([step.cut_grads for step in steps])[rows.first]
  cut = jnp.asarray(first)
  if setting.granted:
    results += _compare_directions(grant_key, cut, rows, setting)
  cluster = base.jit_once(
    lambda key, cut: directions.cluster(key, cut, num_classes)
  )
  groups = np.asarray(cluster(cluster_key, cut))
  results.append(Answer('groups', np.eye(num_classes)[groups], named=False))
  return results


def _compare_norms(steps, rows) -> Answer:
  """Names the rows of large gradients class 1: `scores.norm`."""
  infer = attacks.load('scores.norm').infer
  scores = [
    infer(
      jax.random.key(0),
      answers.make_view(jnp.asarray(step.cut_grads)),
      vfl.Known(num_classes=2, batch_size=len(step.rows)),
    )
    for step in steps
  ]
  return Answer(
    name='norm',
    scores=rows.average(np.concatenate(scores)),
    granted=('that class 1 has the larger gradients',),
  )


def _compare_directions(key, cut, rows, setting) -> list[Answer]:
  """Names directions by labelled rows: `scores.similarity`, `scores.cosine`."""
  truth = np.array([setting.labels[row] for row in rows.ids.tolist()])
  order = np.asarray(jax.random.permutation(key, len(truth)))
  places = np.concatenate(
    [
      order[truth[order] == label][: setting.granted]
      for label in range(setting.num_classes)
    ]
  )
  skip = np.isin(np.arange(len(truth)), places)
  ids = jnp.asarray(rows.ids)[:, None]
  y = jnp.eye(setting.num_classes)[truth[places]]
  known = vfl.Known(
    num_classes=setting.num_classes,
    batch_size=len(truth),
    labelled=Labelled(ids[places], y),
  )
  view = answers.make_view(cut, x=ids)
  names = ['similarity', *(['cosine'] if setting.num_classes == 2 else [])]
  return [
    Answer(
      name=name,
      scores=np.asarray(
        attacks.load(f'scores.{name}').infer(jax.random.key(0), view, known)
      ),
      granted=(f'{len(places)} labelled rows, {setting.granted} a class',),
      skip=skip,
    )
    for name in names
  ]
