"""MixMatch without augmentation: learning from few labels and many examples.

Fu et al. (USENIX Security 2022), Appendix B, after Berthelot et al. (2019),
with the hyperparameters and the order of events of the released code. A step
takes B labelled and B unlabelled examples:

  q = sharpen(softmax f(u), T)                guessed labels, no gradient
  (x', p'), (u', q') = mix((x, p), (u, q))    each with a random other example
  loss = CE(p', f(x')) + w ||q' - softmax f(u')||^2 / K
  w = weight * step / steps                   a ramp over the whole training

Then the optimizer steps, the average follows and the model decays. The model
that predicts is the average.

A model is a function of two trees, `trained` and `frozen`. Both hold Flax's
collections. Of `trained`, which has 'params', the parameters are trained and
everything is averaged and decayed, statistics of batch norm included, as in the
release. `frozen` is neither, but its statistics drift while training:
predictions use the `frozen` that training began with.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.base import InputError


class Batch(NamedTuple):
  """Labelled and unlabelled examples of one step."""

  x: chex.Array  # [B, ...] real-valued, or tokens for `mixtext`
  y: chex.Array  # [B, K] one-hot or soft
  u: chex.Array  # [U, ...] without labels; U = B here


class State(NamedTuple):
  """What training carries from step to step."""

  # {'params': ..., 'batch_stats': ...}, trained and averaged
  trained: chex.ArrayTree
  frozen: chex.ArrayTree  # what only drifts
  average: chex.ArrayTree  # like trained
  opt_state: chex.ArrayTree  # of trained['params']
  key: chex.PRNGKey  # constant; steps fold in their number
  count: chex.Array  # [] steps done


# A model in training mode: (trained, frozen, x [B, ...], key, **inputs such as
# `bert.Mix`) -> logits [B, K], and both trees, changed
Apply = Callable[..., tuple[chex.Array, chex.ArrayTree, chex.ArrayTree]]


class Method(NamedTuple):
  """Pure functions, in the order of `lax.scan`."""

  # (key, trained, frozen) -> State
  init: Callable[[chex.PRNGKey, chex.ArrayTree, chex.ArrayTree], State]
  # (State, Batch) -> (State, {'loss': []})
  step: Callable[[State, Batch], tuple[State, dict[str, chex.Array]]]


def sharpen(p: chex.Array, temperature: float) -> chex.Array:
  """Returns p_i^(1/T) / sum_j p_j^(1/T), [..., K] (Appendix B)."""
  p = p ** (1 / temperature)
  return p / p.sum(-1, keepdims=True)


def mix(
  key: chex.PRNGKey, tree: chex.ArrayTree, alpha: float, per_pair: bool = False
) -> chex.ArrayTree:
  """Mixes the rows of a tree with a random permutation of themselves.

  lambda ~ Beta(alpha, alpha), then max(lambda, 1 - lambda): each row stays the
  larger part of its mixture (Algorithm 5). One lambda for all rows, as in the
  release, or one for each pair, as in the paper.
  """
  leaves = jax.tree.leaves(tree)
  num = len(leaves[0])
  beta_key, order_key = jax.random.split(key)
  lam = jax.random.beta(beta_key, alpha, alpha, (num if per_pair else 1,))
  lam = jnp.maximum(lam, 1 - lam)
  order = jax.random.permutation(order_key, num)

  def mix_leaf(a):
    share = jnp.broadcast_to(lam, (num,)).reshape(-1, *[1] * (a.ndim - 1))
    return share * a + (1 - share) * a[order]

  return jax.tree.map(mix_leaf, tree)


def interleave(
  one: chex.Array, other: chex.Array
) -> tuple[chex.Array, chex.Array]:
  """Exchanges the second halves of two groups [B, ...]; its own inverse.

  Each then holds labelled and unlabelled examples: batch norm sees both.
  """
  half = len(one) // 2
  return (
    jnp.concatenate([one[:half], other[half:]]),
    jnp.concatenate([other[:half], one[half:]]),
  )


def losses(
  logits: chex.Array, p: chex.Array, guesses: chex.Array, q: chex.Array
) -> tuple[chex.Array, chex.Array]:
  """Returns cross entropy of the labelled, squared error of the others, [].

  Means over the rows of soft labels p, q [B, K], the second over classes, too
  (eq. 5 and 6).
  """
  labelled = optax.softmax_cross_entropy(logits, p).mean()
  return labelled, jnp.square(jax.nn.softmax(guesses) - q).mean()


def mixmatch(
  apply: Apply,
  tx: optax.GradientTransformation,
  *,
  steps: int,
  temperature: float = 0.8,
  alpha: float = 0.75,
  weight: float = 50.0,
  ema: float = 0.999,
  decay: float = 4e-5,
  per_pair: bool = False,
) -> Method:
  """Builds the training step of a model; defaults are the published ones.

  Args:
    apply: see `Apply`; the trees that it returns hold the new statistics.
    tx: on trained['params']; the release has Adam at 2e-3.
    steps: of the whole training, over which the weight ramps up from 0.
    temperature: T of the guesses.
    alpha: of the Beta distribution.
    weight: lambda_u, of the unlabelled loss at the end.
    ema: share of itself that the average keeps in a step.
    decay: share of `trained` that a step takes away; the release has .02 lr.
    per_pair: see `mix`.

  Raises:
    InputError: a hyperparameter out of its range. At trace time: examples that
      are no real numbers, or groups of unequal size.
  """
  validate.whole('steps', steps, 1)
  validate.positive('temperature', temperature)
  validate.positive('alpha', alpha)
  validate.at_least('weight', weight, 0)
  validate.within('ema', ema, '[0, 1]')
  validate.within('decay', decay, '[0, 1)')

  def step(state, batch):
    _check(batch)
    key = jax.random.fold_in(state.key, state.count)
    mix_key, *keys = jax.random.split(key, 4)
    logits, trained, frozen = apply(
      state.trained, state.frozen, batch.u, keys[0]
    )
    q = jax.lax.stop_gradient(sharpen(jax.nn.softmax(logits), temperature))
    x = jnp.concatenate([batch.x, batch.u])
    p = jnp.concatenate([batch.y, q])
    x, p = mix(mix_key, (x, p), alpha, per_pair)
    ramp = jnp.clip(state.count / steps, 0.0, 1.0)
    loss_fn = functools.partial(
      _loss, apply, trained, frozen, x, p, keys[1:], weight * ramp
    )
    grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (trained, frozen)), grads = grad(trained['params'])
    params = trained['params']
    updates, opt_state = tx.update(grads, state.opt_state, params)
    trained = {**trained, 'params': optax.apply_updates(params, updates)}
    average = jax.tree.map(
      lambda a, b: ema * a + (1 - ema) * b, state.average, trained
    )
    trained = jax.tree.map(lambda a: (1 - decay) * a, trained)
    count = state.count + 1
    state = State(trained, frozen, average, opt_state, state.key, count)
    return state, dict(loss=loss)

  return Method(functools.partial(start, tx), step)


def start(
  tx: optax.GradientTransformation,
  key: chex.PRNGKey,
  trained: chex.ArrayTree,
  frozen: chex.ArrayTree,
) -> State:
  """Returns the state before the first step."""
  opt_state = tx.init(trained['params'])
  count = jnp.zeros((), jnp.int32)
  return State(trained, frozen, trained, opt_state, key, count)


def _loss(apply, trained, frozen, x, p, keys, weight, params):
  """Returns the loss of mixed x [2B, ...] and labels p, and the new trees."""
  trained = {**trained, 'params': params}
  one, other = jnp.split(x, 2)
  one, other = interleave(one, other)
  one, trained, frozen = apply(trained, frozen, one, keys[0])
  other, trained, frozen = apply(trained, frozen, other, keys[1])
  first, second = jnp.split(p, 2)
  logits, guesses = interleave(one, other)
  labelled, unlabelled = losses(logits, first, guesses, second)
  return labelled + weight * unlabelled, (trained, frozen)


def _check(batch):
  if not jnp.issubdtype(batch.x.dtype, jnp.floating):
    raise InputError(
      f'examples of type {batch.x.dtype} cannot be mixed; use real-valued'
      ' features, such as counts in the place of tokens.'
    )
  if batch.x.shape != batch.u.shape:
    raise InputError(
      f'labelled examples {batch.x.shape} and unlabelled ones {batch.u.shape}'
      ' of a step must have one shape; draw as many of either.'
    )
