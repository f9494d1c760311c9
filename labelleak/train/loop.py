"""The loop behind everything that learns.

`fit` scans a pure step over chunks of batches; between chunks it shows a
progress bar, calls back, and saves. Steps are numbered from 1, so that step n
is also the number of steps done. Chunks begin at multiples of `chunk` whether
or not a run was interrupted: resumed, it executes the same compiled programs on
the same batches, and ends with the same bits.
"""

from collections.abc import Callable, Mapping
import functools
import sys
from typing import Any, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from labelleak import validate
from labelleak.train import checkpoints

Metrics = Mapping[str, chex.Numeric]  # scalars such as loss and accuracy
# (state, batch) -> (state, metrics), pure
Step = Callable[[chex.ArrayTree, Any], tuple[chex.ArrayTree, Metrics]]
# numbers of steps [n], from 1 -> leaves [n, ...], on the host
Batches = Callable[[np.ndarray], Any]
# (steps done, the chunk's mean metrics)
Callback = Callable[[int, Mapping[str, float]], None]
CHUNK = 20  # steps between two returns to the host


@functools.lru_cache(maxsize=4)
def _compile(step):
  """Compiles a scan of a step, once for all trainings that share the step."""
  return jax.jit(lambda state, batch: jax.lax.scan(step, state, batch))


def _numbers(done, steps, chunk):
  """Numbers the steps of the chunk after `done`, from 1; none at the end."""
  return np.arange(done, min((done // chunk + 1) * chunk, steps)) + 1


def _check_finite(metrics, done):
  """Raises where a metric [n] of the steps after `done` is not finite."""
  for name, values in metrics.items():
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
      raise FloatingPointError(
        f'{name} is {values[bad[0]]} at step {done + bad[0] + 1}; lower lr,'
        ' clip the gradients or look for invalid inputs.'
      )


def fit(
  step: Step,
  state: chex.ArrayTree,
  batches: Batches,
  *,
  steps: int,
  chunk: int = CHUNK,
  callback: Optional[Callback] = None,
  workdir: Optional[str] = None,
  made_by: str = '',
  every: float = 0.0,
  progress: Optional[bool] = None,
) -> chex.ArrayTree:
  """Runs `step` over `steps` batches and returns the final state.

  Args:
    step: (state, batch) -> (state, metrics), pure; metrics is a dict of scalars
      such as loss and accuracy.
    state: pytree of arrays, typed keys included.
    batches: (numbers [n]) -> leaves [n, ...], the batches of the steps with
      these numbers (from 1), on the host. The same numbers must give the same
      batches, or a resumed run differs.
    steps: total number of steps, those of an earlier run included.
    chunk: steps between two returns to the host; what is left over at the end
      is a shorter chunk.
    callback: (step, metrics) after every chunk: steps done, and the chunk's
      mean metrics as floats.
    workdir: where the state is saved between chunks and resumed from. It is
      found by what made it: `state`, `step`, `made_by` and the code.
    made_by: tells this training apart from others of the same start and step,
      by their batches: the data and the order.
    every: seconds between two saves; 0 saves after every chunk.
    progress: whether to show a bar; None shows it on a terminal.

  Raises:
    FloatingPointError: a metric is not finite; names the step. The state saved
      last is from before that chunk.
    InputError: workdir holds a run that is longer than `steps`.
  """
  validate.whole('steps', steps, 0)
  validate.whole('chunk', chunk, 1)
  scan = _compile(step)
  hide = None if progress is None else not progress
  state = jax.tree.map(jnp.asarray, state)
  identity = ''
  if workdir is not None:
    batch = jax.tree.map(lambda a: a[0], batches(np.array([max(steps, 1)])))
    identity = checkpoints.identify(step, state, batch, made_by)
  with checkpoints.open_store(workdir, identity, every) as store:
    state, done = store.restore(state, steps) if store else (state, 0)
    if done and progress is not False:
      line = f'train: takes over {done} of {steps} steps.'
      tqdm.tqdm.write(line, file=sys.stderr)
    bar = tqdm.tqdm(
      total=steps, initial=done, disable=hide, unit='step', desc='train'
    )
    with bar:
      numbers = _numbers(done, steps, chunk)
      batch = batches(numbers) if numbers.size else None
      while done < steps:
        state, metrics = scan(state, batch)
        following = _numbers(numbers[-1], steps, chunk)
        if following.size:  # made on the host while the device is at work
          batch = batches(following)
        metrics = jax.device_get(metrics)
        _check_finite(metrics, done)
        done = int(numbers[-1])
        if store:
          store.save(done, state, last=done == steps)
        means = {name: float(np.mean(v)) for name, v in metrics.items()}
        bar.set_postfix(means, refresh=False)
        bar.update(len(numbers))
        if callback:
          callback(done, means)
        numbers = following
  return state
