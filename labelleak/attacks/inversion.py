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

from labelleak.attacks.linear.jacobian import Pull, jacobian
from labelleak.base import Attack, InputError, attack
from labelleak.vfl import Known, View

_POWER_ITERATIONS = 30


class Form(NamedTuple):
  """One published shape of the attack.

  Attributes:
    soft: label variable [B, K] -> labels of the cross entropy [B, K].
    reduce: losses [B] -> [].
    optimizer: learning rate -> optax.
    lr: its default; None: one over the curvature at the start.
  """

  soft: Callable[[chex.Array], chex.Array]
  reduce: Callable[[chex.Array], chex.Array]
  optimizer: Callable[[float | chex.Array], optax.GradientTransformation]
  lr: Optional[float]


FORMS = {
  # As released (VFLAIR).
  'adam': Form(jax.nn.softmax, jnp.mean, optax.adam, 0.05),
  # Algorithm 2 to the letter. Eq. 10 sums, so g becomes that of the sum.
  'descent': Form(lambda labels: labels, jnp.sum, optax.sgd, None),
}


class Dummies(NamedTuple):
  """What the attacker guesses.

  Attributes:
    z: [B, K] logits of the other parties.
    labels: [B, K] label variable.
    top: {} for the sum; kernel [D + K, K] and bias [K] of a linear top.
  """

  z: chex.Array
  labels: chex.Array
  top: dict[str, chex.Array]


class Inversion(NamedTuple):
  """Where the optimisation ended.

  Attributes:
    scores: [B, K] labels of the cross entropy.
    residual: [] D in the scale of the mean loss.
  """

  scores: chex.Array
  residual: chex.Array


def matching_loss(
  pullback: Pull, cut: chex.Array, grads: chex.ArrayTree
) -> chex.Array:
  """Returns || J^T U - g ||^2 over all parameters, unweighted (Eq. 11), [].

  Args:
    pullback: J^T, linear: cut gradient [B, D] -> gradient of the parameters.
    cut: U [B, D].
    grads: g, the observed gradient of the parameters.
  """
  off = jax.tree.map(jnp.subtract, pullback(cut), grads)
  return optax.tree.norm(off, squared=True)


def dummy_cut(form: Form, h: chex.Array, dummies: Dummies) -> chex.Array:
  """Returns the gradient of the guessed loss (Eq. 10) by h, [B, D]."""

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
  """Builds BLI; scores are the labels of the restart of least residual.

  The two tops are two attacks: VFLAIR runs both and reports the one that is
  closer to the truth, which no attacker could.

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
    InputError: a value out of range. At trace time: D != K under 'sum'.
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
  shape = FORMS[form]
  if lr is not None:
    shape = shape._replace(lr=lr)

  def restart(key, view, known):
    guess = draw(key, view.h, known.num_classes, top)
    return invert(guess, view, known, shape, steps)

  def infer(key, view, known):
    if restarts == 1:  # spares XLA the batched form of every layer
      return restart(key, view, known).scores
    keys = jax.random.split(key, restarts)
    ends = jax.vmap(restart, (0, None, None))(keys, view, known)
    return closest(ends).scores

  return attack(infer, name='inversion.batch', needs=('bottom',))


def draw(
  key: chex.PRNGKey, h: chex.Array, num_classes: int, top: str
) -> Dummies:
  """Draws standard normal guesses; a linear top as PyTorch initialises it.

  Args:
    key: of the draw.
    h: [B, D] own embedding.
    num_classes: K.
    top: 'sum' or 'linear'.

  Raises:
    InputError: D != K under 'sum'.
  """
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
  guess: Dummies, view: View, known: Known, form: Form, steps: int
) -> Inversion:
  """Runs `steps` iterations from a guess: one restart."""
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


def closest(ends: Inversion) -> Inversion:
  """Returns the restart of least residual; leaves [R, ...] -> [...]."""
  residual = jnp.where(jnp.isnan(ends.residual), jnp.inf, ends.residual)
  return jax.tree.map(lambda a: a[residual.argmin()], ends)


def transposed_jacobian(view: View, known: Known) -> Pull:
  """Returns J^T, cut gradient [B, D] -> gradient of the attacker's parameters.

  J is that of the very pass behind the view. Being linear, the map is its own
  derivative and J its transpose.
  """

  def forward(params):
    return known.bottom({**view.variables, 'params': params}, view.x, view.key)

  push, pull = jacobian(forward, view.variables['params'])
  transposed = jax.custom_vjp(pull)
  transposed.defvjp(
    lambda cut: (pull(cut), None), lambda _, tree: (push(tree),)
  )
  return transposed


def _curvature(loss, at):
  """Returns the largest eigenvalue of the Hessian in magnitude, [].

  By power iteration.
  """
  slope = jax.grad(loss)

  def step(_, vector):
    size = optax.tree.norm(vector)
    unit = jax.tree.map(lambda v: v / size, vector)
    return jax.jvp(slope, (at,), (unit,))[1]

  return optax.tree.norm(jax.lax.fori_loop(0, _POWER_ITERATIONS, step, at))
