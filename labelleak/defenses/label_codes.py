"""Label codes: what the active party trains on in the place of its labels.

`encode` turns labels [B, K] into the fake ones that enter the loss, `decode`
turns the model's probabilities [B, K] back into probabilities of the classes.
Constructors take `num_classes` and options as keywords; a code that has to be
fitted is in a module of its own (`coae`).

A code acts on each row by itself. Where it is random, a row must get one answer
for good (`encode_rows`), not a new one every epoch that an attacker could
average: the epsilon of `randomized_response` is that of one answer.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import validate
from labelleak.defenses.defense import Defense, LabelCode


def encode_rows(
  key: chex.PRNGKey, code: LabelCode, y: chex.Array, index: chex.Array
) -> chex.Array:
  """Encodes labels y [B, K] of data set rows `index` [B].

  The same at every visit: `key` is of the whole training, not of a step.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
  return jax.vmap(lambda k, row: code.encode(k, row[None])[0])(keys, y)


def statistics(
  key: chex.PRNGKey, code: LabelCode, num_classes: int
) -> dict[str, chex.Array]:
  """Measures what a code makes of the K classes: means over them, each [].

  Returns:
    `reconstruction_accuracy`, the share that decoding returns, ties being
    wrong; `true_mass`, what a fake label leaves to the true class; its
    `entropy`, in nats; `max_mass`; and `distinct`, the number of classes that
    are the largest of some fake label.
  """
  fake = code.encode(key, jnp.eye(num_classes))
  decoded = code.decode(fake)
  right = (decoded >= jnp.diagonal(decoded)[:, None]).sum(-1) == 1
  largest = jax.nn.one_hot(fake.argmax(-1), num_classes).max(0)
  return dict(
    reconstruction_accuracy=right.mean(),
    true_mass=jnp.diagonal(fake).mean(),
    entropy=jax.scipy.special.entr(fake).sum(-1).mean(),
    max_mass=fake.max(-1).mean(),
    distinct=largest.sum(),
  )


def smoothing(*, num_classes: int, alpha: float) -> Defense:
  """Mixes a label with all of them: (1 - alpha) y + alpha / K.

  Decoding inverts it, negative parts cut off.

  Raises:
    InputError: alpha is outside [0, 1).
  """
  validate.within('smoothing: alpha', alpha, '[0, 1)', 'at 1 no label is left')
  return Defense(labels=_mixture(num_classes, alpha))


def complement(*, num_classes: int) -> Defense:
  """Gives every class but the label's the same probability, and that none.

  What CoAE with much confusion learns, in closed form; drawn (`draw`), the
  complementary labels of Ishida et al. (2017), which name one class that an
  example is not of. Decoding inverts it, negative parts cut off.
  """
  alpha = num_classes / (num_classes - 1)
  return Defense(labels=_mixture(num_classes, alpha))


def draw(*, num_classes: int, num: int = 1) -> Defense:
  """Draws `num` classes from a soft label, which share its mass; for a chain.

  Without replacement, by Gumbel noise; fewer where fewer have any mass. Rows of
  one label no longer have one fake label, and a row that drew from a complement
  says of which `num` classes it is not: 1 / (K - num) of all guesses are right.
  On average draws of one class, or of several from equal masses, teach a model
  what the soft labels would, so decoding is left to what made them soft.

  Raises:
    InputError: num is outside 1 to K.
  """
  validate.whole('draw: num', num, 1, num_classes)
  return Defense(labels=_sampling(num_classes, num))


def randomized_response(*, num_classes: int, epsilon: float) -> Defense:
  """Draws the label with odds of e^epsilon against any other, one-hot.

  K-ary randomized response (Warner 1965; label DP: Ghazi et al. 2021): the one
  answer for a row is epsilon-differentially private in its label. It is drawn
  from the label's `smoothing` with alpha = K / (e^epsilon + K - 1), and
  decoding inverts that: it corrects a model's probabilities, not an answer.

  Raises:
    InputError: epsilon is not positive.
  """
  nothing = 'at 0 answers tell nothing'
  validate.positive('randomized_response: epsilon', epsilon, nothing)
  odds = math.exp(-epsilon)
  alpha = num_classes * odds / (1 + (num_classes - 1) * odds)
  code = chain(_mixture(num_classes, alpha), _sampling(num_classes, 1))
  return Defense(labels=code)


def permutation(*, num_classes: int, seed: int) -> Defense:
  """Renames the classes in secret, uniformly over all K! ways.

  `seed` is the secret. Who sees nothing but fake labels, and had no reason to
  prefer a class beforehand, finds every renaming equally likely, so that on
  average over the secret no way of naming the classes beats 1 / K. Which rows
  share a label shows all the same.

  Raises:
    InputError: a negative seed.
  """
  validate.whole('permutation: seed', seed, 0)
  names = np.random.default_rng(seed).permutation(num_classes)
  back = np.argsort(names)
  code = LabelCode(lambda key, y: y[:, back], lambda p: p[:, names])
  return Defense(labels=code)


def chain(*codes: LabelCode) -> LabelCode:
  """Encodes in order and decodes in reverse; each code has its own key."""

  def encode(key, y):
    for i, code in enumerate(codes):
      y = code.encode(jax.random.fold_in(key, i), y)
    return y

  def decode(p):
    for code in reversed(codes):
      p = code.decode(p)
    return p

  return LabelCode(encode, decode)


def _mixture(num_classes, alpha):
  """Returns (1 - alpha) y + alpha / K, and back; rows stay probabilities."""
  even = alpha / num_classes

  def decode(p):
    y = jnp.maximum((p - even) / (1 - alpha), 0.0)
    return y / y.sum(-1, keepdims=True)

  mix = lambda key, y: jnp.maximum((1 - alpha) * y + even, 0.0)  # rounding
  return LabelCode(mix, decode)


def _sampling(num_classes, num):
  """Returns the code of `num` classes that a soft label draws."""

  def encode(key, y):
    noise = jax.random.gumbel(key, y.shape, y.dtype)
    _, top = jax.lax.top_k(jnp.log(y) + noise, num)
    chosen = jax.nn.one_hot(top, num_classes, dtype=y.dtype).sum(-2) * (y > 0)
    return chosen / chosen.sum(-1, keepdims=True)

  return LabelCode(encode=encode)
