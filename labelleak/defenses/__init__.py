"""Defenses: gradient transformations on what one party is about to send.

Every constructor returns an optax transformation that acts on ONE unit: the
pytree of updates of one client in horizontal FL, the cut gradient [B, D] of one
batch on one party's link in vertical FL. vmap over clients and trials.
Randomness comes from the extra argument `key=`, so every unit draws its own;
what a transform remembers lives in its state. `contract` says what else reaches
`update`.

A new defense is a new file here, or anywhere: `mine.py` with a keyword-only
`transform` is what a config calls 'mine.transform'.
"""

from collections.abc import Sequence
import functools

import jax
import optax

from labelleak import registry
from labelleak.base import InputError
from labelleak.defenses.anomaly import screen
from labelleak.defenses.clipping import clip, clip_batch, clip_per_example
from labelleak.defenses.divergence import marvell
from labelleak.defenses.noise import gaussian, grad_perturb, laplace
from labelleak.defenses.rounding import (
  discretize,
  discretize_first,
  discretize_fixed,
)
from labelleak.defenses.selective import ppdl, ppdl_described
from labelleak.defenses.sparsity import compress, keep_largest, sparsify

# Ours go by their short names, in configs and in what `registry.names` lists.
for _ours in (
  *(gaussian, laplace, grad_perturb, marvell),
  *(clip, clip_batch, clip_per_example),
  *(compress, keep_largest, sparsify, ppdl, ppdl_described),
  *(discretize, discretize_fixed, discretize_first),
  screen,
):
  _ours.__module__ = __name__


def build(
  specs: Sequence[dict],
) -> optax.GradientTransformationExtraArgs:
  """The chain that a config describes; the empty one is the identity.

  >>> defense = build((dict(name='clip', max_norm=.1),
  ...                  dict(name='gaussian', stddev=.01)))

  Args:
    specs: dicts with `name`, a constructor of this package or an absolute
      import path such as 'optax.clip_by_global_norm', and its hyperparameters.

  Raises:
    InputError: unknown name, or a hyperparameter that is wrong or missing.
  """
  links = []
  for index, spec in enumerate(specs):
    hyper = dict(spec)
    if 'name' not in hyper:
      raise InputError(
        f'defense {spec!r} has no name; write dict(name=..., ...), one of:'
        f' {", ".join(registry.names("defenses"))}.'
      )
    make = functools.partial(registry.load, 'defenses', hyper.pop('name'))
    links.append(_with_own_key(index, make(**hyper)))
  chain = optax.chain(*links) if links else optax.identity()
  return optax.with_extra_args_support(chain)


def _with_own_key(index, tx):
  """Folds a link's place into `key`: links of a chain must not share noise."""
  tx = optax.with_extra_args_support(tx)

  def update(updates, state, params=None, *, key=None, **extra):
    if key is not None:
      key = jax.random.fold_in(key, index)
    return tx.update(updates, state, params, key=key, **extra)

  return optax.GradientTransformationExtraArgs(tx.init, update)
