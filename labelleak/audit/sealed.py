"""Attacks on a party's own parameter gradients, under a sealed link."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, compilation, vfl
from labelleak.attacks.linear import closed_form, solver
from labelleak.audit import answers, patterns
from labelleak.audit.answers import Answer, Rows, Setting
from labelleak.base import InputError
from labelleak.messages import Log, bottoms

_UNEXPLAINED = 0.2  # of the gradients, above which confidence was seen to fail
_SURE = 0.8  # confidence of the labels by which a sum is told from a mean
_ERROR = 1e-2  # of the closed form, where it is exact but for rounding
_MOST_EQUATIONS = 256  # of a step whose residues are read
_GRANTED = 'its own model and inputs', 'the rows of each batch'
_NAMES = 'linear.last_layer', 'linear.expectation_propagation'


class Solutions(NamedTuple):
  """What both attacks say of one step.

  Attributes:
    cut: [B, K] cut gradients by the closed form.
    rank: [] of its equations, exact where B <= rank.
    posterior: [B, K] of expectation propagation.
    unexplained: [] share of the gradients' size that neither its labels nor
      their doubt explain.
  """

  cut: np.ndarray
  rank: int
  posterior: np.ndarray
  unexplained: float


def attack(
  key: jax.Array, log: Log, rows: Rows, setting: Setting
) -> tuple[list[Answer], list[str], list[str]]:
  """Runs the attacks that parameter gradients support.

  Returns:
    Answers, warnings, and remarks on what was read.

  Raises:
    InputError: a bottom of another kind, or whose outputs are no logits.
  """
  if setting.top == 'model':
    raise InputError(
      'own parameter gradients below a model of the active party are read by no'
      ' attack of this package; log cut_grads, if they are received.'
    )
  bottom = _make_bottom(log, setting)
  solve = functools.partial(_solve, _compile(bottom, setting))
  views = [_view(log, bottom, i, setting) for i in range(len(log.steps))]
  summed, notes = _is_summed(solve, key, views[0], setting)
  solutions = [
    solve(jax.random.fold_in(key, i), _divide(view, summed))
    for i, view in enumerate(views)
  ]
  notes = [f'The bottom is {bottom.text}.', *notes]
  results = [
    _answer_closed(log.steps, rows, solutions, setting),
    _answer_propagation(log.steps, rows, solutions),
  ]
  if views[0].h.shape[1] == 1 and all(map(_is_small, views)):
    views = [_divide(view, summed) for view in views]
    sound = np.isfinite(results[-1].trust)
    results.append(_answer_residues(key, rows, views, bottom, setting, sound))
  return results, [*_explain(log.steps, solutions)], notes


def _make_bottom(log, setting) -> bottoms.Bottom:
  """Makes the bottom of the layers in a log, or of a model of this package."""
  if not setting.bottom:
    return bottoms.stack(log, activation=setting.activation)
  h = log.steps[0].h
  width = setting.num_classes if h is None else h.shape[1]
  return bottoms.load(log, {'num_classes': width, **setting.bottom})


def _view(log, bottom, i, setting) -> vfl.View:
  """Makes the view of a step, whose bottom has K logits, or one of two."""
  step, h = log.steps[i], bottoms.embed(log, bottom, i)
  is_single = h.shape[1] == 1 and setting.num_classes == 2
  if h.shape[1] != setting.num_classes and not is_single:
    raise InputError(
      f'{log.path}: {bottom.text} has {h.shape[1]} outputs, which are no logits'
      f' of {setting.num_classes} classes; set --classes, or log cut_grads, if'
      ' they are received.'
    )
  return answers.make_view(
    None,
    jnp.asarray(h),
    x=jnp.asarray(step.x),
    variables={'params': bottom.convert(step.params), **bottom.rest},
    param_grads=bottom.convert(step.param_grads),
    key=jax.random.key(0),
  )


def _compile(bottom, setting):
  """Compiles both attacks; the sizes of a batch are those of its view."""

  def run(key, view):
    known = vfl.Known(setting.num_classes, len(view.h), bottom=bottom.apply)
    view, _ = view.check(_NAMES[1], known)
    return closed_form.solve(view, known), solver.solve(key, view, known)

  return compilation.jit_once(run)


def _solve(run, key, view) -> Solutions:
  """Runs both attacks on a view."""
  closed, end = run(key, view)
  return Solutions(
    cut=np.asarray(closed.u),
    rank=int(closed.rank),
    posterior=np.asarray(end.y),
    unexplained=float(end.unexplained),
  )


def _divide(view, summed) -> vfl.View:
  """Returns the view of the mean loss, of one whose loss was summed."""
  if not summed:
    return view
  mean = jax.tree.map(lambda g: g / len(view.h), view.param_grads)
  return view._replace(param_grads=mean)


def _is_summed(solve, key, view, setting) -> tuple[bool, list[str]]:
  """Tells whether the loss was summed: if told, or a mean explains nothing."""
  if 'reduction' in setting.told:
    return setting.reduction == 'sum', []
  mean = solve(key, view)
  if mean.unexplained < _UNEXPLAINED:
    return False, []
  total = solve(key, _divide(view, summed=True))
  sure = total.posterior.max(1).mean() > _SURE  # small gradients fit any doubt
  if not (sure and total.unexplained < _UNEXPLAINED):
    return False, []
  return True, [
    'The loss is taken for a sum over the batch, which explains the first step'
    f' to {1 - total.unexplained:.0%}, a mean to'
    f' {max(0, 1 - mean.unexplained):.0%}.'
  ]


def _answer_closed(steps, rows, solutions, setting) -> Answer:
  """Answers by least squares on the last layer; exact where B <= rank."""
  cut = np.concatenate([s.cut for s in solutions])
  sizes = np.concatenate([np.full(len(s.rows), len(s.rows)) for s in steps])
  ranks = np.concatenate(
    [np.full(len(step.rows), s.rank) for step, s in zip(steps, solutions)]
  )
  told = frozenset({'reduction'})  # which `_divide` made a mean
  mean = setting._replace(reduction='mean', told=told)
  fits, _ = patterns.check(cut, sizes, mean, error=_ERROR)
  return Answer(
    name=_NAMES[0].partition('.')[2],
    scores=rows.average(-cut * sizes[:, None]),
    granted=_GRANTED,
    trust=answers.pool_trust(rows, cut.argmin(1), fits & (sizes <= ranks)),
  )


def _answer_propagation(steps, rows, solutions) -> Answer:
  """Answers by the posterior, trusted where it explains what it reads."""
  posterior = rows.average(np.concatenate([s.posterior for s in solutions]))
  sound = np.concatenate(
    [
      np.full(len(step.rows), s.unexplained < _UNEXPLAINED)
      for step, s in zip(steps, solutions)
    ]
  )
  trust = np.where(
    rows.average(sound.astype(float)) > 0.5, posterior.max(1), np.nan
  )
  name = _NAMES[1].partition('.')[2]
  return Answer(name, posterior, granted=_GRANTED, trust=trust)


def _is_small(view) -> bool:
  """Returns whether a step's equations can be decomposed in a second."""
  numbers = sum(g.size for g in jax.tree.leaves(view.param_grads))
  return min(numbers, len(view.h)) <= _MOST_EQUATIONS


def _answer_residues(key, rows, views, bottom, setting, sound) -> Answer:
  """Answers by the residues of one logit, trusted where rows are `sound` [N].

  That is where the labels of expectation propagation explain the gradients:
  those of noise, too, have some set of residues.
  """
  loss = 'sigmoid' if setting.loss == 'softmax' else setting.loss
  attack = attacks.load('residues.epochs', loss=loss)
  known = vfl.Known(
    2, len(views[0].h), bottom=bottom.apply, num_rows=len(rows.ids)
  )
  memory, start = attack.init(known), 0
  for view in views:
    index = jnp.asarray(rows.place[start : start + len(view.h)])
    memory = attack.observe(memory, view._replace(index=index))
    start += len(view.h)
  odds = np.asarray(attack.infer(key, memory, known))
  posterior = np.asarray(jax.nn.softmax(odds))
  trust = np.where(sound, posterior.max(1), np.nan)
  return Answer('residues', posterior, granted=_GRANTED, trust=trust)


def _explain(steps, solutions):
  """Says in which steps the posterior is not to be believed."""
  wrong = [
    step.number
    for step, s in zip(steps, solutions)
    if not s.unexplained < _UNEXPLAINED
  ]
  if wrong:
    listed = ', '.join(map(str, wrong[:3])) + (
      ', ...' if len(wrong) > 3 else ''
    )
    yield (
      f'In {len(wrong)} of {len(steps)} steps ({listed}) the labels of'
      f' expectation propagation leave {_UNEXPLAINED:.0%} of the gradients or'
      ' more unexplained, so it claims nothing there: a trained model, whose'
      ' other parties know the labels, noise, momentum in place of a gradient,'
      ' or another loss would explain it.'
    )
