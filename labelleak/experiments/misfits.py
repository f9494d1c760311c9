"""Models that do not run on the data."""

from collections.abc import Iterator
import contextlib

from labelleak import spec
from labelleak.base import InputError
from labelleak.spec import Spec


@contextlib.contextmanager
def refuse(model: Spec, shape: tuple[int, ...]) -> Iterator[None]:
  """Says in one line which model fails inside, and on what.

  Args:
    model: its spec.
    shape: of an example.

  Raises:
    InputError: in the place of the many errors that flax and jax raise.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as e:
    reason = (str(e).splitlines() or [repr(e)])[0]
    raise InputError(
      f'model {spec.describe(model)} does not run on examples of shape'
      f' {shape}: {reason}; choose another model or size.'
    ) from e
