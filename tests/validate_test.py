"""Arguments out of range are refused, in one line that says all."""

import doctest
import math

from absl.testing import absltest, parameterized

from labelleak import validate
from labelleak.base import InputError


class ValidateTest(parameterized.TestCase):
  @parameterized.parameters(
    (validate.positive, (), (1e-9, 3, math.inf), (0, -1)),
    (validate.at_least, (2,), (2, 2.5), (1.9, math.inf)),
    (validate.within, ('[0, 1)',), (0, 0.9), (-0.1, 1, math.inf)),
    (validate.within, ('(0, 1]',), (0.1, 1), (0, 1.1)),
    (validate.within, ('(0, inf)',), (1e30,), (0, math.inf)),
    (validate.whole, (1,), (1, 7.0), (0, 1.5, math.inf)),
    (validate.whole, (1, 4), (1, 4), (0, 5)),
  )
  def test_bounds_are_where_they_are_written(self, check, rule, good, bad):
    for value in good:
      check('it', value, *rule)
    for value in (*bad, math.nan, 'one', None, True):
      with self.assertRaisesRegex(InputError, 'it=.* must be ') as caught:
        check('it', value, *rule)
      self.assertIn(repr(value), str(caught.exception))

  def test_a_value_of_two_lines_makes_a_message_of_one(self):
    self.assertEqual(str(InputError('a\nb\r\nc.')), r'a\nb\nc.')

  def test_options(self):
    validate.one_of('form', None, (None, 'a'))
    with self.assertRaisesRegex(InputError, "form='b' .*use one of: None, 'a'"):
      validate.one_of('form', 'b', (None, 'a'))

  def test_the_remedy_comes_last(self):
    with self.assertRaises(InputError) as caught:
      validate.positive('clip: max_norm', -1.0, 'leave it out')
    self.assertEqual(
      str(caught.exception),
      'clip: max_norm=-1.0 must be positive; leave it out.',
    )

  def test_examples(self):
    self.assertEqual(doctest.testmod(validate).failed, 0)


if __name__ == '__main__':
  absltest.main()
