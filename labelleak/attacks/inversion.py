"""Batch label inference by gradient inversion (BLI), the published attack.

Liu, Zou et al., "Batch Label Inference and Replacement Attacks in Black-Boxed
Vertical Federated Learning", Section 4.2. A passive party that learns nothing
but the gradient g of its own bottom model, summed over the batch, guesses the
other parties' logits z and the labels, until the guess gives the same gradient:

  D(z, labels) = || J^T U - g ||^2,  U = dL/dH at the guess.       (Eq. 11)

The bottom model enters through the map U -> J^T U alone, taken once
(`transposed_jacobian`). It is linear, so an iteration applies it and its
transpose, and never differentiates the model again: gradient inversion is
`jax.grad` of `matching_loss`, vmapped over restarts.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.attacks.linear import equations
from labelleak.base import Attack, InputError, attack
from labelleak.vfl import Known

_POWER_ITERATIONS = 30


class Form(NamedTuple):
  """One published shape of the attack."""

  soft: Callable  # label variable [B, K] -> labels of the cross entropy
  reduce: Callable  # losses [B] -> []
  optimizer: Callable  # learning rate -> optax
  lr: Optional[float]  # None: one over the curvature at the start


FORMS = {
  # As released (VFLAIR).
  'adam': Form(jax.nn.softmax, jnp.mean, optax.adam, 0.05),
  # Algorithm 2 to the letter. Eq. 10 sums, so g becomes that of the sum.
  'descent': Form(lambda labels: labels, jnp.sum, optax.sgd, None),
}


class Dummies(NamedTuple):
  """What the attacker guesses."""

  z: chex.Array  # [B, K] logits of the other parties
  labels: chex.Array  # [B, K] label variable
  top: dict  # {} for the sum; kernel [D + K, K], bias [K] of a linear top


class Inversion(NamedTuple):
  """Where the optimisation ended."""

  scores: chex.Array  # [B, K] labels of the cross entropy
  residual: chex.Array  # [] D in the scale of the mean loss


def matching_loss(
  pullback: Callable, cut: chex.Array, grads: chex.ArrayTree
) -> chex.Array:
  """|| J^T U - g ||^2 over all parameters, unweighted (Eq. 11), [].

  Args:
    pullback: J^T, linear: cut gradient [B, D] -> gradient of the parameters.
    cut: U [B, D].
    grads: g, the observed gradient of the parameters.
  """
  off = jax.tree.map(jnp.subtract, pullback(cut), grads)
  return optax.tree.norm(off, squared=True)


def dummy_cut(form: Form, h: chex.Array, dummies: Dummies) -> chex.Array:
  """Gradient of the guessed loss (Eq. 10) with respect to h, [B, D]."""

  def loss(h):
    if dummies.top:
      joined = jnp.concatenate([h, dummies.z], -1)
      logits = joined @ dummies.top['kernel'] + dummies.top['bias'][None]
    else:
      logits = h + dummies.z
    labels = form.soft(dummies.labels)
    return form.reduce(optax.softmax_cross_entropy(logits, labels))

  return jax.grad(loss)(h)


def batch(
  *,
  steps: int = 10_000,
  lr: Optional[float] = None,
  form: str = 'adam',
  restarts: int = 1,
  top: str = 'sum',
) -> Attack:
  """BLI; scores are the guessed labels of the restart of least residual.

  Needs `known.bottom`. The two tops are two attacks: VFLAIR runs both and
  reports the one that is closer to the truth, which no attacker could.

  Args:
    steps: iterations.
    lr: learning rate. None: .05 for 'adam', as published; for 'descent', whose
      rate is not published, one over the curvature of D at the start.
    form: 'adam', as released: Adam on the logits of the label distribution,
      mean loss; or 'descent', Algorithm 2 to the letter: gradient descent on
      labels without constraint, summed loss.
    restarts: guesses optimised side by side.
    top: 'sum' guesses that the embeddings are added (D = K); 'linear' that a
      linear layer joins them, whose weights are guessed too.

  Raises:
    InputError: a value out of range. At trace time: no `known.bottom`, or
      D != K under 'sum'.
  """
  if form not in FORMS:
    raise InputError(f'form={form!r}; use one of {", ".join(FORMS)}.')
  if top not in ('sum', 'linear'):
    raise InputError(f'top={top!r}; use "sum" or "linear".')
  if steps < 1 or restarts < 1:
    raise InputError(
      f'steps={steps} and restarts={restarts}: both must be at least 1.'
    )
  if lr is not None and not lr > 0:
    raise InputError(f'lr={lr} must be positive; None takes the default.')
  setting = FORMS[form]
  if lr is not None:
    setting = setting._replace(lr=lr)

  def one(key, view, known):
    guess = start(key, view.h, known.num_classes, top)
    return invert(guess, view, known, setting, steps)

  def infer(key, view, known):
    if restarts == 1:  # spares XLA the batched form of every layer
      return one(key, view, known).scores
    keys = jax.random.split(key, restarts)
    return closest(jax.vmap(one, (0, None, None))(keys, view, known)).scores

  return attack(infer, name='inversion.batch', needs=('bottom',))


def start(
  key: chex.PRNGKey, h: chex.Array, num_classes: int, top: str
) -> Dummies:
  """Standard normal guesses; a linear top as PyTorch would initialise it."""
  key, kernel_key, bias_key = jax.random.split(key, 3)
  (size, width), layer = h.shape, {}
  if top == 'linear':
    bound = (width + num_classes) ** -0.5
    shapes = (width + num_classes, num_classes), (num_classes,)
    kernel, bias = (
      jax.random.uniform(k, shape, minval=-bound, maxval=bound)
      for k, shape in zip((kernel_key, bias_key), shapes)
    )
    layer = dict(kernel=kernel, bias=bias)
  elif width != num_classes:
    raise InputError(
      f'the embedding has width {width}, not one entry for each of'
      f" {num_classes} classes, so it cannot be added; use top='linear'."
    )
  z, labels = jax.random.normal(key, (2, size, num_classes))
  return Dummies(z, labels, layer)


def invert(
  guess: Dummies, view, known: Known, form: Form, steps: int
) -> Inversion:
  """One restart: `steps` iterations from a guess, `start`."""
  # At 1e-9, where D ends, nothing would be left of it in TF32.
  with jax.default_matmul_precision('highest'):
    pullback = transposed_jacobian(view, known)
    scale = form.reduce(jnp.ones(view.h.shape[0]))  # 1, or B for a sum
    grads = jax.tree.map(lambda g: scale * g, view.param_grads)

    def loss(dummies):
      cut = dummy_cut(form, view.h, dummies)
      return matching_loss(pullback, cut, grads)

    tx = form.optimizer(form.lr or 1.0 / _curvature(loss, guess))

    def step(carry, _):
      dummies, state = carry
      updates, state = tx.update(jax.grad(loss)(dummies), state)
      return (optax.apply_updates(dummies, updates), state), None

    carry = guess, tx.init(guess)
    (dummies, _), _ = jax.lax.scan(step, carry, length=steps)
    residual = loss(dummies) / scale**2
  return Inversion(form.soft(dummies.labels), residual)


def closest(found: Inversion) -> Inversion:
  """The restart of least residual; leaves [R, ...] -> [...]."""
  residual = jnp.where(jnp.isnan(found.residual), jnp.inf, found.residual)
  return jax.tree.map(lambda a: a[residual.argmin()], found)


def transposed_jacobian(view, known: Known) -> Callable:
  """J^T, cut gradient [B, D] -> gradient of the attacker's parameters.

  J is that of the very pass behind the view. Being linear, the map is its own
  derivative and J its transpose.
  """

  def forward(params):
    return known.bottom({**view.variables, 'params': params}, view.x, view.key)

  push, pull = equations.jacobian(forward, view.variables['params'])
  transposed = jax.custom_vjp(pull)
  transposed.defvjp(
    lambda cut: (pull(cut), None), lambda _, tree: (push(tree),)
  )
  return transposed


def _curvature(loss, at):
  """Largest eigenvalue, in magnitude, of the Hessian: power iteration, []."""
  slope = jax.grad(loss)

  def step(_, vector):
    size = optax.tree.norm(vector)
    unit = jax.tree.map(lambda v: v / size, vector)
    return jax.jvp(slope, (at,), (unit,))[1]

  return optax.tree.norm(jax.lax.fori_loop(0, _POWER_ITERATIONS, step, at))
