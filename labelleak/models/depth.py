"""Models divided at another depth: a bottom, and the remainder of it.

The split depth study of Fu et al. (USENIX Security 2022, supplement) moves
layers between the bottoms and the top and leaves open how a top goes on from
several parties' maps. Here it joins them along the width, as the parts of an
image lie: what is left of the network sees the maps of the whole image, and has
the parameters that it had in a single bottom. Batch norm and activation stay
with the layer before them.

  bottom     a ResNet that ends after a stage and sends its maps
  remainder  what goes on from there: the other stages, pooling and classifier
  chain      one model and then another, such as `remainder` and the published
             top, or a whole bottom and layers of the top
"""

import chex
from flax import linen as nn

from labelleak import registry, validate
from labelleak.base import InputError
from labelleak.models import resnet
from labelleak.spec import Spec


class Chain(nn.Module):
  """[B, ...] -> [B, K], through two models; submodules first, then."""

  first: nn.Module
  then: nn.Module

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    return self.then(self.first(x, train), train)


def bottom(*, num_classes: int, model: Spec, stages: int) -> resnet.ResNet:
  """Builds a ResNet [B, H, W, C] up to a stage, maps [B, W H C] by columns.

  Args:
    num_classes: of no matter, as the classifier is not here.
    model: name and options of the whole ResNet.
    stages: how many stay; 0 is the first convolution alone.

  Raises:
    InputError: no ResNet, or not that many stages.
  """
  return _resnet(num_classes, model, stages).clone(end=stages + 1)


def remainder(
  *, num_classes: int, model: Spec, stages: int, height: int
) -> resnet.ResNet:
  """Builds what `bottom` left, on parties' maps side by side: [B, D] -> [B, K].

  Arguments are those of `bottom`, and `height`, H of the parties' images, all
  the same.

  Raises:
    InputError: see `bottom`. At trace time: embeddings that are no such maps.
  """
  whole = _resnet(num_classes, model, stages)
  halvings = max(stages - 1, 0) + 2 * whole.imagenet
  for _ in range(halvings):
    height = -(-height // 2)
  return whole.clone(begin=stages + 1, height=height)


def chain(*, num_classes: int, width: int, first: Spec, then: Spec) -> Chain:
  """Chains `first`, which ends in `width` numbers, and `then`: -> [B, K].

  Raises:
    InputError: no such model, or options that it lacks.
  """
  return Chain(
    registry.build('models', first, num_classes=width),
    registry.build('models', then, num_classes=num_classes),
  )


def _resnet(num_classes, model, stages):
  """Builds a whole ResNet that has so many stages."""
  whole = registry.build('models', model, num_classes=num_classes)
  if not isinstance(whole, resnet.ResNet):
    raise InputError(f'{model["name"]} has no stages to cut at; use a ResNet.')
  validate.whole('stages', stages, 0, len(whole.blocks), model['name'])
  return whole
