"""Real ciphertexts against exact arithmetic; what each role sees; refusals."""

from fractions import Fraction
import functools
import math
import types
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from labelleak import he, hfl, registry, sweep
from labelleak.base import Batch, InputError
from labelleak.he import checks, cost, exchange, frames, products
from labelleak.he.schemes import ckks, packing, paillier, rings, seal

SCHEMES = ('paillier', 'ckks')
# The chance that a test of randomness fails by itself.
RARE = 1e-6


@functools.cache
def _build(name, **hyper):
  """An aggregator; keys are made once for all tests."""
  return registry.load('he', name, **hyper)


def _parameters(**hyper):
  """Parameters of CKKS as its roles hold them."""
  return _build('ckks', **hyper).scheme.encrypt.args[0].parameters


def _aggregate(name):
  """Secure parameters: a 2048-bit key, 128-bit secure CKKS."""
  return _build(name)


def _quick(name):
  """The same code with a short key; CKKS is quick as it is."""
  short = dict(key_bits=512, insecure_for_tests=True)
  return _build(name, **(short if name == 'paillier' else {}))


def _coarse():
  """Paillier whose fixed point outweighs the rounding to float32."""
  return _build(
    'paillier', key_bits=512, fraction_bits=8, insecure_for_tests=True
  )


def _uniform(seed, *shape):
  return np.random.default_rng(seed).uniform(-1, 1, shape)


def _p_uniform(values, low, high):
  """p-value of values being uniform in [low, high), 16 bins."""
  bins = np.floor((np.asarray(values) - low) / (high - low) * 16)
  return stats.chisquare(np.bincount(bins.astype(int), minlength=16)).pvalue


def _answers(scheme, matrix, message):
  """The third party's answers to a batch, as integers."""
  opened = exchange.exchange(scheme, matrix, message).opened
  (answers,) = frames.unpack(scheme.channel, 'opened', opened)
  length = len(answers) // len(matrix)
  return [
    int.from_bytes(answers[i : i + length], 'big')
    for i in range(0, len(answers), length)
  ]


def _num_grains(scheme, shape):
  """How many grains CKKS's modulus has, for a map of this shape."""
  public = scheme.encrypt.args[0]
  at = packing.layout(public.parameters, shape)
  return public.ring.modulus / ckks.find_grain(public.parameters, at)


def _party(batch=6, features=5, classes=3):
  """A linear bottom's vjp and a cut gradient that sums to zero by rows."""
  x = jnp.array(_uniform(1, batch, features), jnp.float32)
  params = {'kernel': jnp.ones((features, classes)), 'bias': jnp.ones(classes)}
  _, vjp = jax.vjp(lambda p: x @ p['kernel'] + p['bias'][None], params)
  cut = jnp.array(_uniform(2, batch, classes), jnp.float32) / batch
  return lambda m: vjp(m)[0], cut - cut.mean(1, keepdims=True)


def _within(scheme, linear, message, result):
  """Asserts that a result is within the scheme's documented bound."""
  matrix, flat, _, _ = products.materialise(jax.random.key(0), linear, message)
  limit = scheme.error_bound(np.asarray(matrix), np.asarray(flat))
  exact = np.asarray(matrix, np.float64) @ np.asarray(flat, np.float64)
  flat_result = jax.flatten_util.ravel_pytree(result)[0]
  np.testing.assert_array_less(np.abs(flat_result - exact), limit)


class ResultTest(parameterized.TestCase):
  @parameterized.product(name=SCHEMES, jitted=(True, False))
  def test_real_keys_agree_with_ideal_within_the_bound(self, name, jitted):
    linear, cut = _party(batch=4, features=3, classes=2)
    aggregate = _aggregate(name)
    run = lambda cut: aggregate.reveal(jax.random.key(0), linear, cut)
    revealed = (jax.jit(run) if jitted else run)(cut)
    exact = he.ideal().reveal(jax.random.key(0), linear, cut)
    self.assertIsNone(revealed.message)
    chex.assert_trees_all_equal_shapes_and_dtypes(revealed.result, exact.result)
    chex.assert_trees_all_close(revealed.result, exact.result, atol=1e-5)
    _within(aggregate.scheme, linear, cut, revealed.result)

  @parameterized.parameters(*SCHEMES)
  def test_training_in_a_scan_follows_ideal(self, name):
    linear, cut = _party()

    def train(aggregate):
      def step(params, key):
        grads = aggregate.reveal(
          key, linear, cut * jax.random.normal(key)
        ).result
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

      start = jax.tree.map(jnp.zeros_like, linear(cut))
      keys = jax.random.split(jax.random.key(0), 4)
      return jax.lax.scan(step, start, keys)[0]

    real = jax.jit(functools.partial(train, _quick(name)))()
    chex.assert_trees_all_close(real, train(he.ideal()), atol=1e-4)
    self.assertGreater(optax.tree.norm(real), 1e-2)

  @parameterized.parameters(*SCHEMES)
  def test_vmap_is_a_loop(self, name):
    linear, cut = _party()
    cuts = jnp.stack([cut, -cut, 0.5 * cut])
    run = lambda cut: _quick(name).reveal(jax.random.key(0), linear, cut).result
    mapped = jax.jit(jax.vmap(run))(cuts)
    for i, cut in enumerate(cuts):
      one = jax.tree.map(lambda a: a[i], mapped)  # noqa: B023
      chex.assert_trees_all_close(one, run(cut), atol=1e-4)
      _within(_quick(name).scheme, linear, cut, one)

  @parameterized.parameters(*SCHEMES)
  def test_trials_sharded_over_devices(self, name):
    linear, cut = _party()

    def trial(key, item, shared):
      grads = _quick(name).reveal(key, linear, item * shared).result
      return {'bias': grads['bias']}

    items = np.arange(1.0, 6.0, dtype=np.float32) / 5
    rows = sweep.run_trials(trial, jax.random.key(0), 5, items, cut)
    exact = items[:, None] * np.asarray(linear(cut)['bias'])
    np.testing.assert_allclose(rows['bias'], exact, atol=1e-4)

  @parameterized.parameters(*SCHEMES)
  def test_mean_over_clients(self, name):
    num, features, classes = 3, 4, 2
    loss_fn = hfl.cross_entropy(lambda v, x: x @ v['params']['head']['kernel'])
    labels = np.arange(num * 5) % classes
    batches = Batch(
      xs=(jnp.array(_uniform(3, num, 5, features), jnp.float32),),
      y=jax.nn.one_hot(labels.reshape(num, 5), classes),
      index=jnp.zeros((num, 5), int),
      mask=jnp.ones((num, 5)),
    )
    variables = {'params': {'head': {'kernel': jnp.ones((features, classes))}}}
    views = [
      hfl.observe(
        jax.random.key(0),
        hfl.fedsgd(loss_fn),
        variables,
        batches,
        defense=optax.identity(),
        aggregate=aggregate,
      )
      for aggregate in (_quick(name), he.ideal())
    ]
    chex.assert_trees_all_close(views[0].grads, views[1].grads, atol=1e-5)
    self.assertGreater(optax.tree.norm(views[1].grads), 1e-3)

  @parameterized.product(width=(None, 1, 4, 64), shape=((3, 5), (70, 100)))
  def test_every_layout_gives_the_result(self, width, shape):
    scheme = _build('ckks', width=width).scheme
    matrix, message = _uniform(4, *shape), _uniform(5, shape[1])
    matrix[1] = 0.0  # a row, and for some layouts a ciphertext, of zeros
    done = exchange.exchange(scheme, matrix, message)
    limit = scheme.error_bound(matrix, message)
    np.testing.assert_array_less(abs(done.result - matrix @ message), limit)
    self.assertLess(limit.max(), 1e-3)

  def test_a_layout_has_the_fewest_ciphertexts(self):
    parameters = _parameters()
    for shape in ((1, 1), (32, 128), (330, 1280), (5000, 10)):
      best = packing.layout(parameters, shape)
      self.assertEqual(best.width * best.rows, parameters.degree)
      for width in (1, 16, 256, 4096):
        at = packing.layout(parameters._replace(width=width), shape)
        self.assertLessEqual(best.sent + best.returned, at.sent + at.returned)


class BoundTest(parameterized.TestCase):
  """The documented error, on inputs nobody would choose."""

  @parameterized.parameters(*SCHEMES, 'coarse')
  @hypothesis.settings(max_examples=30, deadline=None)
  @hypothesis.given(data=st.data())
  def test_error_is_within_the_bound(self, name, data):
    scheme = (_coarse() if name == 'coarse' else _quick(name)).scheme
    outputs, inputs = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 7)))
    largest = {'coarse': 4.0, 'paillier': 2.0**60, 'ckks': 2.0**100}[name]
    number = lambda top: st.floats(-top, top, width=32)
    matrix = data.draw(
      hnp.arrays(np.float32, (outputs, inputs), elements=number(largest))
    )
    message = data.draw(hnp.arrays(np.float32, inputs, elements=number(1.0)))
    exact = [
      sum(Fraction(float(a)) * Fraction(float(m)) for a, m in zip(row, message))
      for row in matrix
    ]
    done = exchange.exchange(scheme, matrix, message)
    limit = scheme.error_bound(matrix, message)
    for j, value in enumerate(done.result):
      self.assertLessEqual(abs(Fraction(float(value)) - exact[j]), limit[j])

  @hypothesis.settings(max_examples=20, deadline=None)
  @hypothesis.given(
    hnp.arrays(np.int64, (2, 3), elements=st.integers(-(2**20), 2**20)),
    hnp.arrays(np.int64, 3, elements=st.integers(-(2**20), 2**20)),
  )
  def test_paillier_is_exact_on_its_grid(self, matrix, message):
    scheme = _quick('paillier').scheme
    grain = 2.0**-32
    done = exchange.exchange(scheme, matrix * grain, message * grain)
    np.testing.assert_array_equal(done.result, (matrix @ message) * grain**2)

  def test_the_bound_is_no_idle_one(self):
    matrix, message = _uniform(6, 20, 30), _uniform(7, 30)
    coarse = _coarse().scheme
    error = abs(
      exchange.exchange(coarse, matrix, message).result - matrix @ message
    )
    np.testing.assert_array_less(error, coarse.error_bound(matrix, message))
    fine = _quick('paillier').scheme.error_bound(matrix, message)
    self.assertTrue((error > fine).all())
    self.assertGreater(
      error.max(), coarse.error_bound(matrix, message).max() / 40
    )

  @parameterized.parameters(30, 80)  # doubles round coarser than 2^-80
  def test_the_bound_of_ckks_is_the_sum_of_its_parts(self, fraction_bits):
    parameters = _parameters()._replace(bound=3.0, fraction_bits=fraction_bits)
    matrix = np.array([[2.0, -1.5, 0.25], [0.0, 0.0, 0.0]])
    message = np.array([3.0, -1.0, 0.5])
    at = packing.layout(parameters, matrix.shape)
    unit = 2.0**-parameters.product_bits
    parts = [
      4 * 3 * ckks.find_grain(parameters, at) / 2 * unit,
      4 * 3 * 8 * seal.find_noise(parameters, at.rows) * unit,
      4 * 4.5 * 2.0 ** -(parameters.map_bits + 1),
      3 * 3.75 * 2.0 ** -(min(fraction_bits, 52) + 1),
    ]
    sizes = [2 * 3 + 1.5 * 1 + 0.25 * 0.5 + sum(parts), 0.0]
    limit = [e + s / 2**24 + 2**-149 for e, s in zip((sum(parts), 0), sizes)]
    np.testing.assert_allclose(
      ckks.error_bound(parameters, matrix, message), limit, rtol=1e-14, atol=0
    )

  @parameterized.parameters(8, 32, 90)
  def test_the_bound_of_paillier_is_the_sum_of_its_parts(self, fraction_bits):
    matrix = np.array([[2.0, -1.5, 0.25], [0.0, 0.0, 0.0]])
    message = np.array([3.0, -1.0, 0.5])
    move = 2.0 ** -(fraction_bits + 1)  # of each entry, by rounding
    fixed = [(3.75 + 4.5) * move + 3 * move**2, 4.5 * move + 3 * move**2]
    sizes = [2 * 3 + 1.5 * 1 + 0.25 * 0.5 + fixed[0], fixed[1]]
    limit = [f + s / 2**24 + 2**-149 for f, s in zip(fixed, sizes)]
    np.testing.assert_allclose(
      paillier.error_bound(fraction_bits, matrix, message), limit, rtol=1e-14
    )
    none = paillier.error_bound(fraction_bits, matrix[1:], 0 * message)
    np.testing.assert_allclose(
      none, 3 * move**2 * (1 + 2**-24) + 2**-149, rtol=1e-14
    )

  def test_ckks_loses_what_coarser_grains_take(self):
    matrix, message = _uniform(6, 20, 30), _uniform(7, 30)
    errors, limits = [], []
    for mask_bits in (44, 52):
      scheme = _build('ckks', mask_bits=mask_bits).scheme
      done = exchange.exchange(scheme, matrix, message)
      errors.append(abs(done.result - matrix @ message).max())
      limits.append(scheme.error_bound(matrix, message).max())
    self.assertGreater(errors[1], limits[0])
    self.assertLess(errors[1], limits[1])

  @parameterized.parameters(*SCHEMES)
  def test_zero_and_negative(self, name):
    scheme = _quick(name).scheme
    matrix = np.array([[1.0, -2.0], [0.0, 0.0], [-1.0, 0.5]])
    nothing = exchange.exchange(scheme, matrix, np.zeros(2)).result
    np.testing.assert_allclose(nothing, 0.0, atol=1e-5)
    minus = exchange.exchange(scheme, matrix, np.array([-1.0, -0.5])).result
    np.testing.assert_allclose(minus, [0.0, 0.0, 0.75], atol=1e-5)


class SecrecyTest(parameterized.TestCase):
  @parameterized.parameters(*SCHEMES)
  def test_encryption_is_random_and_the_result_is_not(self, name):
    scheme = _quick(name).scheme
    matrix, message = _uniform(8, 4, 3), _uniform(9, 3)
    one, two = (exchange.exchange(scheme, matrix, message) for _ in range(2))
    for a, b in zip(
      frames.unpack(scheme.channel, 'sealed', one.sealed),
      frames.unpack(scheme.channel, 'sealed', two.sealed),
    ):
      self.assertNotEqual(a, b)
    self.assertNotEqual(one.masked, two.masked)
    self.assertNotEqual(one.opened, two.opened)
    atol = 0.0 if name == 'paillier' else 1e-5
    np.testing.assert_allclose(one.result, two.result, rtol=0, atol=atol)

  @parameterized.product(name=SCHEMES, value=(0.0, -1.0, 0.7))
  def test_the_third_party_opens_what_is_uniform_over_the_ring(
    self, name, value
  ):
    scheme = _quick(name).scheme
    matrix = np.ones((400, 1))
    opened = _answers(scheme, matrix, np.array([value]))
    if name == 'paillier':
      size = scheme.evaluate.args[0].key.n
    else:
      size = _num_grains(scheme, matrix.shape)
    seen = [answer / size for answer in opened]
    self.assertGreater(_p_uniform(seen, 0.0, 1.0), RARE)
    self.assertLess(_p_uniform([abs(value)] * 400, 0.0, 1.001), RARE)  # bare

  def test_ckks_masks_are_uniform_in_every_coefficient(self):
    scheme = _build('ckks').scheme
    decryptor, public = scheme.decrypt.args
    (masked,), (mask,) = scheme.blind([None])
    plain = public.seal.Plaintext()
    decryptor.decrypt(seal.load(public, masked), plain)
    q = public.ring.modulus
    opened, hidden = (
      np.array(
        rings.compose(public.ring, rings.invert(public.ring, values)), object
      )
      for values in (seal.read(public, plain), mask)
    )
    gap = (opened - hidden + q // 2) % q - q // 2
    self.assertLess(abs(gap).max(), 8 * math.sqrt(public.ring.degree))
    self.assertGreater(abs(gap).max(), 0)  # a fresh encryption
    self.assertLen(hidden, public.ring.degree)
    bits = np.array([[h >> b & 1 for b in range(20)] for h in hidden], float)
    halves = bits.mean(0) - 0.5  # the lowest bits are no less random
    self.assertLess(abs(halves).max(), 5 * 0.5 / math.sqrt(len(hidden)))
    top = (hidden / q).astype(float)
    self.assertGreater(_p_uniform(top, 0.0, 1.0), RARE)
    self.assertLess(abs(np.corrcoef(top[1:], top[:-1])[0, 1]), 0.1)

  def test_ckks_errors_are_uniform_over_a_grain(self):
    scheme = _build('ckks').scheme
    public = scheme.encrypt.args[0].parameters
    at = packing.layout(public, (4000, 1))
    grain = ckks.find_grain(public, at) / 2.0**public.product_bits
    error = exchange.exchange(scheme, np.ones((4000, 1)), np.zeros(1)).result
    grains = error / grain / public.bound
    self.assertGreater(_p_uniform(grains, -0.5, 0.5), RARE)

  @parameterized.parameters(20, 44, 52)
  def test_ckks_rounds_to_as_many_times_its_noise(self, mask_bits):
    parameters = _parameters(mask_bits=mask_bits)
    for width in (1, 64, 8192):
      at = packing.layout(parameters._replace(width=width), (10, 10))
      noise = seal.find_noise(parameters, at.rows)
      ratio = ckks.find_grain(parameters, at) / noise
      self.assertBetween(ratio, 2.0**mask_bits, 2.0 ** (mask_bits + 1))

  @parameterized.parameters(0, 1, 7)
  def test_ckks_noise_of_a_map_of_unit_scale(self, rows):
    """Each row and the mask have one encryption's: t + t' s in N coefficients.

    t and t' are uniform over 1, s is -1, 0 or 1: variances of 1/12 and 2/3.
    """
    parameters = _parameters()
    unit = parameters._replace(fraction_bits=sum(parameters.bits[:-1]) - 3)
    self.assertEqual(unit.map_bits, 0)
    fresh = Fraction(1, 12) + parameters.degree * Fraction(1, 12) * 2 / 3
    variance = seal.find_noise(unit, rows) ** 2
    self.assertAlmostEqual(variance / float((rows + 1) * fresh), 1, places=12)

  @parameterized.parameters(1, 64)
  def test_ckks_noise_is_what_is_stated(self, width):
    """Of the fullest rows: one entry of each has all the weight.

    In the mean over keys: that of one key is from .4 to 2.5 times as much.
    """
    squares = []
    for _ in range(24 // width or 1):
      scheme = _build(
        'ckks', width=width, mask_bits=-60, insecure_for_tests=True
      ).scheme
      public = scheme.encrypt.args[0]
      rows = public.ring.degree // width
      matrix = np.zeros((rows, width))
      matrix[np.arange(rows), np.arange(rows) % width] = 1.0
      shown = exchange.exchange(scheme, matrix, np.zeros(width)).result
      shown *= 2.0**public.parameters.product_bits
      noise = seal.find_noise(public.parameters, rows)
      squares.append((shown.std() / noise) ** 2)
    self.assertBetween(np.mean(squares) ** 0.5, 0.35, 2.0)

  @parameterized.parameters(*SCHEMES)
  def test_the_passive_party_receives_one_number_a_result(self, name):
    scheme = _quick(name).scheme
    matrix, message = _uniform(8, 5, 30), _uniform(9, 30)
    self.assertLen(_answers(scheme, matrix, message), 5)


class LedgerTest(parameterized.TestCase):
  """What a key opens in a whole run."""

  @hypothesis.settings(max_examples=200, deadline=None)
  @hypothesis.given(
    bits=st.lists(st.integers(30, 60), min_size=2, max_size=5),
    degree=st.sampled_from((4096, 8192, 16384)),
    fraction_bits=st.integers(20, 130),
    mask_bits=st.integers(10, 90),
    width=st.sampled_from((None, 1, 64, 4096)),
    shape=st.tuples(st.integers(1, 9000), st.integers(1, 3000)),
  )
  def test_whatever_is_accepted_hides_the_noise_of_a_run(
    self, bits, degree, fraction_bits, mask_bits, width, shape
  ):
    parameters = _parameters()._replace(
      bits=tuple(bits),
      degree=degree,
      fraction_bits=fraction_bits,
      mask_bits=mask_bits,
      width=width,
    )
    try:
      seal._validate(checks.import_library('tenseal.sealapi'), parameters)
    except InputError:
      hypothesis.event('refused')
      return
    hypothesis.event('accepted')
    at = packing.layout(parameters, shape)
    noise, grain = (
      seal.find_noise(parameters, at.rows),
      ckks.find_grain(parameters, at),
    )
    results = 2 ** (mask_bits - ckks.LEAK_BITS)
    self.assertGreaterEqual(results, 1)
    self.assertLessEqual(results * noise / grain, 2.0**-20)
    one = 2**parameters.product_bits
    self.assertLessEqual(2**9 * grain, one)
    q = 2 ** (sum(bits[:-1]) - 1)  # at least
    self.assertLess(one + grain // 2 + 8 * noise, q // 2)

  @parameterized.parameters(20, 24, 30)
  def test_distances_add_up_to_no_more_than_stated(self, mask_bits):
    scheme = _build('ckks', mask_bits=mask_bits, fraction_bits=80).scheme
    self.assertEqual(scheme.ledger.most * 2.0**-mask_bits, 2.0**-20)

  def test_a_key_opens_so_many_results_and_no_more(self):
    scheme = he.ckks(mask_bits=24).scheme  # 16 results
    matrix, message = np.ones((5, 2)), np.ones(2)
    for _ in range(3):
      exchange.exchange(scheme, matrix, message)
    with self.assertRaisesRegex(InputError, '20 results .* than the 16'):
      exchange.exchange(scheme, matrix, message)
    exchange.exchange(scheme, matrix[:1], message)

  def test_a_run_that_would_open_more_is_refused_before_it(self):
    aggregate = he.ckks(mask_bits=30)  # 1024 results
    he.check_openings(aggregate, num_outputs=32, steps=32)
    with self.assertRaisesRegex(InputError, r'1056 .* raise mask_bits by 1,'):
      he.check_openings(aggregate, num_outputs=32, steps=33)
    with self.assertRaisesRegex(InputError, 'raise mask_bits by 3,'):
      he.check_openings(aggregate, num_outputs=32, steps=256)
    he.check_openings(he.ckks(mask_bits=33), num_outputs=32, steps=256)

  @parameterized.parameters('paillier', 'plaintext', 'ideal')
  def test_what_is_exact_opens_any_number(self, name):
    build = _quick if name == 'paillier' else _build
    he.check_openings(build(name), num_outputs=10**9, steps=10**9)

  def test_an_estimate_opens_nothing(self):
    aggregate = he.ckks(mask_bits=20)  # a single result
    he.estimate(aggregate, num_inputs=10, num_outputs=1)
    exchange.exchange(aggregate.scheme, np.ones((1, 1)), np.ones(1))


class RingTest(parameterized.TestCase):
  """Exact polynomials against Python's integers, and against SEAL's own."""

  def test_values_are_those_of_seal(self):
    public = _build('ckks').scheme.encrypt.args[0]
    encoder, plain = public.seal.CKKSEncoder(public.context), None
    plain = public.seal.Plaintext()
    encoder.encode(_uniform(1, 4096).tolist(), 2.0**40, plain)
    values = seal.read(public, plain)
    coefficients = rings.compose(public.ring, rings.invert(public.ring, values))
    again = rings.transform(public.ring, np.array(coefficients, object))
    np.testing.assert_array_equal(again, values)
    q = public.ring.modulus
    small = [c - q if 2 * c > q else c for c in coefficients]
    self.assertLess(max(map(abs, small)), 2**40)

  @hypothesis.settings(max_examples=20, deadline=None)
  @hypothesis.given(data=st.data())
  def test_products_of_values_are_products_of_polynomials(self, data):
    degree = 8
    ring = rings.Ring(degree, (1152921504606683137, 97))
    entries = st.lists(
      st.integers(-(2**90), 2**90), min_size=degree, max_size=degree
    )
    a, b = (np.array(data.draw(entries), object) for _ in range(2))
    product = [0] * degree
    for i in range(degree):
      for j in range(degree):
        sign = -1 if i + j >= degree else 1
        product[(i + j) % degree] += sign * a[i] * b[j]
    left, right = (rings.transform(ring, f).astype(object) for f in (a, b))
    primes = np.array(ring.primes, object)[:, None]
    values = (left * right % primes).astype(np.uint64)
    found = rings.compose(ring, rings.invert(ring, values))
    self.assertEqual(found, [c % ring.modulus for c in product])


class TransportTest(parameterized.TestCase):
  @parameterized.parameters(*SCHEMES)
  def test_a_cut_frame_is_an_error(self, name):
    scheme = _quick(name).scheme
    sent = scheme.encrypt(np.ones(3), (1, 3))
    frame = frames.pack(scheme.channel, 'sealed', sent)
    unpack = functools.partial(frames.unpack, scheme.channel, 'sealed')
    self.assertEqual(unpack(frame), sent)
    ends = 0, 1, 31, 32, 35, 36, 39, 40, 68, len(frame) // 2, len(frame) - 1
    for end in ends:
      with self.assertRaisesRegex(InputError, 'cut or changed'):
        unpack(frame[:end])
    with self.assertRaisesRegex(InputError, 'cut or changed'):
      unpack(frame + b'\0')

  @parameterized.parameters(*SCHEMES)
  def test_a_flipped_bit_is_an_error(self, name):
    scheme = _quick(name).scheme
    matrix, message = np.ones((2, 3)), np.ones(3)
    done = exchange.exchange(scheme, matrix, message)
    sent = dict(sealed=done.sealed, masked=done.masked, opened=done.opened)
    rng, refused = np.random.default_rng(0), 0
    for i in range(400):
      kind = tuple(sent)[i % 3]
      frame = bytearray(sent[kind])
      # Headers, lengths and digests as often as all that lies between.
      end = len(frame) if i % 2 else min(len(frame), 100)
      frame[rng.integers(end)] ^= 1 << int(rng.integers(8))
      with self.assertRaises(InputError):
        frames.unpack(scheme.channel, kind, bytes(frame))
      refused += 1
    self.assertEqual(refused, 400)

  @parameterized.parameters(*SCHEMES)
  def test_a_bit_flipped_on_the_way_stops_the_exchange(self, name):
    scheme = _quick(name).scheme
    matrix, message = np.ones((2, 3)), np.ones(3)
    pack = frames.pack
    for kind in ('sealed', 'masked', 'opened'):

      def flip(channel, each, messages, kind=kind):
        frame = pack(channel, each, messages)
        if each != kind:
          return frame
        changed = bytearray(frame)
        changed[len(frame) // 2] ^= 4
        return bytes(changed)

      with (
        mock.patch.object(frames, 'pack', flip),
        self.assertRaisesRegex(InputError, f'{kind}: .*cut or changed'),
      ):
        exchange.exchange(scheme, matrix, message)

  def test_a_digest_needs_the_secret_and_the_kind(self):
    channel = _quick('paillier').scheme.channel
    frame = frames.pack(channel, 'sealed', [b'a', b'bc'])
    others = channel._replace(secret=bytes(32))
    forged = frames.pack(others, 'sealed', [b'a', b'bc'])
    for kind, sent in (('masked', frame), ('sealed', forged)):
      with self.assertRaisesRegex(InputError, 'cut or changed'):
        frames.unpack(channel, kind, sent)

  @parameterized.parameters(*SCHEMES)
  def test_a_result_beyond_map_and_bound_is_an_error(self, name):
    scheme = _quick(name).scheme
    matrix = np.array([[1.0, -2.0], [0.5, 0.0]])
    largest = np.array([3.0, 0.5]) * scheme.bound
    for sign in (1, -1):
      exchange.check_result(scheme, matrix, sign * largest)
    for wrong in (1.001 * largest, largest * [0, -1.001], largest * np.nan):
      with self.assertRaisesRegex(InputError, 'beyond what the map and bound'):
        exchange.check_result(scheme, matrix, wrong)
    # What another answer of the third party makes of a batch.
    unmask = lambda answer, masks, matrix: scheme.unmask(
      bytes(len(answer)), masks, matrix
    )
    with self.assertRaisesRegex(InputError, 'beyond what the map and bound'):
      exchange.exchange(
        scheme._replace(unmask=unmask), np.ones((40, 2)), np.ones(2)
      )

  @parameterized.parameters(*SCHEMES)
  def test_a_cut_ciphertext_is_an_error(self, name):
    scheme = _quick(name).scheme
    first, *rest = scheme.encrypt(np.ones(3), (1, 3))
    for end in (0, 1, len(first) // 2, len(first) - 1):
      with self.assertRaisesRegex(InputError, 'cut or'):
        scheme.evaluate([first[:end], *rest], np.ones((1, 3)))
      with self.assertRaisesRegex(InputError, 'cut or'):
        scheme.decrypt([first[:end]], (1, 3))

  @parameterized.parameters(*SCHEMES)
  def test_a_ciphertext_of_nothing_is_an_error(self, name):
    scheme = _quick(name).scheme
    first, *_ = scheme.encrypt(np.ones(3), (1, 3))
    with self.assertRaises(InputError):
      scheme.decrypt([b'\0' * len(first)], (1, 3))

  def test_a_wrong_key_is_an_error_where_ckks_says_nothing(self):
    hyper = dict(poly_modulus_degree=8192)
    ours, theirs = _build('ckks').scheme, _build('ckks', **hyper).scheme
    ciphertexts = ours.encrypt(np.ones(1), (1, 1))
    right, wrong = (
      int.from_bytes(each.decrypt(ciphertexts, (1, 1)), 'big')
      for each in (ours, theirs)
    )
    # No error, and no ones; bare, a message is 2^-map_bits of a result.
    self.assertLess(abs(right / _num_grains(ours, (1, 1))), 2.0**-20)
    self.assertGreater(abs(wrong / _num_grains(theirs, (1, 1))), 2.0**-19)
    frame = frames.pack(ours.channel, 'sealed', ciphertexts)
    with self.assertRaisesRegex(InputError, 'would decrypt them wrongly'):
      frames.unpack(theirs.channel, 'sealed', frame)

  def test_a_wrong_key_is_an_error_in_paillier(self):
    one, two = (
      he.paillier(key_bits=256, insecure_for_tests=True).scheme
      for _ in range(2)
    )
    mixed = two._replace(encrypt=one.encrypt, channel=one.channel)
    sent = mixed.encrypt(np.ones(1), (1, 1))
    frame = frames.pack(one.channel, 'sealed', sent)
    with self.assertRaisesRegex(InputError, 'would decrypt them wrongly'):
      frames.unpack(two.channel, 'sealed', frame)

  @parameterized.parameters(*SCHEMES)
  def test_keys_are_new_every_time(self, name):
    short = dict(key_bits=256, insecure_for_tests=True)
    hyper = short if name == 'paillier' else {}
    one, two = (registry.load('he', name, **hyper) for _ in range(2))
    for ours, theirs in zip(one.scheme.channel, two.scheme.channel):
      self.assertNotEqual(ours, theirs)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    ('paillier', dict(key_bits=1024), 'not secure, 2048'),
    ('paillier', dict(fraction_bits=0), 'fraction_bits=0'),
    ('paillier', dict(bound=-1.0), 'positive'),
    # 240 bits, SEAL's 128-bit limit at this degree being 218.
    ('ckks', dict(coeff_mod_bit_sizes=(60,) * 4), '128-bit secure up to 218'),
    ('ckks', dict(poly_modulus_degree=4096), '128-bit secure up to 109'),
    ('ckks', dict(poly_modulus_degree=8000), 'power of two'),
    ('ckks', dict(fraction_bits=117), 'add primes'),
    ('ckks', dict(fraction_bits=0), 'fraction_bits=0 must be positive'),
    ('ckks', dict(mask_bits=0), 'mask_bits=0 lets the noise show'),
    ('ckks', dict(mask_bits=19), 'mask_bits=19 .* 20 is the least'),
    ('ckks', dict(mask_bits=90), 'bits of a result above its grain'),
    ('ckks', dict(width=16384), 'width=16384'),
    ('ckks', dict(width=3), 'width=3'),
    ('ckks', dict(bound=0.0), 'positive'),
  )
  def test_parameters(self, name, hyper, says):
    with self.assertRaisesRegex(InputError, says):
      registry.load('he', name, **hyper)

  @parameterized.parameters(
    *((bits, 42) for bits in (1, 8, 12, 19, 24)),
    *((24, bits) for bits in (24, 26, 28)),
  )
  def test_parameters_that_gave_the_key_away(self, mask_bits, fraction_bits):
    hyper = dict(mask_bits=mask_bits, fraction_bits=fraction_bits)
    with self.assertRaisesRegex(InputError, '_bits='):
      he.ckks(**hyper)
    he.ckks(**hyper, insecure_for_tests=True)

  def test_larger_degrees_allow_more(self):
    big = dict(poly_modulus_degree=16384, coeff_mod_bit_sizes=(60,) * 4)
    done = exchange.exchange(
      _build('ckks', **{k: v for k, v in big.items()}).scheme,
      np.eye(2),
      np.array([0.5, -0.25]),
    )
    np.testing.assert_allclose(done.result, [0.5, -0.25], atol=1e-5)

  @parameterized.product(name=SCHEMES, value=(np.nan, np.inf, -np.inf, 2.0**40))
  def test_messages_that_do_not_fit(self, name, value):
    linear, cut = _party()
    run = jax.jit(
      lambda cut: _quick(name).reveal(jax.random.key(0), linear, cut)
    )
    says = 'beyond bound' if np.isfinite(value) else 'not finite'
    with self.assertRaisesRegex(Exception, says):
      jax.block_until_ready(run(cut.at[1, 2].set(value)))

  @parameterized.parameters(3, 7, 100, 1000)
  def test_a_bound_admits_itself_in_float32(self, batch):
    extreme = np.array([np.float32(1.0) / np.float32(batch)], np.float32)
    scheme = _build('ckks', bound=1.0 / batch).scheme
    scheme.encrypt(extreme, (1, 1))
    with self.assertRaisesRegex(InputError, 'beyond bound'):
      scheme.encrypt(1.00001 * extreme, (1, 1))

  @parameterized.parameters(*SCHEMES)
  def test_maps_that_are_not_linear_or_not_finite(self, name):
    _, cut = _party()
    for wrong in (
      lambda m: m.sum(0) + 1.0,
      lambda m: (m**2).sum(0),
      jnp.abs,
      lambda m: m * jnp.nan,
    ):
      with self.assertRaisesRegex(Exception, 'not linear, or not finite'):
        jax.block_until_ready(
          _quick(name).reveal(jax.random.key(0), wrong, cut).result
        )

  def test_the_ring_is_used_up_to_its_edge_and_not_beyond(self):
    short = dict(key_bits=128, bound=2.0**30, insecure_for_tests=True)
    scheme = _build('paillier', **short).scheme
    # Products carry 2^64, so results up to n / 2^65, which is 2^62 to 2^63.
    n = scheme.evaluate.args[0].key.n
    most = n / 2.0**65 / 2.0**30 * (1 - 1e-6)
    message = np.array([2.0**30, -(2.0**30)])
    for sign in (1.0, -1.0):
      matrix = sign * np.array([[most / 2, -most / 2]])
      done = exchange.exchange(scheme, matrix, message)
      np.testing.assert_allclose(done.result, matrix @ message, rtol=1e-9)
      with self.assertRaisesRegex(InputError, 'overflow the ring'):
        exchange.exchange(scheme, matrix * (1 + 1e-5), message)

  @parameterized.parameters(*SCHEMES)
  def test_maps_that_are_too_large_stop_the_trace(self, name):
    big = jax.ShapeDtypeStruct((2**14,), jnp.float32)
    with self.assertRaisesRegex(InputError, 'too large to materialise'):
      jax.eval_shape(
        lambda m: _quick(name).reveal(jax.random.key(0), lambda m: m, m), big
      )

  def test_a_library_that_is_absent(self):
    with self.assertRaisesRegex(InputError, r"pip install 'labelleak\[he\]'"):
      checks.import_library('labelleak_absent_library')

  def test_constructors_are_what_the_package_offers(self):
    self.assertEqual(
      registry.names('he'), ['ckks', 'ideal', 'paillier', 'plaintext']
    )


class CostTest(parameterized.TestCase):
  @parameterized.product(name=SCHEMES, shape=((4, 6), (60, 90)))
  def test_bytes_are_those_of_a_real_exchange(self, name, shape):
    aggregate = _quick(name)
    matrix, message = _uniform(1, *shape), _uniform(2, shape[1])
    cost = he.estimate(aggregate, num_inputs=shape[1], num_outputs=shape[0])
    done = exchange.exchange(aggregate.scheme, matrix, message)
    self.assertLen(done.sealed, cost.sent.sealed)
    self.assertLen(done.masked, cost.sent.masked)
    self.assertLen(done.opened, cost.sent.opened)

  @parameterized.parameters(*SCHEMES)
  def test_operations_are_those_of_the_ciphertexts(self, name):
    scheme = _quick(name).scheme
    shape = (60, 90)
    count = scheme.count(shape, 60 * 90)
    sent = scheme.encrypt(_uniform(2, 90), shape)
    sums = scheme.evaluate(sent, _uniform(1, *shape))
    self.assertLen(sent, count.encrypt)
    self.assertLen(sums, count.mask)
    self.assertGreaterEqual(count.multiply, count.encrypt)

  def test_a_cost_is_rates_times_operations(self):
    """Of a scheme whose roles take 2, 3, 4 and 5 seconds on its probe."""
    sent, messages = he.MessageBytes(1, 2, 3), []

    def count(shape, nonzeros):
      outputs, inputs = shape
      return exchange.Count(2 * inputs, nonzeros, outputs, sent)

    def encrypt(message, shape):
      messages.append(message)
      return shape

    scheme = types.SimpleNamespace(
      probe=(5, 4),
      bound=0.25,
      count=count,
      encrypt=encrypt,
      evaluate=lambda sealed, matrix: messages.append(matrix),
      blind=lambda sums: ('masked', 'masks'),
      decrypt=lambda masked, shape: messages.append(masked),
    )
    clock = iter([10, 12, 20, 23, 30, 34, 40, 45])
    with mock.patch.object(cost.time, 'perf_counter', lambda: next(clock)):
      found = cost.estimate(scheme, (3, 7), 9)
    rates = 2 / 8, 3 / 20, 4 / 5, 5 / 5
    expected = rates[0] * 14, rates[1] * 9 + rates[2] * 3, rates[3] * 3
    np.testing.assert_allclose(found[:3], expected)
    self.assertEqual(found.sent, sent)
    message, matrix, masked = messages
    self.assertEqual((message.shape, matrix.shape), ((4,), (5, 4)))
    self.assertBetween(np.abs(message).max(), 0.05, 0.25)
    for values in (message, matrix):  # both signs, or roles are too quick
      self.assertLess(values.min(), 0)
      self.assertGreater(values.max(), 0)
    self.assertEqual(masked, 'masked')

  def test_a_cost_is_the_sum_of_its_roles(self):
    cost = he.estimate(
      _quick('paillier'), num_inputs=100, num_outputs=50, num_nonzeros=700
    )
    self.assertAlmostEqual(
      cost.seconds, cost.active + cost.passive + cost.third
    )
    self.assertGreater(min(cost.active, cost.passive, cost.third), 0.0)

  def test_a_scheme_for_small_messages_can_be_estimated(self):
    cost = he.estimate(
      _build('ckks', bound=1.0 / 7), num_inputs=10, num_outputs=10
    )
    self.assertGreater(cost.seconds, 0.0)

  @parameterized.parameters('plaintext', 'ideal')
  def test_what_is_not_encrypted_takes_no_time(self, name):
    cost = he.estimate(
      registry.load('he', name), num_inputs=100, num_outputs=50
    )
    self.assertEqual((cost.seconds, cost.sent.sealed), (0.0, 400))
    he.check_hours(cost, steps=10**9, max_hours=0.0)

  def test_a_run_that_would_take_too_long_says_so(self):
    cost = he.Cost(20.0, 10.0, 6.0, he.MessageBytes(10**6, 10**6, 10**6))
    he.check_hours(cost, steps=100, max_hours=1.0)
    with self.assertRaisesRegex(
      InputError, '101 encrypted steps of 36 s and 3 MB would take 1.01 h'
    ):
      he.check_hours(cost, steps=101, max_hours=1.0)


if __name__ == '__main__':
  absltest.main()
