"""Pretrained weights: a PyTorch `state_dict` into the variables of any family.

The file is an .npz or .safetensors of the state_dict's tensors, made where
torch is at hand; nothing pickled is read:

  state = torchvision.models.resnet50(weights='IMAGENET1K_V1').state_dict()
  np.savez('resnet50.npz', **{k: v.numpy() for k, v in state.items()})

Families need no tables, because a submodule bears its torch name: '.' joins
levels, and an underscore before a digit stands for a dot within one, so that
'layer1_0' / 'conv1' is 'layer1.0.conv1'. Two exceptions: `blocks` and `encoder`
are scanned modules, whose leaves stack 'blocks.0', 'blocks.1', ... and
'encoder.layer.0', ...; and `head` is the one linear layer of the file that no
other name claims ('fc', 'classifier.6', ...). Of a released BERT the encoder is
read, with head='fresh'; its pooler and the heads of its pretraining are not.
Maps are flattened channels first, as in torch, so no kernel is permuted beyond
[O, I, h, w] -> [h, w, I, O] and [O, I] -> [I, O].

`head` reads a classifier's gradient alone, for attacks on updates that no model
of this package made.
"""

import re

import chex
from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from labelleak import validate
from labelleak.base import InputError
from labelleak.models.weights import state_dicts
from labelleak.models.weights.gradients import head
from labelleak.models.weights.state_dicts import Path, State

__all__ = ['assign', 'head', 'load']

# Flax's leaf -> torch's; other leaves (cls_token) are called alike.
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
  'embedding': 'weight',
}
_SCANNED = {'blocks': 'blocks', 'encoder': 'encoder.layer'}
_REMEDIES = {
  'head': "set num_classes as in the file, or head='fresh'",
  'pos_embed': 'use the image size and patch of the file',
}


def load(
  path: Path,
  variables: chex.ArrayTree,
  *,
  head: str = 'load',
) -> chex.ArrayTree:
  """Reads a PyTorch state_dict into variables of the same model.

  The names of wrapping modules ('module.', '_orig_mod.', '_module.') are left
  out. A file of gradients has no buffers: variables={'params': ...} loads it.

  Args:
    path: an .npz or .safetensors file of the state_dict's tensors.
    variables: {'params', 'batch_stats'?}, from the model's `init`.
    head: 'load', or 'fresh' to keep the classifier of `variables` (all modules
      called head...), such as when the file was trained for other classes.

  Returns:
    A tree like `variables`.

  Raises:
    InputError: the file cannot be read, or a tensor is missing, left over, of
      another shape, no floating point or not finite.
  """
  validate.one_of('head', head, ('load', 'fresh'))
  return assign(path, state_dicts.read(path), variables, head=head)


def assign(
  path: Path,
  state: State,
  variables: chex.ArrayTree,
  *,
  head: str = 'load',
) -> chex.ArrayTree:
  """Puts the tensors of a state_dict in the place of variables, as `load`.

  Args:
    path: to name where they are from.
    state: the tensors by their names in torch.
    variables, head: as of `load`.

  Raises:
    InputError: as of `load`.
  """
  validate.one_of('head', head, ('load', 'fresh'))
  state = state_dicts.of_torch(path, state)
  leaves = traverse_util.flatten_dict(variables)
  excluded = _is_head if head == 'fresh' else lambda key: key[1] == 'head'
  names = {
    key: _names(key, leaf) for key, leaf in leaves.items() if not excluded(key)
  }
  unused = state.keys() - {name for group in names.values() for name in group}
  _check_buffers(path, names, state)
  _check_prefix(path, names, state)
  classifier = _classifier(path, unused, state)
  if head == 'fresh':
    unused -= {f'{classifier}.weight', f'{classifier}.bias'}
  else:
    of_head = leaves.keys() - names.keys()
    names |= {key: [_join(classifier, key[-1])] for key in of_head}
    unused -= {name for key in of_head for name in names[key]}
  converted = {
    key: _convert(path, names[key], state, key, leaf) if key in names else leaf
    for key, leaf in leaves.items()
  }
  if unused:
    raise InputError(
      f'{path} holds {state_dicts.abbreviate(unused)}, which the model has no'
      ' place for; choose the model (and its form, depth, head_bias) that it'
      ' was saved from.'
    )
  return traverse_util.unflatten_dict(converted)


def _is_head(key):
  return key[1].startswith('head')


def _join(module, leaf):
  leaf = _LEAVES.get(leaf, leaf)
  return f'{module}.{leaf}' if module else leaf


def _names(key, leaf):
  """Names torch's tensors behind the leaf at (collection, *modules, name)."""
  _, *modules, name = key
  modules = [re.sub(r'_(?=\d)', '.', module) for module in modules]
  stem = _SCANNED.get(modules[0]) if modules else None
  if stem is None:
    return [_join('.'.join(modules), name)]
  return [
    _join('.'.join([stem, str(i), *modules[1:]]), name)
    for i in range(leaf.shape[0])
  ]


def _check_buffers(path, names, state):
  """Refuses a file that has all but the running statistics."""
  buffers = {n for k, g in names.items() if k[0] == 'batch_stats' for n in g}
  others = {n for k, g in names.items() if k[0] == 'params' for n in g}
  if buffers and others <= state.keys() and not buffers & state.keys():
    raise InputError(
      f'{path} lacks {state_dicts.abbreviate(buffers)}, the buffers of batch'
      " norm; save all of state_dict(), or load gradients into {'params':"
      " variables['params']}."
    )


def _check_prefix(path, names, state):
  """Refuses a state_dict of a module that holds the model."""
  needed = {name for group in names.values() for name in group}
  first = min(needed, default='')
  for name in state:
    prefix = name.removesuffix(first)
    if (
      prefix not in ('', name) and {prefix + n for n in needed} <= state.keys()
    ):
      raise InputError(
        f'{path} holds names that begin with {prefix!r}, such as {name}; save'
        ' the state_dict of that module itself.'
      )


def _classifier(path, names, state):
  """Finds the module of the one matrix among `names`; 'head' without one."""
  modules = [
    name.removesuffix('.weight')
    for name in names
    if name.endswith('.weight') and state[name].ndim == 2
  ]
  if len(modules) > 1:
    raise InputError(
      f'{path} holds {state_dicts.abbreviate(modules)}, of which one may be the'
      ' head; choose the model that the file was saved from.'
    )
  return modules[0] if modules else 'head'


def _convert(path, names, state, key, leaf):
  """Converts the tensors `names` to the leaf at `key`."""
  missing = [name for name in names if name not in state]
  if missing:
    fresh = ", or head='fresh'" if key[1] == 'head' else ''
    raise InputError(
      f'{path} lacks {state_dicts.abbreviate(missing)} for {"/".join(key)}'
      f' {leaf.shape}; choose the model that the file was saved from{fresh}.'
    )
  scanned = key[1] in _SCANNED
  shape = leaf.shape[1:] if scanned else leaf.shape
  parts = []
  for name in names:
    part = _transpose(state[name], key[-1], len(shape))
    if part.shape != shape:
      remedy = _REMEDIES.get(key[1], 'choose the model it was saved from')
      raise InputError(
        f'{path}: {name} {state[name].shape} does not fit {"/".join(key)}'
        f' {shape}; {remedy}.'
      )
    state_dicts.check_values(path, name, part)
    parts.append(part)
  return jnp.asarray(np.stack(parts) if scanned else parts[0], leaf.dtype)


def _transpose(tensor, leaf, ndim):
  """Turns torch's layout to Flax's, a 1x1 or patch convolution to a matmul."""
  if leaf == 'kernel' and tensor.ndim == 4:
    tensor = tensor.transpose(2, 3, 1, 0)
    return tensor.reshape(-1, tensor.shape[3]) if ndim == 2 else tensor
  return tensor.T if leaf == 'kernel' else tensor
