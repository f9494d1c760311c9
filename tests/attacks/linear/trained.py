"""Steps of models that are sure of most rows, with the truth of each."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import vfl
from labelleak.models.layers import BatchNorm

KEY = jax.random.key(0)
ROWS, CLASSES, FEATURES = 96, 5, 24


class Mlp(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(self.width, name='linear0')(x))
    return nn.Dense(CLASSES, name='head')(x)


class Coupled(nn.Module):
  """Rows see each other: hidden ones are centred over the batch."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(10, name='linear0')(x))
    return nn.Dense(CLASSES, name='head')(x - x.mean(0, keepdims=True))


class Normed(nn.Module):
  """Batch norm, which refuses one row by itself."""

  @nn.compact
  def __call__(self, x, train=False):
    x = BatchNorm(False, name='bn')(nn.Dense(10, name='linear0')(x))
    return nn.Dense(CLASSES, name='head')(nn.relu(x))


class Tokens(nn.Module):
  """A dense layer that several places of a row share."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(20, name='linear0')(x.reshape(len(x), 6, 4)))
    return nn.Dense(CLASSES, name='head')(x.sum(1))


@functools.cache
def observe(width, *, scale=4.0, wrong=0.1, seed=0, module=None):
  """A step of a model that is right on all rows but a share, and is sure.

  Returns (view, known, truth): truth is V = S - Y [B, K] and labels [B].
  """
  rng = np.random.default_rng(seed)
  key = jax.random.key(seed)
  module = module or Mlp(width)
  bottom = vfl.bottom(vfl.party(module, optax.sgd(0.1)))
  x = jnp.asarray(rng.normal(size=(ROWS, FEATURES)), jnp.float32)
  variables = module.init(key, x)
  params = jax.tree.map(lambda p: scale * p, variables['params'])
  variables = {**variables, 'params': params}
  h, pull = jax.vjp(
    lambda p: bottom({**variables, 'params': p}, x, key), params
  )
  logits = h + scale * jnp.asarray(rng.normal(size=h.shape), jnp.float32)
  labels = np.array(logits.argmax(1))
  drawn = rng.random(ROWS) < wrong
  labels[drawn] = rng.integers(0, CLASSES, drawn.sum())
  v = jax.nn.softmax(logits) - jax.nn.one_hot(labels, CLASSES)
  with jax.default_matmul_precision('highest'):
    grads = pull(v / ROWS)[0]
  view = vfl.View(x, h, variables, key, grads, None)
  return view, vfl.Known(CLASSES, ROWS, bottom=bottom), (np.asarray(v), labels)


def send(view, known, u):
  """Returns the view of a step of cut gradients u [B, K] of the batch's sum."""
  _, pull = jax.vjp(
    lambda p: known.bottom({**view.variables, 'params': p}, view.x, view.key),
    view.variables['params'],
  )
  with jax.default_matmul_precision('highest'):
    return view._replace(param_grads=pull(jnp.float32(u) / ROWS)[0])


def accuracy(scores, labels):
  return float((np.asarray(scores).argmax(1) == labels).mean())
