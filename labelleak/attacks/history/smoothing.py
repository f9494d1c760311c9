"""The attack that smooths a training's evidence over the own features.

A step's gain is how much of the process its evidence shows: first steps and
process are fitted in turn, late steps are measured by them. In the clear
`naming` chooses among fits of first steps, of all steps alike, and of all by
their gains; where links are sealed there is one fit, of `sealed`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from labelleak import validate
from labelleak.attacks.history import (
  diffusion,
  naming,
  process,
  sealed,
  trace,
  walks,
)
from labelleak.base import Attack, InputError, attack

_NAME = 'history.gaussian_process'
_LEAST = 1e-3  # gain of a step
_SURE = 0.5  # least share that is believed
_LEFT = 1e-2  # least share of Y's variance that is left of a row


def gaussian_process(
  *, anchors: int = 1500, neighbours: int = 10, rounds: int = 3
) -> Attack:
  """Builds the attack that smooths a training's evidence over its own features.

  Scores are log probabilities of the labels of all rows of the pool, [N, K];
  rows that were in no step are named by the others. Links in the clear are read
  by signs where nothing was added (`signs`), by the law of their noise where
  `defense` grants it (`laws`). Runs on the host.

  Args:
    anchors: of the kernel; memory is N of them, time N of them squared.
    neighbours: of a row among them.
    rounds: of fitting gains and process in turn, in the clear.

  Raises:
    InputError: an argument that is no positive whole number. (observe) See
      `trace.observe`. (infer) No step was observed.
  """
  sizes = dict(anchors=anchors, neighbours=neighbours, rounds=rounds)
  for field, value in sizes.items():
    validate.whole(f'gaussian_process: {field}', value, 1)

  def infer(key, memory, known):
    if not memory.steps:
      raise InputError(
        f'{_NAME} has observed no step; call observe(memory, view) each step.'
      )
    kernel_key, name_key = jax.random.split(key)
    kernel = diffusion.pool_spectrum(
      kernel_key, known.pool, anchors=anchors, neighbours=neighbours
    )
    if memory.sealed:
      mean = _explain_sealed(kernel, memory)
      return jnp.asarray(_score(mean, _find_seen(memory)), jnp.float32)
    memory = trace.read(memory)
    first = _first_steps(memory)
    fits = _fit_all(kernel, memory, first, rounds)
    scores = naming.name_rows(name_key, memory, fits, first)
    return jnp.asarray(scores, jnp.float32)

  return attack(
    infer,
    name=_NAME,
    kind='vertical',
    needs=('pool',),
    observe=trace.observe,
    init=trace.init,
  )


def _explain_sealed(kernel, memory):
  """Returns the posterior mean of Y - 1 / K [N, K].

  Late steps show as much of it as first ones foretell. What they show of a row
  by itself is how hard it is, the more so the more often, and is left out.
  """
  first = _first_steps(memory)
  early = tuple(s for s, is_first in zip(memory.steps, first) if is_first)
  late = tuple(s for s, is_first in zip(memory.steps, first) if not is_first)
  classes = memory.known.num_classes
  fit = sealed.fit(kernel, early, classes)
  if late:
    looks = np.array([sealed.foretell(fit, step) for step in late])
    shares = walks.smooth(looks[:, 0], looks[:, 1], looks[:, 2])
    unit = _measure_early(kernel, early, classes)
    shares = np.float32(np.clip(shares / unit, _LEAST, 1.0))
    late = tuple(s._replace(gain=g * s.gain) for s, g in zip(late, shares))
    late = tuple(sealed.restate_variance(fit, step) for step in late)
    early = tuple(s._replace(variance=fit.scale * s.variance) for s in early)
    fit = sealed.fit(kernel, early + late, classes)
  return fit.mean + sealed.explain_rows(fit, early)


def _score(mean, seen):
  """Returns log probabilities of labels, of a posterior mean of Y - 1 / K.

  A Gaussian posterior N(m, v) of a prior that is alike for all classes has log
  odds m / v of them, and v is what m leaves of the variance of Y: of rows that
  steps have seen one, of the others another.
  """
  classes = mean.shape[1]
  left = np.empty((len(mean), 1))
  for rows in (seen, ~seen):
    power = np.square(mean[rows]).sum() / max(rows.sum(), 1)
    left[rows] = max(1 / classes - power / (classes - 1), _LEFT / classes)
  return special.log_softmax(mean / left, axis=1)


def _find_seen(memory):
  """Returns whether a row of the pool was in any step [N]."""
  seen = np.zeros(memory.known.pool.size, bool)
  for step in memory.steps:
    seen[step.index] = True
  return seen


def _measure_early(kernel, early, classes):
  """Returns how much of what half of first steps foretell the others show.

  It is less than 1, by which late steps are measured, if a process is too sure;
  of few rows and much noise it is itself not sure.
  """
  halves = early[::2], early[1::2]
  if not halves[1]:
    return 1.0
  total = np.zeros(3)
  for some, others in (halves, halves[::-1]):
    fit = sealed.fit(kernel, some, classes)
    total += np.sum([sealed.foretell(fit, step) for step in others], axis=0)
  shown, power, _ = total
  return float(np.clip(shown / max(power, 1e-30), _SURE, 1.0))


def _fit_all(kernel, memory, first, rounds):
  """Returns fits, of which `naming` prefers the last: early ones, then all.

  A step's gain is measured against first steps alone: a process that late steps
  have shaped shows itself in them, right or wrong.
  """
  early = [_fit(kernel, memory, np.where(first, 1.0, _LEAST))]
  for _ in range(rounds):
    gains = _fit_gains(memory, early[-1].posterior)
    early.append(_fit(kernel, memory, np.where(first, gains, _LEAST)))
  gains = _fit_gains(memory, early[-1].posterior)
  alike = _fit(kernel, memory, np.ones(len(first)))
  every = _fit(kernel, memory, gains)
  fits = [early[0], alike, early[-1]]
  if first.all():
    return [*fits, every]
  late = _fit(kernel, memory, np.where(first, 0.0, gains)).posterior
  return [
    *fits,
    _stack(early[-1], early[-1], late.mean),
    _stack(every, early[-1], late.left_out),
  ]


def _fit(kernel, memory, gains):
  evidence, precision = trace.combine(memory, gains)
  posterior = process.explain(kernel, evidence, precision)
  return naming.Fit(gains, evidence, precision, posterior)


def _stack(fit, early, late):
  """Returns a fit where others' word of a row is of early and of late steps.

  Their shares foretell a row's early evidence best, which neither has seen. So
  what late steps have in common that is no label counts less, which one process
  of all steps would take for their signal.
  """
  weight = np.sqrt(early.precision)[:, None]
  words = [early.posterior.left_out, late]
  columns = np.stack([(weight * w).ravel() for w in words], 1)
  shares, *_ = np.linalg.lstsq(columns, (weight * early.evidence).ravel())
  word = sum(max(s, 0.0) * w for s, w in zip(shares, words))
  return fit._replace(posterior=fit.posterior._replace(left_out=word))


def _first_steps(memory):
  """Returns whether rows were new to a step [T], when softmaxes say little."""
  known, first = np.zeros(memory.known.pool.size, bool), []
  for step in memory.steps:
    first.append(not known[step.index].all())
    known[step.index] = True
  return np.array(first)


def _fit_gains(memory, posterior):
  """Returns how much of the process each step shows [T], 1 at the first."""
  shown, power, noise = [], [], []
  for step in memory.steps:
    mean = posterior.left_out[step.index]
    shown.append((mean * step.evidence).sum())
    power.append(np.square(mean).sum())
    noise.append(np.square(step.evidence).mean())
  gains = walks.smooth(*map(np.array, (shown, power, noise)))
  return np.maximum(gains / max(gains[0], _LEAST), _LEAST)
