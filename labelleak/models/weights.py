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

import os
import re
from typing import Optional, Union
import zipfile

import chex
from flax import traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from labelleak.base import InputError

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
# Counters that no layer reads, and what BERT was pretrained with.
_IGNORED = re.compile(
  r'.*(num_batches_tracked|position_ids)|(bert\.)?pooler\..*|cls\..*'
)
# Released BERTs stand below a prefix, and bear TensorFlow's names of a norm.
_RENAMED = (
  (re.compile(r'^bert\.'), ''),
  (re.compile(r'LayerNorm\.gamma$'), 'LayerNorm.weight'),
  (re.compile(r'LayerNorm\.beta$'), 'LayerNorm.bias'),
)


def load(
  path: Union[str, os.PathLike],
  variables: chex.ArrayTree,
  *,
  head: str = 'load',
) -> chex.ArrayTree:
  """Reads a PyTorch state_dict into variables of the same model.

  Args:
    path: an .npz or .safetensors file of the state_dict's tensors.
    variables: {'params', 'batch_stats'?}, from the model's `init`.
    head: 'load', or 'fresh' to keep the classifier of `variables` (all modules
      called head...), such as when the file was trained for other classes.

  Returns:
    A tree like `variables`.

  Raises:
    InputError: the file cannot be read, or a tensor is missing, left over or of
      another shape.
  """
  if head not in ('load', 'fresh'):
    raise InputError(f"head={head!r} is unknown; use 'load' or 'fresh'.")
  state = _read(path)
  leaves = traverse_util.flatten_dict(variables)
  kept = _is_head if head == 'fresh' else lambda key: key[1] == 'head'
  names = {
    key: _names(key, leaf) for key, leaf in leaves.items() if not kept(key)
  }
  rest = state.keys() - {name for group in names.values() for name in group}
  classifier = _classifier(path, rest, state)
  if head == 'fresh':
    rest -= {f'{classifier}.weight', f'{classifier}.bias'}
  else:
    ours = leaves.keys() - names.keys()
    names |= {key: [_join(classifier, key[-1])] for key in ours}
    rest -= {name for key in ours for name in names[key]}
  loaded = {
    key: _convert(path, names[key], state, key, leaf) if key in names else leaf
    for key, leaf in leaves.items()
  }
  if rest:
    raise InputError(
      f'{path} holds {_some(rest)}, which the model has no place for; choose'
      ' the model (and its form, depth, head_bias) that it was saved from.'
    )
  return traverse_util.unflatten_dict(loaded)


def head(
  path: Union[str, os.PathLike],
  *,
  kernel: Optional[str] = None,
  bias: Optional[str] = None,
) -> dict[str, chex.Array]:
  """Reads a classifier's gradient, made anywhere, for `hfl.View(grads=...)`.

  Torch's weight [K, H] is told from a kernel [H, K] by the length of the bias.
  Where that cannot tell, since H = K or there is no bias, the name does: a
  tensor called 'kernel' or '...kernel' is [H, K], any other one [K, H].

  Args:
    path: an .npz or .safetensors file.
    kernel: name of the weight's tensor, such as 'fc.weight'.
    bias: name of the bias's tensor. With neither name given, tensors called
      'kernel' or 'weight', and 'bias', are read; else the only matrix and the
      only vector of the file. With one name given, only that tensor is read.

  Returns:
    {'kernel': [H, K], 'bias': [K]} in float32, without what is absent.

  Raises:
    InputError: the file cannot be read, a name is not in it, more than one
      tensor may be meant, or the shapes are not those of a linear layer.
  """
  state = _read(path)
  if kernel is None and bias is None:
    kernel = _find(path, state, 2, 'kernel', ('kernel', 'weight'))
    bias = _find(path, state, 1, 'bias', ('bias',))
  leaves = {}
  for leaf, name, ndim in (('kernel', kernel, 2), ('bias', bias, 1)):
    if name is None:
      continue
    if name not in state:
      raise InputError(
        f'{path} holds no {name!r}; set {leaf}= to one of {_some(state)}.'
      )
    if state[name].ndim != ndim:
      raise InputError(
        f'{path}: {name} {state[name].shape} must have {ndim} dimensions to be'
        f' the {leaf} of a linear layer; set {leaf}= to another tensor.'
      )
    leaves[leaf] = jnp.asarray(state[name], jnp.float32)
  if not leaves:
    raise InputError(
      f'{path} holds no matrix and no vector; save the gradient of the head.'
    )
  if 'kernel' not in leaves:
    return leaves
  shape = leaves['kernel'].shape
  of_torch = not kernel.endswith('kernel')
  if 'bias' in leaves:
    num_classes = leaves['bias'].size
    if num_classes not in shape:
      raise InputError(
        f'{path}: {kernel} {shape} does not fit {bias} [{num_classes}]; one'
        ' side must be the number of classes: set kernel= and bias= alike.'
      )
    if shape[0] != shape[1]:
      of_torch = shape[0] == num_classes
  return leaves | ({'kernel': leaves['kernel'].T} if of_torch else {})


def _find(path, state, ndim, leaf, defaults):
  """The name of the head's `leaf`, None where no tensor has `ndim` axes."""
  for name in defaults:
    if name in state:
      return name
  found = [name for name, value in state.items() if value.ndim == ndim]
  if len(found) > 1:
    raise InputError(
      f'{path} holds {_some(found)}, each of which may be the {leaf}; set'
      f' {leaf}= to one of them.'
    )
  return found[0] if found else None


def _read(path):
  """{name: array} of a file, without what no model needs."""
  path = os.fspath(path)
  if not path.endswith(('.npz', '.safetensors')):
    raise InputError(
      f'{path} is neither .npz nor .safetensors; save the state_dict as one'
      ' (see labelleak/models/weights.py).'
    )
  try:
    if path.endswith('.npz'):
      with np.load(path, allow_pickle=False) as file:
        state = dict(file)
    else:  # Flax's reader, because NumPy's knows no bfloat16
      state = safetensors.flax.load_file(path)
  except (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
  ) as e:
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise InputError(
      f'{path} cannot be read ({reason}); it must hold plain arrays, not'
      ' pickled objects.'
    ) from e
  return {
    _renamed(name): np.asarray(value)
    for name, value in state.items()
    if not _IGNORED.fullmatch(name)
  }


def _renamed(name):
  for old, new in _RENAMED:
    name = old.sub(new, name)
  return name


def _is_head(key):
  return key[1].startswith('head')


def _join(module, leaf):
  leaf = _LEAVES.get(leaf, leaf)
  return f'{module}.{leaf}' if module else leaf


def _names(key, leaf):
  """Torch's tensors behind the leaf at (collection, *modules, name)."""
  _, *modules, name = key
  modules = [re.sub(r'_(?=\d)', '.', module) for module in modules]
  stem = _SCANNED.get(modules[0]) if modules else None
  if stem is None:
    return [_join('.'.join(modules), name)]
  return [
    _join('.'.join([stem, str(i), *modules[1:]]), name)
    for i in range(leaf.shape[0])
  ]


def _classifier(path, names, state):
  """The module of the one matrix among `names`; 'head' where there is none."""
  found = [
    name.removesuffix('.weight')
    for name in names
    if name.endswith('.weight') and state[name].ndim == 2
  ]
  if len(found) > 1:
    raise InputError(
      f'{path} holds {_some(found)}, of which one may be the head; choose the'
      ' model that the file was saved from.'
    )
  return found[0] if found else 'head'


def _convert(path, names, state, key, leaf):
  """The tensors `names` as the leaf at `key`."""
  missing = [name for name in names if name not in state]
  if missing:
    fresh = ", or head='fresh'" if key[1] == 'head' else ''
    raise InputError(
      f'{path} lacks {_some(missing)} for {"/".join(key)} {leaf.shape};'
      f' choose the model that the file was saved from{fresh}.'
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
    parts.append(part)
  return jnp.asarray(np.stack(parts) if scanned else parts[0], leaf.dtype)


def _transpose(tensor, leaf, ndim):
  """Torch's layout to Flax's; a patch or 1x1 convolution may be a matmul."""
  if leaf == 'kernel' and tensor.ndim == 4:
    tensor = tensor.transpose(2, 3, 1, 0)
    return tensor.reshape(-1, tensor.shape[3]) if ndim == 2 else tensor
  return tensor.T if leaf == 'kernel' else tensor


def _some(names):
  names = sorted(names)
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more
