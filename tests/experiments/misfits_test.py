"""A model that does not run is named, with the first line of the reason."""

from absl.testing import absltest, parameterized

from labelleak.base import InputError
from labelleak.experiments import misfits


class MisfitsTest(parameterized.TestCase):
  @parameterized.parameters(
    (ValueError('why\nlong advice'), r'shape \(3,\): why; choose'),
    (ZeroDivisionError(), r'ZeroDivisionError\(\); choose'),
  )
  def test_one_line_says_why(self, error, message):
    refuse = misfits.refuse(dict(name='mlp.mlp'), (3,))
    with (
      self.assertRaisesRegex(InputError, f'mlp.mlp does .*{message}'),
      refuse,
    ):
      raise error

  def test_a_reason_that_is_ours_stays(self):
    refuse = misfits.refuse(dict(name='mlp.mlp'), (3,))
    with self.assertRaisesRegex(InputError, '^ours$'), refuse:
      raise InputError('ours')


if __name__ == '__main__':
  absltest.main()
