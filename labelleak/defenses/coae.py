"""CoAE: a label code that a confusional autoencoder learns.

Liu, Zou et al. ("Batch Label Inference and Replacement Attacks in Black-Boxed
VFL"), Section 6 and Algorithm 4. An encoder turns labels y into fake ones, a
decoder turns those back; each is Linear, ReLU, Linear, softmax, (6K + 2)^2
wide. They minimise

  L = CE(y, decoded) - lambda_1 CE(y, fake) - lambda_2 H(fake),  lambda_1 = 1,

so that fake labels can be decoded, are not the true ones, and spread over many
classes. Without confusion (lambda_2 = 0) the code comes out as a renaming of
the classes, with lambda_2 = 1 as nearly uniform over all but the true one.

Training is published nowhere: neither lambda_1, nor steps, nor a rate. Here
every step sees the K one-hot rows. The form 'shipped' is what the weights that
VFLAIR ships give away: a cross entropy that takes probabilities for logits, and
so is bounded, and an entropy that is a mean over all entries, not a sum over a
row's. The form 'paper' is the formula as printed; its second term, unbounded,
outweighs the third.

The bounded form has traps. Where two classes share the largest class of their
fake labels, nothing but confusion parts them: a decoder that is sure of the
wrong one has no gradient left, and one that tells them by the rest of the mass
loses them while training shrinks it. More steps do not mend that, another
initialisation does, and whether one is needed is seen without private labels:
the K classes, encoded and decoded, must come back.
"""

import functools
from typing import NamedTuple

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import validate
from labelleak.base import InputError
from labelleak.defenses.defense import Defense, LabelCode

_BLOCK = 20  # classes of one network; more classes share it block by block


class Coder(nn.Module):
  """Encoder or decoder, rows of probabilities [n, K] -> [n, K].

  A row of more than 20 classes is cut into rows of 20, which share the network,
  as in the released code.

  Attributes:
    num_classes: K.
    whole: whether the softmax is over the whole row, or each block.
  """

  num_classes: int
  whole: bool

  @nn.compact
  def __call__(self, y: chex.Array) -> chex.Array:
    block = min(self.num_classes, _BLOCK)
    init = nn.initializers.normal(0.01)
    x = y.reshape(len(y), -1, block)
    x = nn.relu(nn.Dense((6 * block + 2) ** 2, kernel_init=init)(x))
    x = nn.Dense(block, kernel_init=init)(x)
    x = x.reshape(y.shape) if self.whole else x
    return nn.softmax(x).reshape(y.shape)


def coae(
  *,
  num_classes: int,
  seed: int = 0,
  confusion: float = 1.0,
  steps: int = 2000,
  lr: float = 1e-3,
  form: str = 'shipped',
  lossless: bool = True,
  restarts: int = 10,
) -> Defense:
  """Trains an autoencoder by Adam; on the host, in seconds, once a process.

  A class has one fake label. A soft row is a distribution over classes, and its
  fake label the mean of theirs. A training whose decoder does not return every
  class is done again from another initialisation, `restarts` times at most.

  Args:
    num_classes: K, at most 20 or a multiple of it.
    seed: of the initialisation of both networks.
    confusion: lambda_2.
    steps, lr: of Adam.
    form: 'shipped' or 'paper', see the module.
    lossless: refuse a code whose decoder does not return every class; else the
      best of all starts serves.
    restarts: trainings after the first, while the code is not lossless.

  Raises:
    InputError: an option out of range, or classes that cannot be told apart
      after decoding.
  """
  if num_classes < 2 or (num_classes > _BLOCK and num_classes % _BLOCK):
    raise InputError(
      f'coae of {num_classes} classes: it takes 2 to {_BLOCK} of them, or a'
      f' multiple of {_BLOCK}; keep fewer.'
    )
  validate.one_of('coae: form', form, tuple(_FORMS))
  validate.at_least('coae: confusion', confusion, 0)
  validate.whole('coae: steps', steps, 1)
  validate.whole('coae: seed', seed, 0)
  validate.positive('coae: lr', lr)
  validate.whole('coae: restarts', restarts, 0)
  options = _Options(num_classes, steps, form)
  fake, decoder = _fit(options, seed, confusion, lr, restarts)
  decoded = _count_decoded(fake, decoder)
  if lossless and decoded < num_classes:
    raise InputError(
      f'coae with confusion={confusion} decodes {decoded} of'
      f' {num_classes} classes after {steps} steps and {restarts} restarts, and'
      ' must decode all; take more steps, more restarts or less confusion.'
    )
  return Defense(labels=_make_code(fake, decoder))


def derangement(
  *,
  num_classes: int,
  seed: int = 0,
  soft: float = 0.0,
  steps: int = 2000,
  lr: float = 1e-3,
) -> Defense:
  """Renames classes in secret, none keeping its name, with CoAE's decoder.

  What little confusion comes to. The encoder that VFLAIR ships for ten classes
  and lambda_2 = .1 has ten distinct largest classes, a mean largest mass of
  .987 and .047 nats a row; nine pure rows and one with `soft=.13` elsewhere
  have the same largest mass and .039 nats.

  Args:
    num_classes: K, 3 to 20.
    seed: of the renaming, and of the decoder's initialisation.
    soft: what one class gives to another than its new and its own name.
    steps, lr: of the decoder's Adam.

  Raises:
    InputError: an option out of range, or classes that cannot be told apart
      after decoding.
  """
  validate.whole('derangement: num_classes', num_classes, 3, _BLOCK)
  validate.within('derangement: soft', soft, '[0, 0.5)')
  validate.whole('derangement: steps', steps, 1)
  validate.whole('derangement: seed', seed, 0)
  validate.positive('derangement: lr', lr)
  fake, decoder = _derange(num_classes, seed, soft, steps, lr)
  decoded = _count_decoded(fake, decoder)
  if decoded < num_classes:
    raise InputError(
      f'derangement with soft={soft} decodes {decoded} of {num_classes} classes'
      f' after {steps} steps, and must decode all; take more steps.'
    )
  return Defense(labels=_make_code(fake, decoder))


class _Options(NamedTuple):
  """What a training is compiled for."""

  num_classes: int
  steps: int
  form: str


@functools.lru_cache(maxsize=32)
def _fit(options, seed, confusion, lr, restarts):
  """Returns fake labels [K, K] and a decoder, the best of several trainings."""
  key = jax.random.key(seed)
  best, most = None, -1
  for start in range(1 + restarts):
    start_key = jax.random.fold_in(key, start) if start else key
    fake, decoder = _train(options, start_key, confusion, lr)
    decoded = _count_decoded(fake, decoder)
    if decoded > most:
      best, most = (fake, decoder), decoded
    if decoded == options.num_classes:
      break
  return best


@functools.lru_cache(maxsize=32)
def _derange(num_classes, seed, soft, steps, lr):
  """Returns the fake labels [K, K] of one ring of classes, and a decoder."""
  ring = np.random.default_rng(seed).permutation(num_classes)
  fake = np.zeros((num_classes, num_classes), np.float32)
  fake[ring, np.roll(ring, -1)] = 1.0
  fake[ring[0], ring[1:3]] = 1.0 - soft, soft
  fake = jnp.asarray(fake)
  return fake, _train_decoder(steps, jax.random.key(seed), fake, lr)


def _make_code(fake, decoder):
  """Returns the code of fake labels [K, K] and a decoder's variables."""
  decode = functools.partial(Coder(len(fake), False).apply, decoder)
  encode = lambda key, y: jnp.matmul(y, fake, precision='highest')
  return LabelCode(encode, decode)


def _count_decoded(fake, decoder):
  """Counts the classes that their fake labels [K, K] give back."""
  decoded = Coder(len(fake), False).apply(decoder, fake).argmax(-1)
  return int((decoded == jnp.arange(len(fake))).sum())


@functools.partial(jax.jit, static_argnums=0)
def _train(options, key, confusion, lr):
  """Trains fake labels of the classes [K, K] and the decoder's variables."""
  cross_entropy, entropy = _FORMS[options.form]
  encoder, decoder = (
    Coder(options.num_classes, whole) for whole in (True, False)
  )
  y = jnp.eye(options.num_classes)
  keys = jax.random.split(key)
  params = encoder.init(keys[0], y), decoder.init(keys[1], y)

  def loss(params):
    fake = encoder.apply(params[0], y)
    decoded = decoder.apply(params[1], fake)
    apart = cross_entropy(decoded, y) - cross_entropy(fake, y)
    return apart - confusion * entropy(fake)

  with jax.default_matmul_precision('highest'):
    params = _minimize(loss, params, options.steps, lr)
    return encoder.apply(params[0], y), params[1]


@functools.partial(jax.jit, static_argnums=0)
def _train_decoder(steps, key, fake, lr):
  """Trains the decoder of given fake labels [K, K]."""
  decoder, y = Coder(len(fake), False), jnp.eye(len(fake))

  def loss(params):
    return _bounded_cross_entropy(decoder.apply(params, fake), y)

  with jax.default_matmul_precision('highest'):
    return _minimize(loss, decoder.init(key, fake), steps, lr)


def _minimize(loss, params, steps, lr):
  """Returns parameters after `steps` of Adam."""
  tx = optax.adam(lr)

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  start = params, tx.init(params)
  return jax.lax.scan(step, start, None, length=steps)[0][0]


def _bounded_cross_entropy(p, y):
  """Takes probabilities for logits: at most log(1 + (K - 1) e)."""
  return optax.softmax_cross_entropy(p, y).mean()


def _cross_entropy(p, y):
  """Returns the cross entropy of probabilities p, unbounded."""
  return -(y * jnp.log(p + 1e-30)).sum(-1).mean()


_FORMS = {
  'shipped': (
    _bounded_cross_entropy,
    lambda p: -(p * jnp.log(p + 1e-6)).mean(),
  ),
  'paper': (_cross_entropy, lambda p: -(p * jnp.log(p + 1e-30)).sum(-1).mean()),
}
