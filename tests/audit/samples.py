"""An assessment of a log that has all parts, for its page and summary."""

import dataclasses

from labelleak.audit.assessment import (
  Assumption,
  Attempt,
  LogSource,
  VerticalAssessment,
)


def vertical(num_classes: int = 10, **changes) -> VerticalAssessment:
  """Makes one that has all parts."""
  attempt = lambda name, **fields: Attempt(
    name=name,
    counts=(2,) * num_classes,
    **dict(granted=(), named=True) | fields,
  )
  result = VerticalAssessment(
    version='0.1.0',
    source=LogSource(('<a> & "b".npz',), dict(step=(20,)), 2, 20, ('A note.',)),
    assumed=(Assumption('top', 'sum', True), Assumption('bottom', None, False)),
    num_classes=num_classes,
    num_rows=20,
    guessing=1 / num_classes,
    leaked=0.9,
    attempts=(
      attempt('guessing', guess=True, confidence=0.1, accuracy=0.1),
      attempt('direct', confidence=0.95, accuracy=0.9, renamed=0.91),
      attempt('similarity', granted=('<3> rows', 'x'), accuracy=0.4),
      attempt('groups', named=False, renamed=0.7),
    ),
    truth=(2,) * num_classes,
    warnings=('Noise <would> explain it.',),
    limits=('Nothing else was attacked.',),
  )
  return dataclasses.replace(result, **changes)
