"""Gradient inversion from one guess or several; the closest is kept."""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.attacks.inversion import guesses, matching
from labelleak.attacks.inversion.guesses import Dummies, Form
from labelleak.base import Attack, attack
from labelleak.vfl import Known, View

_POWER_ITERATIONS = 30


class Inversion(NamedTuple):
  """Where the optimisation ended."""

  scores: chex.Array  # [B, K] labels of the cross entropy
  residual: chex.Array  # [] D in the scale of the mean loss


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
  validate.one_of('form', form, guesses.FORMS)
  validate.one_of('top', top, ('sum', 'linear'))
  validate.whole('steps', steps, 1)
  validate.whole('restarts', restarts, 1)
  shape = guesses.FORMS[form]
  if lr is not None:
    validate.positive('lr', lr, 'None takes the default')
    shape = shape._replace(lr=lr)

  def restart(key, view, known):
    guess = guesses.draw(key, view.h, known.num_classes, top)
    return invert(guess, view, known, shape, steps)

  def infer(key, view, known):
    if restarts == 1:  # spares XLA the batched form of every layer
      return restart(key, view, known).scores
    keys = jax.random.split(key, restarts)
    ends = jax.vmap(restart, (0, None, None))(keys, view, known)
    return closest(ends).scores

  return attack(
    infer, name='inversion.batch', kind='vertical', needs=('bottom',)
  )


def invert(
  guess: Dummies, view: View, known: Known, form: Form, steps: int
) -> Inversion:
  """Runs `steps` iterations from a guess: one restart."""
  # At 1e-9, where D ends, nothing would be left of it in TF32.
  with jax.default_matmul_precision('highest'):
    pullback = matching.transposed_jacobian(view, known)
    scale = form.reduce(jnp.ones(view.h.shape[0]))  # 1, or B for a sum
    grads = jax.tree.map(lambda g: scale * g, view.param_grads)

    def loss(dummies):
      cut = guesses.dummy_cut(form, view.h, dummies)
      return matching.matching_loss(pullback, cut, grads)

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
