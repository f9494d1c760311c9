"""The attack of Li and Micciancio (EUROCRYPT 2021) on CKKS, for real.

A passive party that follows the protocol knows a ciphertext (c0, c1) of a row
that it knows, too, say of padding. Its map takes that row once: the results,
less the exact one, are what the answers show of the noise e, and
c0 + c1 s = m + e gives it the secret key s.
"""

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from labelleak import he
from labelleak.he.schemes import ckks, packing, rings, seal

# On the way from e to s nothing is lost, so one wrong coefficient spoils all.
_N = 8192
_BATCHES = 100


def _attack(scheme, batches):
  """Returns the noise as a passive party estimates it, and the key, [N] each.

  Args:
    scheme: of width 1.
    batches: how often it asks for all N coefficients of one ciphertext.
  """
  public = scheme.encrypt.args[0]
  parameters, ring = public.parameters, public.ring
  number = round(0.3 / parameters.bound * 2.0**parameters.fraction_bits)
  matrix = np.zeros((batches * _N, 1))
  matrix[::_N] = 1.0  # one-hot
  sent = scheme.encrypt(np.array([0.3]), matrix.shape)
  masked, masks = scheme.blind(scheme.evaluate(sent, matrix))
  answers = scheme.decrypt(masked, matrix.shape)

  grain = ckks.find_grain(parameters, packing.layout(parameters, matrix.shape))
  length = len(answers) // len(matrix)
  unit, noise = 2**parameters.map_bits, np.zeros(_N)
  for k, mask in enumerate(masks):
    hidden = rings.compose(ring, rings.invert(ring, mask))
    hidden[0] += number * unit
    part = answers[k * _N * length :]
    shown = [
      int.from_bytes(part[i * length : (i + 1) * length], 'big') * grain - r
      for i, r in enumerate(hidden)
    ]
    noise += [_center(value, ring.modulus) / unit for value in shown]
  noise /= batches
  known = np.array([int(e) for e in np.rint(noise)], object)
  known[0] += number
  return noise, _solve(public, sent[0], rings.transform(ring, known))


def _solve(public, ciphertext, values):
  """Returns s of c0 + c1 s, whose values are known."""
  c0, c1 = _parts(public, ciphertext)
  found = np.zeros_like(values)
  for k, p in enumerate(public.ring.primes):
    inverse = np.array([pow(c, -1, p) for c in c1[k].tolist()], object)
    gap = values[k].astype(object) - c0[k].astype(object)
    found[k] = (gap * inverse % p).astype(np.uint64)
  key = rings.compose(public.ring, rings.invert(public.ring, found))
  return np.array([_center(s, public.ring.modulus) for s in key], object)


def _parts(public, ciphertext):
  """Returns (c0, c1) of a ciphertext, values [L, N] each."""
  loaded, num = seal.load(public, ciphertext), len(public.ring.primes)
  values = [loaded[i] for i in range(2 * num * _N)]
  return np.array(values, np.uint64).reshape(2, num, _N)


def _center(value, q):
  value %= q
  return value - q if 2 * value > q else value


def _opens(scheme, key):
  """Whether a key opens a ciphertext that the attacker has not seen."""
  public = scheme.encrypt.args[0]
  (sent,) = scheme.encrypt(np.array([0.7]), (1, 1))
  c0, c1 = (part.astype(object) for part in _parts(public, sent))
  s = rings.transform(public.ring, key).astype(object)
  primes = np.array(public.ring.primes, object)[:, None]
  opened = ((c0 + c1 * s) % primes).astype(np.uint64)
  numbers = rings.compose(public.ring, rings.invert(public.ring, opened))
  message = _center(numbers[0], public.ring.modulus)
  value = message / 2.0**public.parameters.fraction_bits
  return abs(value * public.parameters.bound - 0.7) < 1e-6


def _is_ternary(key):
  return set(key.tolist()) <= {-1, 0, 1}


class KeyRecoveryTest(parameterized.TestCase):
  @parameterized.parameters(-60, -14)
  def test_refused_parameters_give_the_key_away_in_a_batch(self, mask_bits):
    scheme = he.ckks(
      mask_bits=mask_bits, width=1, insecure_for_tests=True
    ).scheme
    noise, key = _attack(scheme, 1)
    self.assertTrue(_is_ternary(key))
    self.assertTrue(_opens(scheme, key))
    self.assertBetween((key != 0).mean(), 0.6, 0.73)  # 2 / 3
    self.assertBetween(noise.std(), 15, 30)

  def test_accepted_ones_do_not_in_a_hundred(self):
    scheme = he.ckks(width=1).scheme
    self.assertGreaterEqual(scheme.ledger.most, _BATCHES * _N)
    noise, key = _attack(scheme, _BATCHES)
    self.assertFalse(_is_ternary(key))
    self.assertFalse(_opens(scheme, key))
    # What the answers show is the rounding, whose mean has this deviation.
    parameters = scheme.encrypt.args[0].parameters
    at = packing.layout(parameters, (_N, 1))
    grain = ckks.find_grain(parameters, at) / 2.0**parameters.map_bits
    expected = grain / np.sqrt(12 * _BATCHES)
    self.assertBetween(noise.std() / expected, 0.9, 1.1)
    self.assertGreater(expected, 2.0**40)  # beside noise of 21

  @parameterized.parameters(4, 20)
  @pytest.mark.slow
  def test_nor_do_coarse_grains_in_five_hundred(self, mask_bits):
    """Far more than the ledger of 20 bits allows: a single result."""
    scheme = he.ckks(
      mask_bits=mask_bits, width=1, insecure_for_tests=True
    ).scheme
    _, key = _attack(scheme, 500)
    self.assertFalse(_is_ternary(key))
    self.assertFalse(_opens(scheme, key))


if __name__ == '__main__':
  absltest.main()
