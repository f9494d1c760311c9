"""Epsilon against closed forms and integrals, and what it assumes."""

import doctest
import math

from absl.testing import absltest, parameterized
from scipy import optimize, stats

from labelleak import defenses
from labelleak.base import InputError
from labelleak.defenses import accounting

DELTA = 1e-5


def _gaussian(mu):
  """Epsilon of N(0, 1) against N(mu, 1), Balle and Wang (2018), theorem 8."""
  phi = stats.norm.cdf
  delta = lambda e: phi(mu / 2 - e / mu) - math.exp(e) * phi(-mu / 2 - e / mu)
  return optimize.brentq(lambda e: delta(e) - DELTA, 0, 100)


class EpsilonTest(parameterized.TestCase):
  @parameterized.parameters(
    (1.0, 0.5, 1), (4.0, 1.0, 10), (0.05, 0.01, 30), (20.0, 1.0, 100)
  )
  def test_every_release_is_the_closed_form(self, stddev, max_norm, steps):
    found = accounting.epsilon(stddev, max_norm, steps=steps, delta=DELTA)
    exact = _gaussian(2 * max_norm / stddev * math.sqrt(steps))
    self.assertAlmostEqual(found, exact, delta=1e-3 * exact + 2e-4)

  def test_limits(self):
    of = lambda stddev, steps: accounting.epsilon(
      stddev, 1.0, steps=steps, delta=DELTA
    )
    self.assertEqual(of(0.0, 1), math.inf)
    self.assertEqual(of(0.0, 0), 0.0)
    self.assertEqual(of(1.0, 0), 0.0)
    self.assertLess(of(1e6, 1), 1e-3)
    self.assertLess(of(1.5, 5), of(1.0, 5))

  def test_the_example_of_the_docstring(self):
    self.assertEqual(doctest.testmod(accounting), (0, 1))

  @parameterized.parameters(
    (dict(stddev=-1.0), r'stddev=-1\.0 must be a finite number'),
    (dict(max_norm=math.inf), 'max_norm=inf must be .*no guarantee'),
    (dict(steps=1.5), r'steps=1\.5 must be a whole number'),
    (dict(delta=0), r'delta=0 must be in \(0, 1\)'),
  )
  def test_bad_input_is_refused(self, wrong, message):
    right = dict(stddev=1.0, max_norm=1.0, steps=1, delta=DELTA)
    with self.assertRaisesRegex(InputError, message):
      accounting.epsilon(**right | wrong)


class ReleaseTest(parameterized.TestCase):
  @parameterized.parameters('clip', 'clip_per_example')
  def test_a_clip_and_noise_have_a_guarantee(self, name):
    noise = dict(name='gaussian', stddev=0.2)
    clip = dict(name=name, max_norm=0.1)
    strengths = defenses.build((clip, noise)).strengths
    self.assertEqual(accounting.gaussian_release(strengths), (0.2, 0.1))
    self.assertIsNone(accounting.gaussian_release(None))
    for chain in (
      (),
      (noise,),
      (clip,),
      (noise, clip),
      (clip, dict(name='laplace', scale=0.2)),
      (dict(name='compress', drop=0.5), clip, noise),
      (clip, noise, dict(name='marvell', s=1.0)),
      (dict(name='clip_batch', max_norm=0.1), noise),
    ):
      strengths = defenses.build(chain).strengths
      self.assertIsNone(accounting.gaussian_release(strengths), chain)

  def test_no_clip_is_no_guarantee(self):
    noise = dict(name='gaussian', stddev=0.2)
    build = lambda max_norm: (
      defenses.build(
        (dict(name='clip_per_example', max_norm=max_norm), noise)
      ).strengths
    )
    self.assertEqual(accounting.facts(build(math.inf), 3), {})
    self.assertEqual(accounting.facts(build(0.1), 0), {})
    self.assertEqual(accounting.facts(build(0.1), 3), dict(epsilon=8.39))


if __name__ == '__main__':
  absltest.main()
