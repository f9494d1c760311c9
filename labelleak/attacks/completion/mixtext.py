"""MixText: MixMatch's counterpart for texts, which cannot be mixed themselves.

Chen et al. (2020, https://arxiv.org/abs/2004.12239) as Fu et al. (USENIX
Security 2022) run it on Yahoo Answers. A step takes B labelled texts and U
unlabelled ones, as tokens:

  q = sharpen(softmax f(u), T)                  guessed labels, no gradient
  each text and a random other one, (a, p_a) and (b, p_b), of all, become
    share * h_a + (1 - share) * h_b             past a random block of the model
    share * p_a + (1 - share) * p_b
  loss = CE of the labelled + w KL(target || prediction) of the unlabelled
  w = weight * step / steps                     a ramp over the whole training

with one share, max(Beta, 1 - Beta), and one block for the whole step.

The released run averages q over back-translations of whole texts, too, and so
shows the attacker the other party's half. Ours has none.
"""

from collections.abc import Sequence
import functools

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.attacks.completion import mixmatch
from labelleak.base import InputError
from labelleak.models import bert


def mixtext(
  apply: mixmatch.Apply,
  tx: optax.GradientTransformation,
  *,
  steps: int,
  mix_layers: Sequence[int] = (7, 9, 12),
  temperature: float = 0.5,
  alpha: float = 16.0,
  weight: float = 1.0,
  hinge: float = 0.0,
  margin: float = 0.7,
) -> mixmatch.Method:
  """Builds the training step of a model; defaults are the published ones.

  The model that predicts is the trained one: `average` follows it exactly.

  Args:
    apply: as of `mixmatch`, of tokens [B, L]; takes `mix`, a `bert.Mix` or
      None.
    tx: on trained['params']; see `optimizer`.
    steps, temperature, alpha, weight: as of `mixmatch`.
    mix_layers: blocks, from 1, of which a step draws one to mix past.
    hinge: weight, with the same ramp, of the entropy above `margin` of what the
      model says of unmixed texts; released at 0.
    margin: in nats.

  Raises:
    InputError: a hyperparameter out of its range.
  """
  if not mix_layers or min(mix_layers) < 1:
    raise InputError(f'mix_layers={mix_layers} must name blocks from 1.')
  validate.whole('steps', steps, 1)
  validate.positive('temperature', temperature)
  validate.positive('alpha', alpha)
  validate.at_least('weight', weight, 0)
  validate.at_least('hinge', hinge, 0)

  def step(state, batch):
    key = jax.random.fold_in(state.key, state.count)
    guess_key, draw_key, *keys = jax.random.split(key, 4)
    guesses, _, _ = apply(
      state.trained, state.frozen, batch.u, guess_key, mix=None
    )
    q = mixmatch.sharpen(jax.nn.softmax(guesses), temperature)
    q = jax.lax.stop_gradient(q)
    texts = jnp.concatenate([batch.x, batch.u])
    targets = jnp.concatenate([batch.y, q])
    ramp = jnp.clip(state.count / steps, 0.0, 1.0)

    def loss_fn(params):
      trained = {**state.trained, 'params': params}
      order, mix = _draw(draw_key, texts, mix_layers, alpha)
      logits, trained, frozen = apply(
        trained, state.frozen, texts, keys[0], mix=mix
      )
      p = mix.share * targets + (1 - mix.share) * targets[order]
      labelled, unlabelled = losses(logits, p, len(batch.x))
      loss = labelled + ramp * weight * unlabelled
      if hinge:
        plain, trained, frozen = apply(
          trained, frozen, batch.u, keys[1], mix=None
        )
        entropy = jax.scipy.special.entr(jax.nn.softmax(plain)).sum(-1)
        loss += ramp * hinge * jnp.maximum(entropy - margin, 0.0).mean()
      return loss, (trained, frozen)

    grad = jax.value_and_grad(loss_fn, has_aux=True)
    params = state.trained['params']
    (loss, (trained, frozen)), grads = grad(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    trained = {**trained, 'params': optax.apply_updates(params, updates)}
    state = mixmatch.State(
      trained, frozen, trained, opt_state, state.key, state.count + 1
    )
    return state, dict(loss=loss)

  return mixmatch.Method(functools.partial(mixmatch.start, tx), step)


def losses(
  logits: chex.Array, p: chex.Array, num: int
) -> tuple[chex.Array, chex.Array]:
  """Returns cross entropy of the first `num` rows, KL(p || q) of the others.

  Means over rows of soft labels p [N, K], both []; q is the prediction.
  """
  labelled = optax.softmax_cross_entropy(logits[:num], p[:num]).mean()
  log_p = jax.nn.log_softmax(logits[num:])
  return labelled, optax.losses.kl_divergence(log_p, p[num:]).mean()


def optimizer(
  encoder: float = 5e-6, head: float = 5e-4
) -> optax.GradientTransformation:
  """Builds Adam with one rate for the encoder and one for all called head...

  As released: eps 1e-6, bias correction, no weight decay, no schedule.
  """

  def groups(params):
    is_head = lambda path: any(key.key.startswith('head') for key in path)
    return jax.tree.map_with_path(lambda path, _: is_head(path), params)

  rates = {False: encoder, True: head}
  return optax.partition(
    {group: optax.adam(rate, eps=1e-6) for group, rate in rates.items()}, groups
  )


def _draw(key, texts, mix_layers, alpha):
  """Draws the partner of each row [N], what to mix with what, and where."""
  beta_key, order_key, layer_key = jax.random.split(key, 3)
  share = jax.random.beta(beta_key, alpha, alpha)
  share = jnp.maximum(share, 1 - share)
  order = jax.random.permutation(order_key, len(texts))
  layer = jax.random.choice(layer_key, jnp.array(mix_layers))
  return order, bert.Mix(texts[order], share, layer, max(mix_layers))
