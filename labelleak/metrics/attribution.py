"""What a joint model looks at: Grad-CAM and the reliance on each party.

For whoever holds the whole model; no attack sees any of it. Both read only
`predict`: P x [B, ...] -> probabilities [B, K] of a joint model in evaluation
mode, such as `functools.partial(protocol.predict, state)`.
"""

from collections.abc import Callable, Sequence

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from labelleak.base import InputError

# P x [B, ...] -> probabilities [B, K], in evaluation mode
Predict = Callable[[Sequence[chex.Array]], chex.Array]


def reliance(
  key: chex.PRNGKey,
  predict: Predict,
  xs: Sequence[chex.Array],
  y: chex.Array,
) -> chex.Array:
  """Returns the share of the accuracy that rests on each party, -> [P].

  Permutation importance: what accuracy loses where a party's rows, hence its
  embeddings, are shuffled over the batch; negative losses count as none, and
  shares add up to 1. A model that loses nothing relies on nobody: zeros. All
  parties' rows xs, P x [B, ...], have one permutation; labels are y [B, K].
  """
  order = jax.random.permutation(key, len(y))

  def accuracy(xs):
    return (predict(xs).argmax(-1) == y.argmax(-1)).mean()

  whole = accuracy(xs)
  losses = jnp.stack(
    [
      whole - accuracy((*xs[:p], x[order], *xs[p + 1 :]))
      for p, x in enumerate(xs)
    ]
  )
  losses = jnp.maximum(losses, 0.0)
  return losses / jnp.maximum(losses.sum(), 1e-12)


def gradcam(
  predict: Predict, xs: Sequence[chex.Array], *, layer: str = 'conv1'
) -> chex.Array:
  """Maps where the joint model looks, P x [B, H, W_p, C] -> [B, H, sum W_p].

  Grad-CAM (Selvaraju et al., 2017) as in Fu et al.: activations A of a layer of
  every bottom, before normalisation, weighted with the mean over space of the
  gradient of the predicted class's log-probability; the parties' maps lie side
  by side, *then* ReLU, less the least and over the largest of an example, so
  that the parts can be compared.

  `layer` names the convolution in every bottom.

  Raises:
    InputError: the bottoms have no such layer, or not one in each.
  """
  shapes = []
  jax.eval_shape(_tap(predict, layer, None, shapes), xs)
  if len(shapes) != len(xs):
    raise InputError(
      f'layer={layer!r} was met {len(shapes)} times in {len(xs)} bottoms; name'
      ' a convolution that each of them has once.'
    )
  taps = [jnp.zeros(shape) for shape in shapes]
  label = predict(xs).argmax(-1)

  def score(taps):
    activations = []
    p = _tap(predict, layer, taps, activations)(xs)
    p = jnp.take_along_axis(p, label[:, None], -1)
    return jnp.log(jnp.maximum(p, 1e-30)).sum(), activations

  grads, activations = jax.grad(score, has_aux=True)(taps)
  maps = [
    (g.mean((1, 2), keepdims=True) * a).sum(-1)
    for g, a in zip(grads, activations)
  ]
  heat = jax.nn.relu(jnp.concatenate(maps, -1))
  heat -= heat.min((1, 2), keepdims=True)
  return heat / jnp.maximum(heat.max((1, 2), keepdims=True), 1e-12)


def _tap(predict, layer, taps, outputs):
  """Returns `predict` that adds taps to what the layer of each bottom returns.

  Bottoms run in the order of the parties. Without taps it notes shapes in
  `outputs`, with them the sums.
  """

  def interceptor(next_fun, args, kwargs, context):
    out = next_fun(*args, **kwargs)
    if context.method_name != '__call__' or context.module.path != (layer,):
      return out
    if taps is None:
      outputs.append(out.shape)
      return out
    out = out + taps[len(outputs)]
    outputs.append(out)
    return out

  def run(xs):
    with nn.intercept_methods(interceptor):
      return predict(xs)

  return run
