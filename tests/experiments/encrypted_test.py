"""No experiment starts to encrypt for longer than it may, whatever it runs."""

import importlib

from absl.testing import absltest, parameterized

from labelleak import experiments, sweep
from labelleak.base import InputError


class CostTest(parameterized.TestCase):
  @parameterized.product(
    scheme=(
      dict(name='ckks', bound=64.0),
      dict(name='paillier', key_bits=256, insecure_for_tests=True),
    ),
    name=(
      'reconstruction',
      'bli',
      'backdoor',
      'relabel',
      'black_boxed',
      'vfl_defenses',
      'direct_defenses',
      'completion',
      'completion_figures',
    ),
  )
  def test_a_run_without_time_is_refused_before_it_starts(self, scheme, name):
    config = importlib.import_module(f'configs.{name}').get_config('runlocal')
    config.sweep = tuple(
      axis for axis in config.sweep if 'aggregate' not in axis
    )
    _, config = next(iter(sweep.grid(config)))
    config.aggregate = scheme
    config.he.max_hours = 1e-12
    says = 'more than he.max_hours=1e-12;|too large to materialise'
    with self.assertRaisesRegex(InputError, says):
      experiments.prepare(config)


if __name__ == '__main__':
  absltest.main()
