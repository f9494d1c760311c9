"""How programs are compiled: kept for the next run, or in haste.

XLA:CPU compiles for seconds, and where it unrolls draws of random numbers for
minutes, what then runs for milliseconds. `jit_once` and `jit_seldom` leave out
optimisations that such programs do not pay back. Their values agree with those
of `jax.jit` up to rounding, and of traced arguments they are it.
"""

import functools
import os
from typing import Any, TypeVar

import jax

Function = TypeVar('Function')

# The emitters that XLA:CPU had before, which compile faster.
_EMITTERS = {'xla_cpu_use_fusion_emitters': False}


def keep_programs() -> None:
  """Keeps compiled programs in a cache, unless jax was told of one."""
  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update(
      'jax_compilation_cache_dir', os.path.expanduser('~/.cache/labelleak')
    )
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def jit_once(function: Function) -> Function:
  """Compiles what runs once, such as drawing a model's variables."""
  return _jit_at_level(function, 0)


def jit_seldom(function: Function) -> Function:
  """Compiles what runs a few times, for a second or so."""
  return _jit_at_level(function, 1)


def _jit_at_level(function, level):
  """Compiles with LLVM's optimisations of a level."""
  plain = jax.jit(function)

  @functools.cache
  def hasty():  # at top level only
    options = {'xla_backend_optimization_level': level, **_known_emitters()}
    return jax.jit(function, compiler_options=options)

  def run(*args):
    leaves = jax.tree.leaves(args)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    return (plain if traced else hasty())(*args)

  return run


@functools.cache
def _known_emitters() -> dict[str, Any]:
  """Returns the emitters' option, nothing where another XLA lacks it."""
  try:
    jax.jit(lambda: 0, compiler_options=_EMITTERS)()
  except jax.errors.JaxRuntimeError:
    return {}
  return _EMITTERS
