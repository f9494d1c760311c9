"""Values are held to annotations: what passes, what is refused, and how."""

from collections.abc import Callable, Mapping, Sequence
import doctest
import math
from typing import (
  Annotated,
  Any,
  NotRequired,
  Optional,
  Protocol,
  TypedDict,
  Union,
)

from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
import numpy as np

from labelleak import annotation
from labelleak.base import InputError
from labelleak.spec import Spec


class Observed(TypedDict):
  steps: int
  name: NotRequired[str]


class Anything(Protocol):
  def __call__(self) -> None: ...


AtLeast = Annotated[Mapping[str, Any], Observed]
Config = Annotated[ConfigDict, Observed]


class CheckTest(parameterized.TestCase):
  @parameterized.parameters(
    (int, (0, -1, np.int32(3), 2**31 - 1)),
    (float, (0, 0.5, math.inf, -1.0, np.float32(2))),
    (bool, (True, False)),
    (str, ('', 'x')),
    (Optional[int], (None, 3)),
    (Union[float, str, None], (None, 0.5, 'aux')),
    (tuple[int, ...], ((), (1, 2), [1, 2])),
    (tuple, ((), ('x', 1))),
    (Sequence[Sequence[int]], ((), ((1, 2), [3]))),
    (Optional[Sequence[int]], (None, (1,))),
    (dict, ({}, ConfigDict())),
    (Spec, ({'name': 'x', 'any': 1}, ConfigDict({'name': 'x'}))),
    (Observed, ({'steps': 3}, ConfigDict({'steps': 3, 'name': 'x'}))),
    (AtLeast, ({'steps': 3, 'more': None},)),
    (Config, (ConfigDict({'steps': 3, 'more': 1}),)),
    (Callable[[int], int], (abs,)),
    (Any, (None, 'x', {})),
    (Anything, (None, 'x')),  # says nothing of plain data
  )
  def test_what_fits_passes(self, kind, values):
    for value in values:
      annotation.check('it', value, kind)

  @parameterized.parameters(
    (int, (0.5, 1.0, True, '1', None, 2**31, math.nan, (1,))),
    (float, ('x', math.nan, None, True, 2**63, {}, (0.5,))),
    (bool, (0, 'yes', None)),
    (str, (3, None, ('x',), {})),
    (Optional[int], ('x', 0.5, ())),
    (Union[float, str, None], ({}, (), math.nan)),
    (tuple[int, ...], ('x', 3, None, {}, (0.5,), ('x',), (1, (2,)))),
    (Sequence[Sequence[int]], ((1,), ((0.5,),), 'x', ('x',))),
    (Optional[Sequence[int]], (3, ('x',))),
    (dict, ('x', (), None)),
    (Spec, ({}, {'name': 3}, {'nmae': 'x'}, 'x', None)),
    (Observed, ({}, {'steps': 'x'}, {'steps': 1, 'other': 2}, 3)),
    (AtLeast, ({}, {'steps': None}, {'steps': 1, 'name': 3})),
    (Config, ({'steps': 3}, ConfigDict())),
    (Callable[[int], int], ('x', 3)),
  )
  def test_what_does_not_is_refused_in_one_line(self, kind, values):
    for value in values:
      with self.assertRaises(InputError, msg=value) as caught:
        annotation.check('it', value, kind)
      self.assertRegex(str(caught.exception), r'^it.*; .*\.$')
      self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters(
    (tuple[int, ...], (1, 'x'), r"^it\[1\]='x' must be a whole number"),
    (Optional[Sequence[Spec]], ({},), r"^it\[0\] lacks 'name'"),
    (Observed, {'steps': 'x'}, r"^it\.steps='x' must be a whole number"),
    (Observed, {'steps': 1, 'stpes': 2}, "no field 'stpes'; .*steps, name"),
    (Optional[float], 'x', "it='x' must be a number or None; change it"),
  )
  def test_the_part_that_is_wrong_is_named(self, kind, value, says):
    with self.assertRaisesRegex(InputError, says):
      annotation.check('it', value, kind)

  def test_the_example_in_the_docstring(self):
    self.assertEqual(doctest.testmod(annotation).failed, 0)


if __name__ == '__main__':
  absltest.main()
