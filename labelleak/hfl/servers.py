"""The server's optimizer, and what others make of its steps.

Reddi et al., "Adaptive Federated Optimization" (ICLR 2021): the mean update,
server minus client, is a gradient to the server, whose own optimizer makes the
next model of it. SGD at a rate of 1 is FedAvg, with momentum FedAvgM (Hsu et
al. 2019).

Another client has successive global models alone, and not the updates behind
them; `recover_mean` is what it makes of those.
"""

from collections.abc import Sequence
import itertools

import chex
from flax.core import FrozenDict
import jax
import jax.numpy as jnp
import optax

from labelleak import annotation, optimizers, registry, validate
from labelleak.base import InputError
from labelleak.hfl.views import View
from labelleak.spec import Spec

FEDAVG = FrozenDict(name='sgd', lr=1.0)


def make_optimizer(server: Spec) -> optax.GradientTransformation:
  """Returns a server's optimizer.

  Raises:
    InputError: no such name, an argument that it does not take, no rate.
  """
  annotation.check('server', server, Spec)
  if 'lr' not in server:
    raise InputError(f'server={dict(server)} lacks its rate; add lr.')
  validate.within('server: lr', server['lr'], '(0, inf)')
  hyper = {k: v for k, v in server.items() if k != 'name'}
  if server['name'] not in _ADAPTIVE:
    return optimizers.optimizer(server['name'], **hyper)
  make = _ADAPTIVE[server['name']]
  hyper['learning_rate'] = hyper.pop('lr')
  registry.check_arguments(server['name'], make, hyper)
  return make(**hyper)


def recover_mean(
  models: Sequence[chex.ArrayTree], *, lr: float, server: Spec = FEDAVG
) -> View:
  """Recovers a round's mean update from successive global models.

  That is the view of another client, or of who reads what the server sends. It
  undoes a step of SGD, with momentum if it is told: x' = x - server_lr * trace,
  where trace = mean + momentum * the trace before. The sizes of others are not
  seen, so that `Known.batch_size` is their sum, with clients=1. Optimizers with
  second moments are not undone.

  Args:
    models: variables of the global model before and after the round; with
      momentum also those before the round before, or in a first round the same
      as before it.
    lr: of the clients, by which the mean is divided.
    server: the optimizer, as of `protocol`.

  Raises:
    InputError: an optimizer that is not undone, or another number of models.
  """
  make_optimizer(server)
  momentum = server.get('momentum') or 0.0
  others = {k for k, v in server.items() if v} - {'name', 'lr', 'momentum'}
  if server['name'] != 'sgd' or others:
    raise InputError(
      f'server={dict(server)} is not undone; name sgd with lr and momentum.'
    )
  needed = 3 if momentum else 2
  if len(models) != needed:
    raise InputError(
      f'{len(models)} models: undoing momentum={momentum} takes {needed}'
      ' successive ones; give those.'
    )
  params = [variables['params'] for variables in models]
  steps = [
    jax.tree.map(lambda p, q: (p - q) / (lr * server['lr']), before, after)
    for before, after in itertools.pairwise(params)
  ]
  grads = steps[-1]
  if momentum:
    grads = jax.tree.map(lambda now, old: now - momentum * old, grads, steps[0])
  return View(grads=grads, variables=models[-2])


def fedadam(
  learning_rate: float, *, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
  """Returns FedAdam: x' = x - lr m / (sqrt(v) + tau).

  It follows Reddi et al. (algorithm 2): no bias correction, and v starts at
  tau^2. Flower's v starts at 0, and its later releases correct the bias with
  the number of the round plus 1. For the correction of Kingma and Ba name adam.
  """
  return _adapt(
    learning_rate, b1, tau, lambda v, square: b2 * v + (1 - b2) * square
  )


def fedyogi(
  learning_rate: float, *, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3
) -> optax.GradientTransformation:
  """Returns FedYogi of Reddi et al. (algorithm 2): `fedadam` but for v."""
  return _adapt(
    learning_rate,
    b1,
    tau,
    lambda v, square: v - (1 - b2) * square * jnp.sign(v - square),
  )


_ADAPTIVE = dict(fedadam=fedadam, fedyogi=fedyogi)


def _adapt(lr, b1, tau, second_moment) -> optax.GradientTransformation:
  """Returns algorithm 2 of Reddi et al. with its line for v."""

  def init(params):
    first = jax.tree.map(jnp.zeros_like, params)
    return first, jax.tree.map(lambda p: jnp.full_like(p, tau**2), params)

  def update(grads, state, params=None):
    del params
    first, second = state
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, grads)
    second = jax.tree.map(lambda v, g: second_moment(v, g**2), second, grads)
    move = lambda m, v: -lr * m / (jnp.sqrt(v) + tau)
    return jax.tree.map(move, first, second), (first, second)

  return optax.GradientTransformation(init, update)
