"""Aggregators: a linear map of a sealed message; only its result is revealed.

`Aggregate: (key, linear, message) -> Revealed`. In horizontal FL `linear` is
the mean over clients, the message their stacked updates.
"""

from collections.abc import Callable

from labelleak.base import Revealed


def clear() -> Callable:
  """No secrecy: the receiver reads the message and the result."""
  return lambda key, linear, message: Revealed(linear(message), message)


def sealed() -> Callable:
  """Ideal secrecy: exact arithmetic, nothing encrypted, the message is None."""
  return lambda key, linear, message: Revealed(linear(message), None)
