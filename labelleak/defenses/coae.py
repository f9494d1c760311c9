"""CoAE: a label code that a confusional autoencoder learns.

Liu, Zou et al. ("Batch Label Inference and Replacement Attacks in Black-Boxed
VFL"), Section 6 and Algorithm 4. An encoder turns labels y into fake ones, a
decoder turns those back; each is Linear, ReLU, Linear, softmax, (6K + 2)^2
wide. They minimise

  L = CE(y, decoded) - lambda_1 CE(y, fake) - lambda_2 H(fake)

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

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak.base import InputError
from labelleak.defenses.defense import Defense, LabelCode

_BLOCK = 20  # classes of one network; more classes share it block by block


class Coder(nn.Module):
  """Encoder or decoder, rows of probabilities [n, K] -> [n, K].

  A row of more than 20 classes is cut into rows of 20, which share the network,
  as in the released code. The softmax is over the `whole` row, or each block.
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


def fit(
  key: chex.PRNGKey,
  num_classes: int,
  *,
  contrast: float = 1.0,
  confusion: float,
  steps: int,
  lr: float,
  form: str = 'shipped',
  lossless: bool = True,
  restarts: int = 10,
) -> LabelCode:
  """Trains an autoencoder by Adam; on the host, in seconds.

  A class has one fake label. A soft row is a distribution over classes, and its
  fake label the mean of theirs. A training whose decoder does not return every
  class is done again from another initialisation, `restarts` times at most.

  Args:
    key: initialisation of both networks; restarts fold their number into it.
    num_classes: K, at most 20 or a multiple of it.
    contrast: lambda_1.
    confusion: lambda_2.
    steps, lr: of Adam.
    form: 'shipped' or 'paper', see the module.
    lossless: refuse a code whose decoder does not return every class; else the
      best of all starts is kept.
    restarts: trainings after the first, while the code is not lossless.

  Raises:
    InputError: an option out of range, or classes that cannot be told apart
      after decoding.
  """
  if num_classes < 2 or (num_classes > _BLOCK and num_classes % _BLOCK):
    raise InputError(
      f'CoAE of {num_classes} classes: it takes 2 to {_BLOCK} of them, or a'
      f' multiple of {_BLOCK}; keep fewer.'
    )
  if form not in _FORMS:
    raise InputError(f'form={form!r}; use one of {", ".join(_FORMS)}.')
  if min(contrast, confusion, restarts) < 0 or steps < 1 or not lr > 0:
    raise InputError(
      f'contrast={contrast}, confusion={confusion}, restarts={restarts} must be'
      f' at least 0, steps={steps} and lr={lr} positive.'
    )
  options = num_classes, steps, form
  most, best = -1, None
  for start in range(1 + restarts):
    own = jax.random.fold_in(key, start) if start else key
    found = _train(options, own, contrast, confusion, lr)
    right = _decoded(num_classes, *found)
    if right > most:
      most, best = right, found
    if most == num_classes:
      break
  if lossless and most < num_classes:
    raise InputError(
      f'CoAE with confusion={confusion} decodes {most} of {num_classes} classes'
      f' after {steps} steps and {restarts} restarts, and must decode all; take'
      ' more steps, more restarts or less confusion.'
    )
  return _code(*best)


def coae(
  *,
  num_classes: int,
  seed: int = 0,
  contrast: float = 1.0,
  confusion: float = 1.0,
  steps: int = 2000,
  lr: float = 1e-3,
  form: str = 'shipped',
  lossless: bool = True,
  restarts: int = 10,
) -> Defense:
  """Trains a code as `fit` does, once for all that share its options.

  Args:
    num_classes: K, at most 20 or a multiple of it.
    seed: of the initialisation.
    contrast, confusion, steps, lr, form, lossless, restarts: see `fit`.

  Raises:
    InputError: as `fit`.
  """
  code = _fit_once(
    num_classes,
    seed,
    contrast=contrast,
    confusion=confusion,
    steps=steps,
    lr=lr,
    form=form,
    lossless=lossless,
    restarts=restarts,
  )
  return Defense(labels=code)


@functools.lru_cache(maxsize=32)
def _fit_once(num_classes, seed, **options):
  return fit(jax.random.key(seed), num_classes, **options)


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
  few = 3 <= num_classes <= _BLOCK
  if not few or not 0 <= soft < 0.5 or steps < 1 or not lr > 0:
    raise InputError(
      f'derangement: num_classes={num_classes} must be 3 to {_BLOCK},'
      f' soft={soft} in [0, .5), steps={steps} and lr={lr} positive.'
    )
  return Defense(labels=_derange_once(num_classes, seed, soft, steps, lr))


@functools.lru_cache(maxsize=32)
def _derange_once(num_classes, seed, soft, steps, lr):
  """The code of a derangement whose classes form one ring."""
  ring = np.random.default_rng(seed).permutation(num_classes)
  fake = np.zeros((num_classes, num_classes), np.float32)
  fake[ring, np.roll(ring, -1)] = 1.0
  fake[ring[0], ring[1:3]] = 1.0 - soft, soft
  fake = jnp.asarray(fake)
  decoder = _train_decoder(steps, jax.random.key(seed), fake, lr)
  found = _decoded(num_classes, fake, decoder)
  if found < num_classes:
    raise InputError(
      f'derangement with soft={soft} decodes {found} of {num_classes} classes'
      f' after {steps} steps, and must decode all; take more steps.'
    )
  return _code(fake, decoder)


def _code(fake, decoder):
  """The code of fake labels [K, K] and a decoder's variables."""
  decode = functools.partial(Coder(len(fake), False).apply, decoder)
  encode = lambda key, y: jnp.matmul(y, fake, precision='highest')
  return LabelCode(encode, decode)


def _decoded(num_classes, fake, decoder):
  """How many classes their fake labels [K, K] give back."""
  found = Coder(num_classes, False).apply(decoder, fake).argmax(-1)
  return int((found == jnp.arange(num_classes)).sum())


@functools.partial(jax.jit, static_argnums=0)
def _train(options, key, contrast, confusion, lr):
  """Fake labels of the classes [K, K] and the decoder's variables."""
  num_classes, steps, form = options
  cross_entropy, entropy = _FORMS[form]
  encoder, decoder = Coder(num_classes, True), Coder(num_classes, False)
  y = jnp.eye(num_classes)
  keys = jax.random.split(key)
  params = encoder.init(keys[0], y), decoder.init(keys[1], y)

  def loss(params):
    fake = encoder.apply(params[0], y)
    decoded = decoder.apply(params[1], fake)
    contrasted = contrast * cross_entropy(fake, y)
    return cross_entropy(decoded, y) - contrasted - confusion * entropy(fake)

  with jax.default_matmul_precision('highest'):
    params = _descended(loss, params, steps, lr)
    return encoder.apply(params[0], y), params[1]


@functools.partial(jax.jit, static_argnums=0)
def _train_decoder(steps, key, fake, lr):
  """The decoder of given fake labels [K, K]."""
  decoder, y = Coder(len(fake), False), jnp.eye(len(fake))

  def loss(params):
    return _bounded(decoder.apply(params, fake), y)

  with jax.default_matmul_precision('highest'):
    return _descended(loss, decoder.init(key, fake), steps, lr)


def _descended(loss, params, steps, lr):
  """Parameters after `steps` of Adam."""
  tx = optax.adam(lr)

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  start = params, tx.init(params)
  return jax.lax.scan(step, start, None, length=steps)[0][0]


def _bounded(p, y):
  """Cross entropy of a softmax of probabilities: at most log(1 + (K - 1) e)."""
  return optax.softmax_cross_entropy(p, y).mean()


def _unbounded(p, y):
  return -(y * jnp.log(p + 1e-30)).sum(-1).mean()


_FORMS = {
  'shipped': (_bounded, lambda p: -(p * jnp.log(p + 1e-6)).mean()),
  'paper': (_unbounded, lambda p: -(p * jnp.log(p + 1e-30)).sum(-1).mean()),
}
