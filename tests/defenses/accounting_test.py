"""Epsilon against closed forms and integrals, and what it assumes."""

import doctest
import math

from absl.testing import absltest, parameterized
import numpy as np
from scipy import integrate, optimize, stats

from labelleak import defenses
from labelleak.base import InputError
from labelleak.defenses import accounting

DELTA = 1e-5


def _gaussian(mu):
  """Epsilon of N(0, 1) against N(mu, 1), Balle and Wang (2018), theorem 8."""
  phi = stats.norm.cdf
  delta = lambda e: phi(mu / 2 - e / mu) - math.exp(e) * phi(-mu / 2 - e / mu)
  return optimize.brentq(lambda e: delta(e) - DELTA, 0, 100)


def _sampled(multiplier, rate):
  """Epsilon of one Poisson-sampled release, by integration."""
  alone = lambda x: stats.norm.pdf(x, 0, multiplier)
  with_one = lambda x: (
    (1 - rate) * alone(x) + rate * stats.norm.pdf(x, 1, multiplier)
  )
  reach = 1 + 12 * multiplier
  x = np.linspace(-reach, reach, 200001)

  def delta(e):
    either = [
      integrate.trapezoid(np.maximum(p(x) - math.exp(e) * q(x), 0), x)
      for p, q in ((alone, with_one), (with_one, alone))
    ]
    return max(either) - DELTA

  return optimize.brentq(delta, 1e-4, 50)


class EpsilonTest(parameterized.TestCase):
  @parameterized.parameters(
    (1.0, 0.5, 1), (4.0, 1.0, 10), (0.05, 0.01, 30), (20.0, 1.0, 100)
  )
  def test_every_release_is_the_closed_form(self, stddev, max_norm, steps):
    found = accounting.epsilon(stddev, max_norm, steps=steps, delta=DELTA)
    exact = _gaussian(2 * max_norm / stddev * math.sqrt(steps))
    self.assertAlmostEqual(found, exact, delta=1e-3 * exact + 2e-4)

  @parameterized.parameters((1.0, 0.1), (0.7, 0.01), (2.0, 0.5))
  def test_a_poisson_sample_is_the_integral(self, multiplier, rate):
    found = accounting.epsilon(
      0.3 * multiplier, 0.3, steps=1, delta=DELTA, sampling='poisson', rate=rate
    )
    self.assertAlmostEqual(found, _sampled(multiplier, rate), delta=2e-3)

  def test_secrecy_of_the_batch_pays(self):
    of = lambda **how: accounting.epsilon(
      4.0, 1.0, steps=100, delta=DELTA, **how
    )
    fixed = [of(sampling='fixed', rate=rate) for rate in (0.01, 0.1, 0.5)]
    self.assertEqual(fixed, sorted(fixed))
    self.assertLess(fixed[1], of())
    # Where everything is in the batch, both replace one of all.
    self.assertEqual(of(sampling='fixed', rate=1.0), of())
    # Adding one moves a sum half as far as replacing one.
    twice = accounting.epsilon(8.0, 1.0, steps=100, delta=DELTA)
    added = of(sampling='poisson', rate=1.0)
    self.assertAlmostEqual(added, twice, places=3)

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
    (dict(rate=0), r'rate=0 must be in \(0, 1\]'),
    (dict(rate=0.5), "sampling='every' with rate=0.5"),
    (dict(sampling='batch'), "sampling='batch' with rate=1.0"),
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


if __name__ == '__main__':
  absltest.main()
