"""The bottom model behind a log, as a function that can be differentiated.

`stack` reads dense layers off the names and shapes of the parameters; `load`
takes any model of this package, whose torch names `models.weights` knows.
"""

from collections.abc import Mapping
import re
from typing import NamedTuple, Optional, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import base, compilation, models, validate
from labelleak.base import InputError
from labelleak.messages.logs import Log
from labelleak.models import weights
from labelleak.models.weights import gradients
from labelleak.models.weights.state_dicts import State

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'sigmoid': jax.nn.sigmoid,
  'leaky': lambda x: jax.nn.leaky_relu(x, 0.01),
  'tanh': jnp.tanh,
}
_FAR = 0.05  # of an embedding from the one that was logged, by its own size


class Convert(Protocol):
  """Makes a tree of Flax of the parameters, or gradients, of a step."""

  def __call__(self, state: State) -> chex.ArrayTree: ...


class Bottom(NamedTuple):
  """A party's bottom model.

  Attributes:
    apply: its training-mode pass, (variables, x [B, ...], key) -> h [B, D].
    convert: a step's `params` or `param_grads` -> a tree like 'params'.
    rest: variables beside 'params', which this pass does not read.
    text: what it is, in words.
  """

  apply: base.Bottom
  convert: Convert
  rest: Mapping[str, chex.ArrayTree]
  text: str


def stack(log: Log, *, activation: str = 'relu') -> Bottom:
  """Makes the bottom of dense layers whose parameters a log has.

  Layers follow each other as their widths allow, else as the numbers in their
  names; inputs are flattened. A 'weight' is torch's [O, I], a 'kernel' [I, O].

  Args:
    log: of the party.
    activation: between layers: relu, sigmoid, leaky or tanh.

  Raises:
    InputError: parameters that are not those of dense layers one after the
      other, or no such activation.
  """
  validate.one_of('activation', activation, ACTIVATIONS)
  first = log.steps[0]
  layers = _group(log.path, first.params)
  order = _order(log.path, first, layers)
  names = [f'linear{i}' for i in range(len(order) - 1)] + ['head']
  act = ACTIVATIONS[activation]

  def apply(variables, x, key):
    del key
    h = jnp.reshape(jnp.asarray(x, jnp.float32), (len(x), -1))
    for name in names:
      layer = variables['params'][name]
      h = h @ layer['kernel']
      if 'bias' in layer:
        h = h + layer['bias'][None]
      h = act(h) if name != 'head' else h
    return h

  def convert(state):
    return {
      name: _transpose(state, layers[module])
      for name, module in zip(names, order)
    }

  text = f', {activation}, '.join(layers[module].kernel for module in order)
  return Bottom(apply, convert, {}, f'the layers {text}')


def load(log: Log, spec: Mapping[str, object]) -> Bottom:
  """Makes the bottom that is a model of this package, such as 'mlp.mlp2'.

  Args:
    log: of the party; its names are torch's.
    spec: name and arguments of `models.load`, `num_classes` being D.

  Raises:
    InputError: no such model, one that does not take x, or parameters of
      another one.
  """
  model = models.load(**spec)
  x = jnp.asarray(log.steps[0].x, jnp.float32)
  try:
    variables = compilation.jit_once(model.init)(jax.random.key(0), x)
  except Exception as e:  # whatever a model makes of shapes that it cannot take
    line = (str(e).splitlines() or [type(e).__name__])[0]
    raise InputError(
      f'{log.path}: {spec["name"]} takes no x {list(x.shape)} ({line}); log the'
      ' input as the model has it, [M, H, W, C] of images.'
    ) from e
  params = {'params': variables['params']}
  rest = {name: v for name, v in variables.items() if name != 'params'}

  def apply(variables, x, key):
    options = dict(rngs={'dropout': key}, mutable=list(rest))
    x = jnp.asarray(x, jnp.float32)
    return model.apply(variables, x, train=True, **options)[0]

  def convert(state):
    return weights.assign(log.path, state, params)['params']

  return Bottom(apply, convert, rest, f'{spec["name"]} of this package')


def embed(log: Log, bottom: Bottom, step: int) -> np.ndarray:
  """Returns the embedding [B, D] of the step at a place in the log.

  Raises:
    InputError: it is far from the one that was logged.
  """
  record = log.steps[step]
  variables = {'params': bottom.convert(record.params), **bottom.rest}
  h = np.asarray(bottom.apply(variables, record.x, jax.random.key(0)))
  if record.h is None:
    return h
  size = np.linalg.norm(record.h)
  far = np.inf
  if h.shape == record.h.shape:
    far = np.linalg.norm(h - record.h) / max(size, 1e-3)
  if not far < _FAR:
    raise InputError(
      f'{log.path}: {bottom.text} makes of x in step {record.number} an'
      f' embedding {list(h.shape)} that is {far:.3g} times the size of h'
      f' {list(record.h.shape)} away from it; set --activation or --bottom as'
      ' the model has it, log params before they are updated, or leave out h if'
      ' noise was added to it.'
    )
  return record.h


class _Layer(NamedTuple):
  """Names of a dense layer's tensors, and how they stand."""

  kernel: str
  bias: str  # '' without one
  torch: bool  # whether the kernel is [O, I]
  widths: tuple[int, int]  # I, O


def _group(path, params) -> dict[str, _Layer]:
  """Groups parameters to dense layers, by the names of their modules."""
  modules = {}
  for name, value in params.items():
    module, leaf = gradients.parse(name)
    leaf = 'bias' if leaf in gradients.BIASES else leaf and 'kernel'
    if value.ndim != (1 if leaf == 'bias' else 2) or leaf is None:
      raise InputError(
        f'{path}: params/{name} {list(value.shape)} is of no dense layer by its'
        ' name (weight, kernel, bias) and shape; set --bottom to a model of'
        ' this package.'
      )
    if leaf in modules.setdefault(module, {}):
      raise InputError(
        f'{path}: params/{name} is a second {leaf} of {module!r}; log one.'
      )
    modules[module][leaf] = name
  return {
    module: _describe(path, module, modules[module], params)
    for module in sorted(modules, key=_natural)
  }


def _natural(name):
  """Makes a key that sorts numbers in names by their value."""
  parts = re.split(r'(\d+)', name)
  return [(int(p), '') if p.isdigit() else (-1, p) for p in parts]


def _describe(path, module, leaves, params) -> _Layer:
  """Describes the layer of the leaves that a module has."""
  if 'kernel' not in leaves:
    raise InputError(
      f'{path}: params/{leaves["bias"]} stands without a weight; log all'
      f' parameters of {module!r}, or set --bottom.'
    )
  kernel, bias = leaves['kernel'], leaves.get('bias', '')
  size = len(params[bias]) if bias else None
  shape = params[kernel].shape
  if size not in (None, *shape):
    raise InputError(
      f'{path}: params/{kernel} {list(shape)} does not fit {bias} [{size}]; log'
      ' both of one layer.'
    )
  torch = gradients.is_torch(path, kernel, shape, size)
  return _Layer(kernel, bias, torch, shape[::-1] if torch else shape)


def _order(path, step, layers) -> list[str]:
  """Orders layers so that each takes what the one before it makes."""
  inputs = int(np.prod(step.x.shape[1:]))
  order = _chain(layers, inputs)
  if order is not None:
    return order
  listed = ', '.join(
    f'{layer.kernel} {list(layer.widths)}' for layer in layers.values()
  )
  raise InputError(
    f'{path}: x has {inputs} features, which {listed} do not take one after the'
    ' other; log the input of the bottom itself, or set --bottom.'
  )


def _chain(layers, width) -> Optional[list[str]]:
  """Chains layers that begin with a width, the earlier ones first.

  Returns:
    None where that cannot use all of them.
  """
  if not layers:
    return []
  for module in layers:
    start, end = layers[module].widths
    if start == width:
      others = {name: v for name, v in layers.items() if name != module}
      rest = _chain(others, end)
      if rest is not None:
        return [module, *rest]
  return None


def _transpose(state, layer) -> dict[str, np.ndarray]:
  """Returns {'kernel' [I, O], 'bias' [O]?} of a step's tensors."""
  kernel = state[layer.kernel]
  leaves = {'kernel': jnp.asarray(kernel.T if layer.torch else kernel)}
  if layer.bias:
    leaves['bias'] = jnp.asarray(state[layer.bias])
  return leaves
