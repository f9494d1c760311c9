"""What the loss says that a gradient of added logits looks like.

A line of (S - Y) / B has one negative entry, that of the label; it sums to zero
under softmax, and no entry exceeds 1 / B. Soft labels, noise and a model above
the cut break one of these.
"""

from collections.abc import Iterator

import numpy as np

from labelleak.audit.answers import Setting

FEW = 0.01  # share of lines that may be odd by rounding
_ROUNDING = 4e-3  # of a line's size, as bfloat16 leaves it


def is_logits(cut: np.ndarray) -> bool:
  """Tells whether gradients [M, D] are those of D logits under softmax."""
  return bool(_is_softmax(cut, 0.0).mean() > 1 - FEW)


def check(
  cut: np.ndarray,
  sizes: np.ndarray,
  setting: Setting,
  *,
  error: float = 0.0,
) -> tuple[np.ndarray, list[str]]:
  """Checks gradients of logits that are added against their loss.

  Args:
    cut: [M, K] or [M, 1].
    sizes: [M] rows of the batch of each line.
    setting: what is told of the loss.
    error: of an entry, as a share of its line's largest.

  Returns:
    [M] whether a line is as the loss makes it, so that its sign is the label
    that entered the loss; and warnings of what contradicts it.
  """
  nonzero = cut.any(1)
  largest = np.abs(cut).max(1)
  if cut.shape[1] == 1:
    fits = nonzero
  elif setting.loss == 'softmax':
    fits = _is_softmax(cut, error)
  else:
    fits = _is_single(cut, error)
  warnings = [*_explain_misfits(cut, fits | ~nonzero, setting)]
  if setting.loss == 'taylor':
    even = [abs(largest * scale - 0.5) < 1e-3 + error for scale in (1, sizes)]
    return fits & np.logical_or(*even), [*warnings, *_explain_taylor(even)]
  bound = 1 / sizes if setting.reduction == 'mean' else 1.0
  wild = largest > (1 + _ROUNDING + error) * bound
  if wild.mean() > FEW and fits.mean() > 0.5:
    most = float((largest / bound).max())
    warnings.append(_explain_scale(most, largest.max(), setting))
    if largest.max() > 1 + _ROUNDING or 'reduction' in setting.told:
      fits &= ~wild
  return fits, warnings


def _is_softmax(cut, error) -> np.ndarray:
  """Tells which lines are (S - Y) / B of one-hot labels, [M]."""
  return _is_single(cut, error) & _is_balanced(cut, error)


def _is_single(cut, error) -> np.ndarray:
  """Tells which lines have one negative entry, [M]."""
  largest = np.abs(cut).max(1, keepdims=True)
  return (cut < -error * largest).sum(1) == 1


def _is_balanced(cut, error) -> np.ndarray:
  """Tells which lines sum to zero, [M]."""
  return np.abs(cut.sum(1)) <= (_ROUNDING + error) * np.abs(cut).sum(1)


def _explain_misfits(cut, fits, setting) -> Iterator[str]:
  """Says why lines of logits may not be as the loss makes them."""
  share = 1 - fits.mean()
  if share <= FEW:
    return
  start = f'{share:.0%} of the cut gradients are not those of added logits'
  zero_sum = _is_balanced(cut, 0.0).mean() > 1 - FEW
  single = _is_single(cut, 0.0).mean() > 1 - FEW
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
  if np.logical_or(*even).mean() > 1 - FEW:
    return []
  return [
    'The sign of .25 z - .5 y is the label while the joint score z is within 2'
    ' of 0; nothing in the log tells where it is not.'
  ]
