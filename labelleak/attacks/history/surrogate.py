"""The attacker's own classifier of its half, taught by what steps say.

Steps say of a row's label what their odds are; a network p(y | x) makes what
they say likeliest, sum_k p(k | x) exp(odds_k), so that rows alike teach each
other. A row is named by a network that has not seen what steps say of it.
"""

import functools
from typing import NamedTuple

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

_FOLDS = 2
_WIDTHS, _DROPOUT = (256, 256), 0.3
_BATCH, _LR = 256, 2e-3
_EPOCHS = 30  # of the rows that are named, in so many steps:
_FEWEST, _MOST = 300, 1500
_TEMPERATURES = np.geomspace(0.5, 4.0, 13)


class _Net(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, train=False):
    for width in _WIDTHS:
      x = nn.relu(nn.Dense(width)(x))
      x = nn.Dropout(_DROPOUT, deterministic=not train)(x)
    # Taught by nothing, it says nothing.
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)


def name_rows(
  key: chex.PRNGKey, x: chex.Array, odds: chex.Array, seen: np.ndarray
) -> chex.Array:
  """Returns log probabilities of labels [N, K] by networks that odds teach.

  Rows in two folds are named by a network of the other fold each, rows that no
  step has seen by both.

  Args:
    key: of folds, networks and batches.
    x: [N, F] own features.
    odds: [N, K] log odds of labels, of all steps.
    seen: [N] which rows have any.
  """
  fold_key, fit_key = jax.random.split(key)
  x = jnp.asarray(x, jnp.float32)
  told = x[np.flatnonzero(seen)]  # rows of no step scale nothing
  scale = jnp.maximum(told.std(), 1e-6)  # pixels hardly used stay small
  x = (x - told.mean(0, keepdims=True)) / scale
  fold = np.asarray(jax.random.permutation(fold_key, len(x))) % _FOLDS
  rows = np.zeros((_FOLDS, len(x)), np.int32)
  counts = np.zeros(_FOLDS, np.int32)
  for f in range(_FOLDS):
    taught = np.flatnonzero(seen & (fold != f))
    rows[f, : len(taught)], counts[f] = taught, len(taught)
  steps = np.clip(_EPOCHS * counts.max() // _BATCH, _FEWEST, _MOST)
  keys = jax.random.split(fit_key, _FOLDS)
  logits = _fit(keys, x, odds, rows, counts, steps)
  logits = jnp.where(
    jnp.asarray(seen)[:, None],
    logits[fold, jnp.arange(len(x))],
    jax.nn.log_softmax(logits).mean(0),
  )
  likely = lambda t: _log_likelihood(logits / t, odds)[seen].sum()
  temperature = max(_TEMPERATURES, key=lambda t: float(likely(t)))
  return jax.nn.log_softmax(logits / temperature)


def _log_likelihood(logits, odds):
  """Returns that of what steps say of each row, up to a constant."""
  return jax.nn.logsumexp(jax.nn.log_softmax(logits) + odds, axis=-1)


class _State(NamedTuple):
  params: chex.ArrayTree
  opt_state: chex.ArrayTree


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None, 0, 0, None))
def _fit(key, x, odds, rows, count, steps):
  """Returns logits of all rows [N, K], by a net of `count` of them."""
  init_key, step_key = jax.random.split(key)
  net = _Net(odds.shape[1])
  schedule = lambda n: _LR * (1 + jnp.cos(jnp.pi * n / steps)) / 2
  tx = optax.adam(schedule)

  def step(i, state):
    batch_key, drop_key = jax.random.split(jax.random.fold_in(step_key, i))
    most = jnp.maximum(count, 1)
    batch = rows[jax.random.randint(batch_key, (_BATCH,), 0, most)]

    def loss(params):
      out = net.apply(
        {'params': params}, x[batch], train=True, rngs={'dropout': drop_key}
      )
      taught = jnp.where(count > 0, odds[batch], 0.0)
      return -_log_likelihood(out, taught).mean()

    grads = jax.grad(loss)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state)
    return _State(optax.apply_updates(state.params, updates), opt_state)

  params = net.init(init_key, x[:1])['params']
  state = _State(params, tx.init(params))
  state = jax.lax.fori_loop(0, steps, step, state)
  return net.apply({'params': state.params}, x)
