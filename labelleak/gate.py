"""A gate before a client sends: what would this update give away?

  policy = Policy(client=hfl.Client(lr=0.01, batch_size=32), examples=200)
  verdict = gate({'bias': before_bias - after_bias}, policy)
  if not verdict.allowed:
    raise RuntimeError(' '.join(verdict.reasons))

It reads the head's bias as an attacker does who takes the softmax for uniform,
by NumPy alone once a policy has been made. It estimates, and bounds nothing:
who holds the model or examples reads more. `labelleak audit` looks closer.
"""

from collections.abc import Mapping
import dataclasses
from typing import NamedTuple, Optional

import numpy as np

from labelleak import hfl, validate
from labelleak.attacks.counts import responses
from labelleak.base import InputError

_SOFTMAX_ERROR = 0.1  # relative, of a uniform softmax
_ROUNDING = 0.25  # of the weight of a label, what else the lattice leaves
_TOLERANCE = 0.8  # share of the promised noise that must be there, at most


@dataclasses.dataclass(frozen=True)
class Policy:
  """What a client may send.

  Attributes:
    client: how it trains: by SGD, with or without momentum, at a learning rate.
    examples: N, of this round.
    max_advantage: largest (leaked - guessing) / (1 - guessing); 0 is no better
      than guessing, 1 is every label.
    max_classes: how many classes the update may show to be there; None: all.
    noise: deviation that must have been added to each entry of the message.
    min_clients: of whom the server must see the sum alone.
  """

  client: hfl.Client
  examples: int
  max_advantage: float = 0.5
  max_classes: Optional[int] = None
  noise: float = 0.0
  min_clients: int = 1

  def __post_init__(self):
    """Refuses what the gate cannot judge."""
    validate.whole('Policy: examples', self.examples, 1)
    validate.within('Policy: max_advantage', self.max_advantage, '[0, 1]')
    validate.at_least('Policy: noise', self.noise, 0.0)
    validate.whole('Policy: min_clients', self.min_clients, 1)
    if self.max_classes is not None:
      validate.whole('Policy: max_classes', self.max_classes, 0)
    decays = self.client.optimizer.get('weight_decay', 0)
    linear = responses.linear_gains(self.client, 2) is not None
    if decays or not linear or self.client.lr is None:
      raise InputError(
        f'Policy: client={self.client} must train by SGD, without weight decay,'
        ' and tell its lr; audit other clients by labelleak audit.'
      )


class Verdict(NamedTuple):
  """Whether an update may be sent, and why not.

  Attributes:
    allowed: whether it may.
    reasons: why not, one sentence each.
    leaked: share of the labels that an attacker names, in expectation.
    guessing: the same of taking all classes for alike.
    classes: how many classes the update shows to be there.
    noise: deviation of each entry, as the kernel shows it; None without one.
  """

  allowed: bool
  reasons: tuple[str, ...]
  leaked: float
  guessing: float
  classes: int
  noise: Optional[float]


def gate(
  update: Mapping[str, np.ndarray], policy: Policy, *, clients: int = 1
) -> Verdict:
  """Judges an update before it is sent.

  Args:
    update: 'bias' [K] and 'kernel' [H, K]? of the head, what the server sent
      minus what would be returned, not divided by the learning rate.
    policy: what may be sent.
    clients: of how many the server sees the sum alone. Of two or more, the
      update itself is not weighed.

  Raises:
    InputError: no bias of two classes or more, or entries that are not finite.
  """
  leaves = {name: np.float64(value) for name, value in update.items()}
  _check(leaves)
  bias = leaves['bias']
  noise = _measure_noise(leaves.get('kernel'))
  probs, scale = _infer(bias, policy)
  leaked, guessing = _score(probs)
  classes = int((probs[:, 0] < 0.5).sum())
  reasons = []
  if clients < policy.min_clients:
    reasons.append(
      f'The server sees the sum of {clients} clients, and needs'
      f' {policy.min_clients}.'
    )
  if policy.noise and noise is None:
    reasons.append('Without a kernel noise cannot be shown to be there.')
  elif policy.noise and noise < _least(leaves['kernel']) * policy.noise:
    reasons.append(
      f'The noise has deviation {noise:.2g}, and {policy.noise:.2g} is due.'
    )
  if scale > 1:
    reasons.append(
      f'The update is {scale:.2g} times larger than the described client makes;'
      ' mend client= of the policy.'
    )
  if clients == 1:
    reasons += _weigh(leaked, guessing, classes, policy)
  return Verdict(not reasons, tuple(reasons), leaked, guessing, classes, noise)


def _weigh(leaked, guessing, classes, policy) -> list[str]:
  """Says which of the update's limits are exceeded."""
  reasons = []
  if leaked - guessing > policy.max_advantage * (1 - guessing):
    reasons.append(
      f'It names {leaked:.0%} of {policy.examples} labels, where guessing names'
      f' {guessing:.0%}.'
    )
  if policy.max_classes is not None and classes > policy.max_classes:
    reasons.append(
      f'It shows {classes} classes to be there, and {policy.max_classes} may be'
      ' shown.'
    )
  return reasons


def _check(leaves):
  """Refuses what is not the update of a head."""
  bias = leaves.get('bias')
  if bias is None or bias.ndim != 1 or len(bias) < 2:
    raise InputError(
      f'gate: update={ {k: v.shape for k, v in leaves.items()} } must have a'
      " 'bias' [K] of two classes or more; give that of the head."
    )
  kernel = leaves.get('kernel', bias[None])
  if kernel.ndim != 2 or kernel.shape[1] != len(bias):
    raise InputError(
      f'gate: kernel of shape {kernel.shape} must be [H, {len(bias)}];'
      ' transpose it.'
    )
  if not all(np.isfinite(value).all() for value in leaves.values()):
    raise InputError(
      'gate: update has entries that are not finite; send none of it.'
    )


def _measure_noise(kernel) -> Optional[float]:
  """Measures noise by the sums over classes, which are 0 without any."""
  if kernel is None:
    return None
  return float(np.sqrt(np.mean(kernel.sum(1) ** 2) / kernel.shape[1]))


def _least(kernel) -> float:
  """Returns the least share of noise that H rows would show, 2 sd below 1."""
  return min(_TOLERANCE, 1 - (2 / len(kernel)) ** 0.5)


def _infer(bias, policy) -> tuple[np.ndarray, float]:
  """Infers counts by a lattice, [K, N + 1], and by how much the scale is off.

  A class with k labels shows W / K - w k, where w is what a label weighs and W
  what all weigh. How often it is off by chance is in `spread`.
  """
  num, num_classes = policy.examples, len(bias)
  weights = _weigh_examples(policy.client, num)
  each = weights.sum(0)
  variance = weights.var(1).sum() if policy.client.shuffle else each.var()
  weight, total = each.mean(), each.sum()
  noise = policy.noise / policy.client.lr
  k = np.arange(num + 1.0)
  spread = noise**2 + variance * k + (_ROUNDING * weight) ** 2
  spread += (_SOFTMAX_ERROR * total / num_classes) ** 2
  beta = bias / policy.client.lr
  error = beta[:, None] - (total / num_classes - weight * k)
  mean = num / num_classes
  log_prior = k * np.log(mean / (1 + mean))  # geometric, of this mean
  log_probs = log_prior - 0.5 * (error**2 / spread + np.log(spread))
  probs = np.exp(log_probs - log_probs.max(1, keepdims=True))
  negative = -np.minimum(beta, 0).sum() - noise * num_classes
  return probs / probs.sum(1, keepdims=True), float(negative / total)


def _weigh_examples(client, num) -> np.ndarray:
  """Returns by how much each of N examples moves the bias, [E, N].

  In units of the learning rate; momentum lets early steps count for more.
  """
  sizes = client.step_sizes(num)
  gains = responses.linear_gains(client, len(sizes))
  if client.reduction == 'mean':
    gains = gains / sizes
  per_epoch = len(sizes) // client.epochs
  weights = [
    np.repeat(part, sizes[:per_epoch])
    for part in gains.reshape(client.epochs, per_epoch)
  ]
  fill = lambda part: np.pad(part, (0, max(0, num - len(part))))[:num]
  return np.stack([fill(part) for part in weights])


def _score(probs) -> tuple[float, float]:
  """Returns expected count accuracy of the best counts and of even ones."""
  k = np.arange(probs.shape[1])
  num = k[-1]
  tails = np.cumsum(probs[:, :0:-1], 1)  # P(count >= t)
  best = -np.partition(-tails.ravel(), num - 1)[:num]
  total = max(float((probs @ k).sum()), 1e-12)
  even = (probs * np.minimum(num / len(probs), k)).sum()
  return min(1.0, float(best.sum()) / total), min(1.0, float(even) / total)
