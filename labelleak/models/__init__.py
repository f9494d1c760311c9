"""Classifiers: one family a file, loaded by name.

Conventions that the rest of the package relies on:

- A model is a Flax module called as `model(x [B, ...], train=False)`; it
  returns logits `[B, K]`, with no softmax. Images are `[B, H, W, C]`.
- Variables are {'params'} and, with batch norm, {'batch_stats'}. `train=False`
  uses the running statistics, so rows of a batch do not see each other; FL
  clients run so (see `hfl`).
- The classifier is a Dense called `head`. A map is flattened in PyTorch's
  order (channels first) before a Dense, and submodules carry PyTorch's names,
  dots replaced by underscores inside one level, so that weights convert.
- Initialisation is that of the library that the published runs used; it decides
  the results (LLBG paper, Sections 5 and 6).
- Constructors take `num_classes` and options as keywords and return a module.
"""

from typing import Any

from flax import linen as nn

from labelleak import lazy, registry
from labelleak.base import Forward

KINDS = (nn.Module,)

__getattr__, __dir__ = lazy.modules(__name__)


def forward(model: nn.Module) -> Forward:
  """Returns a model's pass in training and evaluation mode.

  In training, what else it is given goes to the module (`bert.Mix`).
  """

  def apply(variables, x, *, train, key, **inputs):
    if not train:
      return model.apply(variables, x, train=False), variables
    rest = {k: v for k, v in variables.items() if k != 'params'}
    options = dict(rngs={'dropout': key}, mutable=list(rest))
    h, updated = model.apply(variables, x, train=True, **inputs, **options)
    return h, {**variables, **updated}

  return apply


def load(name: str, **hyper: Any) -> nn.Module:
  """Builds a model, `load('vgg.vgg19', num_classes=100)`: `registry.load`."""
  return registry.load('models', name, **hyper)


def names() -> list[str]:
  """Lists what `load` builds."""
  return registry.names('models')
