"""What the posterior of the counts makes of a capture and its description."""

import dataclasses
from typing import NamedTuple, Optional

import chex
import numpy as np

from labelleak import compilation, hfl, messages
from labelleak.attacks import counts as attacks
from labelleak.attacks.counts import allocation, captured, posterior
from labelleak.base import InputError

LEVEL = 0.9  # of intervals
_MOST = 20_000_000  # entries of a posterior: K times labels


class Setting(NamedTuple):
  """What the user says of the round.

  Attributes:
    client: how each client trains; its `lr` is the middle one of `rates`.
    examples: N, of each client; a range of it is replaced by the likeliest.
    clients: C, whose mean was captured.
    rates: learning rates to try: none, one, or a range's ends and middle.
    told: fields of all these that the user set.
    defense: what acts on the update, as `Known.defense`; None: not known.
    truth: [K] labels of all clients, for comparison alone.
  """

  client: hfl.Client
  examples: int | range
  clients: int = 1
  rates: tuple[float, ...] = ()
  told: frozenset[str] = frozenset()
  defense: Optional[tuple[tuple[str, float], ...]] = ()
  truth: Optional[np.ndarray] = None


class Reading(NamedTuple):
  """The posterior at one learning rate; None: not told."""

  view: hfl.View
  known: hfl.Known
  probs: np.ndarray  # [K, C * N + 1]
  counts: np.ndarray  # [K]


def infer_posterior(view: hfl.View, known: hfl.Known) -> chex.Array:
  """Returns the posterior of the counts, [K, C * N + 1]."""
  known = allocation.forget_unmodelled(known)
  view, _ = view.check('counts.calibrated', known)
  return captured.infer_counts(view, known).probs


def check_size(num_classes: int, num: int) -> None:
  """Refuses more examples than can be counted.

  Raises:
    InputError: so many.
  """
  if num_classes * (num + 1) > _MOST:
    raise InputError(
      f'{num} examples in {num_classes} classes make a posterior of more than'
      f' {_MOST:,} entries; capture fewer examples.'
    )


def infer_size(
  capture: messages.Capture, setting: Setting
) -> tuple[Setting, str]:
  """Returns the setting with its likeliest size, and what is said of it."""
  sizes = setting.examples
  check_size(len(capture.update['bias']), setting.clients * sizes[-1])
  rate = setting.client.lr
  known = hfl.Known(
    num_classes=len(capture.update['bias']),
    batch_size=1,
    clients=setting.clients,
    client=setting.client,
    defense=setting.defense if rate else None,
  )
  probs = attacks.infer_size(_view(capture, rate or 1.0), known, sizes)
  low, high, _ = map(int, posterior.interval(probs, LEVEL))
  size = sizes[int(probs.argmax())]
  told = setting.told - {'examples'}
  return setting._replace(examples=size, told=told), (
    f'How many examples there are was inferred: of {sizes[0]} to {sizes[-1]},'
    f' {size} is likeliest, and {sizes[low]} to {sizes[high]} hold {LEVEL:.0%}.'
    ' Counts are of that size; as shares they depend little on it.'
  )


def read(
  capture: messages.Capture, setting: Setting, rate: Optional[float]
) -> Reading:
  """Reads an update by `calibrated` at a learning rate; None: not told."""
  view, known = describe(capture, setting, rate)
  probs = np.asarray(infer_posterior(view, known), np.float64)
  counts = compilation.jit_seldom(posterior.allocate)(probs)
  return Reading(view, known, probs, np.asarray(counts))


def describe(
  capture: messages.Capture, setting: Setting, rate: Optional[float]
) -> tuple[hfl.View, hfl.Known]:
  """Returns what an attack on the capture sees, and what it knows."""
  client = dataclasses.replace(setting.client, lr=rate)
  view = _view(capture, rate or _guess_rate(capture, setting))
  known = hfl.Known(
    num_classes=len(capture.update['bias']),
    batch_size=setting.examples,
    clients=setting.clients,
    client=client,
    defense=setting.defense if rate else None,  # its scale is then unknown
  )
  return view, known


def _view(capture, rate):
  """Returns the update of the head by the learning rate, as attacks read it."""
  grads = {leaf: np.float32(v / rate) for leaf, v in capture.update.items()}
  variables = None
  if capture.server is not None:
    variables = {'params': {'head': capture.server}}
  return hfl.View(grads={'head': grads}, variables=variables)


def _guess_rate(capture, setting):
  """Returns the rate at which negative entries sum to nearly S, as of SGD."""
  steps = len(setting.client.step_sizes(setting.examples))
  bias = capture.update['bias']
  return float(-np.minimum(bias, 0.0).sum()) / steps or 1.0
