"""Gradients of dense models as outer products that are never formed.

With A [R, in] what went into a dense layer and D [R, out] the gradient of the
loss by what came out, the gradient of its kernel is A^T D, and

  <A^T D, G> = sum((A G) * D),   |A^T D|^2 = sum((A A^T) * (D D^T)).

An attack that compares gradients asks for no more. R rows, four images say,
then cost R (in + out) numbers where the kernel has in * out, and trials that
are vmapped share the weights as one matrix product. The observed G of R
examples has rank R, too (`thin`).

A and D are read from Flax's own layers by intercepting their calls; a model
whose parameters are not those of its dense layers, each called once, has no
such form.
"""

from typing import NamedTuple, Optional

import chex
from flax import linen as nn
from flax import traverse_util
from flax.core import tracers
import jax
import jax.numpy as jnp

from labelleak import hfl
from labelleak.base import Apply, Batch
from labelleak.models import layers

_MARGIN = 4  # directions beyond the rank, so that the small ones are found


class Factors(NamedTuple):
  """Gradient of one layer: kernel A^T D, bias 1^T D."""

  inputs: chex.Array  # A [R, in]
  cut: chex.Array  # D [R, out]


class Thin(NamedTuple):
  """A kernel [in, out] of low rank, left @ right^T."""

  left: chex.Array  # [in, r], orthonormal
  right: chex.Array  # [out, r]


# Of a whole model: path of a layer in 'params' -> its factors, or its leaves
# {'kernel': [in, out] or `Thin`, 'bias': [out]}.
LayerFactors = dict[tuple[str, ...], Factors]
LayerGradients = dict[tuple[str, ...], dict[str, chex.Array | Thin]]


def gradient(
  apply: Apply, variables: chex.ArrayTree, batch: Batch
) -> Optional[LayerFactors]:
  """Returns the gradient of the mean cross entropy by layer.

  None where the model has no such factors.
  """
  modules = _modules(variables['params'])
  if modules is None:
    return None
  outputs = []

  def forward(x):
    trace = tracers.current_trace()

    def record(call, args, kwargs, context):
      out = call(*args, **kwargs)
      # What a transformation inside, as nn.remat, computes cannot be taken out.
      if _is_dense(context) and tracers.current_trace() == trace:
        outputs.append((context.module.path, out))
      return out

    with nn.intercept_methods(record):
      apply(variables, x)
    return dict(outputs)

  zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(forward, batch.xs[0]))
  if sorted(path for path, _ in outputs) != sorted(modules):
    return None

  def loss(taps):
    inputs = {}

    def tap(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if not _is_dense(context):
        return out
      inputs[context.module.path] = args[0]
      return out + taps[context.module.path]

    with nn.intercept_methods(tap):
      value = hfl.cross_entropy(apply)(variables, batch)
    return value, inputs

  cuts, inputs = jax.grad(loss, has_aux=True)(zeros)
  rows = lambda a: a.reshape(-1, a.shape[-1])
  return {k: Factors(rows(inputs[k]), rows(cuts[k])) for k in cuts}


def inner(factors: LayerFactors, grads: LayerGradients) -> chex.Array:
  """Returns <factors, grads> over all parameters, []."""
  total = 0.0
  for path, (inputs, cut) in factors.items():
    layer = grads[path]
    if isinstance(kernel := layer['kernel'], Thin):
      total += ((inputs @ kernel.left) * (cut @ kernel.right)).sum()
    else:
      total += ((inputs @ kernel) * cut).sum()
    if 'bias' in layer:
      total += cut.sum(0) @ layer['bias']
  return total


def squared_norm(factors: LayerFactors, grads: LayerGradients) -> chex.Array:
  """Returns |factors|^2 over the parameters that `grads` has, []."""
  total = 0.0
  for path, (inputs, cut) in factors.items():
    gram = inputs @ inputs.T + ('bias' in grads[path])
    total += (gram * (cut @ cut.T)).sum()
  return total


def by_layer(grads: chex.ArrayTree) -> LayerGradients:
  """Groups the leaves of a tree like 'params' by layer."""
  grouped = {}
  for path, leaf in traverse_util.flatten_dict(grads).items():
    grouped.setdefault(path[:-1], {})[path[-1]] = leaf
  return grouped


def thin(key: chex.PRNGKey, grads: LayerGradients, rank: int) -> LayerGradients:
  """Thins the kernels of gradients of known rank.

  A randomised range finder: exact up to rounding if no kernel's rank exceeds
  `rank`; of one that does, the part outside of it is dropped.
  """
  thinned = {}
  for path, layer in grads.items():
    key, sketch_key = jax.random.split(key)
    kernel = layer['kernel']
    width = rank + _MARGIN
    if 2 * width < min(kernel.shape):
      sketch = kernel @ jax.random.normal(sketch_key, (kernel.shape[1], width))
      left, _ = jnp.linalg.qr(sketch)
      kernel = Thin(left, kernel.T @ left)
    thinned[path] = dict(layer, kernel=kernel)
  return thinned


def _modules(params):
  """Returns paths of the layers, None if a leaf is not of a dense layer."""
  grouped = by_layer(params)
  for layer in grouped.values():
    ranks = {name: jnp.ndim(leaf) for name, leaf in layer.items()}
    if ranks not in (dict(kernel=2), dict(kernel=2, bias=1)):
      return None
  return list(grouped)


def _is_dense(context):
  dense = isinstance(context.module, layers.Dense | nn.Dense)
  return dense and context.method_name == '__call__'
