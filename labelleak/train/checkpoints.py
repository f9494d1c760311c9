"""States of trainings on disk, found by what made them.

A state lies in a folder that is named after the start, the step as it was
traced, what the caller says of seed, role and data, and the code. A training
that differs in any of them finds nothing there, and starts anew. Orbax takes a
second to import, which only a training that is stored pays.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import pathlib
import re
import time
from typing import Any, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import runs
from labelleak.base import InputError

_WORTH = 1.0  # seconds of training, at least, that are kept at the end


class Store:
  """The state of one training, written by Orbax's manager when that is due."""

  def __init__(self, manager: Any, every: float):
    self._manager, self._every = manager, every
    self._saved = time.perf_counter()

  def restore(
    self, state: chex.ArrayTree, steps: int
  ) -> tuple[chex.ArrayTree, int]:
    """Returns the saved state and its step, or the given one and 0.

    Raises:
      InputError: the saved state is beyond `steps`, or damaged.
    """
    import orbax.checkpoint as ocp

    manager = self._manager
    done = manager.latest_step()
    if done is None:
      return state, 0
    if done > steps:
      raise InputError(
        f'{manager.directory} is at step {done}, beyond steps={steps}; ask for'
        ' more steps or use another workdir.'
      )
    like = jax.tree.map(ocp.tree.to_shape_dtype_struct, dict(state=state))
    try:
      saved = manager.restore(done, args=ocp.args.StandardRestore(like))
    except Exception as e:  # whatever orbax makes of a damaged folder
      raise InputError(
        f'{manager.directory} is damaged ({type(e).__name__}); remove it.'
      ) from e
    return saved['state'], done

  def save(self, done: int, state: chex.ArrayTree, last: bool) -> None:
    """Writes the state after `done` steps, where enough time has passed."""
    import orbax.checkpoint as ocp

    passed = time.perf_counter() - self._saved
    if passed >= (min(self._every, _WORTH) if last else self._every):
      self._manager.save(done, args=ocp.args.StandardSave(dict(state=state)))
      self._saved = time.perf_counter()


@contextlib.contextmanager
def open_store(
  workdir: Optional[str], identity: str, every: float
) -> Iterator[Optional[Store]]:
  """Opens the checkpoints of a training under `workdir`; None without one.

  Args:
    workdir: of any number of trainings.
    identity: of this one, see `identify`.
    every: seconds between two saves; 0 saves whenever it can.
  """
  if workdir is None:
    yield None
    return
  import orbax.checkpoint as ocp

  options = ocp.CheckpointManagerOptions(
    max_to_keep=1, enable_async_checkpointing=False
  )
  path = pathlib.Path(workdir).resolve() / identity / 'checkpoints'
  with ocp.CheckpointManager(path, options=options) as manager:
    yield Store(manager, every)


def identify(
  step: Any, state: chex.ArrayTree, batch: chex.ArrayTree, made_by: str
) -> str:
  """Returns a name for all trainings of one origin, whatever their length.

  Args:
    step: (state, batch) -> (state, metrics).
    state: the start; its values count.
    batch: of one step; its shapes count.
    made_by: what else tells trainings apart.
  """
  traced = jax.make_jaxpr(step)(state, batch)
  # Functions are printed with their addresses, which change from run to run.
  program = re.sub(r' at 0x[0-9a-f]+', '', str(traced.jaxpr))
  digest = hashlib.sha256()
  digest.update(json.dumps([made_by, runs.code(), program]).encode())
  for leaf in [*jax.tree.leaves(state), *traced.consts]:
    if jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    digest.update(f'{array.dtype} {array.shape}'.encode() + array.tobytes())
  return digest.hexdigest()[:16]
