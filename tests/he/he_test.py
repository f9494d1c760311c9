"""Real ciphertexts against exact arithmetic; what each role sees; refusals."""

from fractions import Fraction
import functools

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
from labelleak.he import checks, exchange, frames, products
from labelleak.he.schemes import ckks, packing, seal

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
      self.assertEqual(best.width * best.rows, parameters.degree // 2)
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

  def test_ckks_loses_what_longer_masks_take(self):
    matrix, message = _uniform(6, 20, 30), _uniform(7, 30)
    errors, limits = [], []
    for mask_bits in (24, 32):
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
      frames.unpack(scheme.identity, one.sealed),
      frames.unpack(scheme.identity, two.sealed),
    ):
      self.assertNotEqual(a, b)
    self.assertNotEqual(one.masked, two.masked)
    self.assertNotEqual(one.opened, two.opened)
    atol = 0.0 if name == 'paillier' else 1e-5
    np.testing.assert_allclose(one.result, two.result, rtol=0, atol=atol)

  @parameterized.parameters(0.0, -1.0, 0.7)
  def test_paillier_opens_what_is_uniform_over_the_ring(self, value):
    scheme = _quick('paillier').scheme
    n = scheme.evaluate.args[0].key.n
    matrix = np.ones((400, 1))
    opened = exchange.exchange(scheme, matrix, np.array([value])).opened
    width = len(opened) // 400
    seen = [
      int.from_bytes(opened[i * width : (i + 1) * width], 'big') / n
      for i in range(400)
    ]
    self.assertGreater(_p_uniform(seen, 0.0, 1.0), RARE)
    self.assertLess(_p_uniform([abs(value)] * 400, 0.0, 1.001), RARE)  # bare

  @parameterized.parameters((24, True), (1, False))
  def test_ckks_opens_what_hides_the_message(self, mask_bits, hidden):
    scheme = _build('ckks', mask_bits=mask_bits, width=1).scheme
    matrix = np.ones((4096, 1))
    size = 2.0**mask_bits
    seen = [
      np.frombuffer(
        exchange.exchange(scheme, matrix, np.array([value])).opened, '<f8'
      )
      for value in (0.0, 1.0)
    ]
    # A mask of one bit moves with the message; one of 24 bits does not.
    self.assertEqual(stats.ks_2samp(*seen).pvalue > RARE, hidden)
    uniform = _p_uniform(np.clip(seen[1], -size, size - 1e-6), -size, size)
    self.assertEqual(uniform > RARE, hidden)
    self.assertLessEqual(np.abs(seen).max(), size + 1.001)
    self.assertGreater(np.abs(seen).max(), 0.99 * size)

  def test_ckks_masks_fill_both_parts_of_every_slot(self):
    scheme = _build('ckks').scheme
    decryptor, public = scheme.decrypt.args
    (masked,), (mask,) = scheme.blind([None])
    plain = public.seal.Plaintext()
    decryptor.decrypt(seal.load(public, masked), plain)
    opened = np.array(public.encoder.decode_complex(plain))
    np.testing.assert_allclose(opened, mask, atol=1e-5)
    size = 2.0**public.parameters.mask_bits
    for part in (mask.real, mask.imag):
      self.assertGreater(_p_uniform(part, -size, size), RARE)
    self.assertLess(abs(np.corrcoef(mask.real, mask.imag)[0, 1]), 0.1)

  @parameterized.parameters(8, 24, 32)
  def test_ckks_masks_leave_no_low_bits_bare(self, mask_bits):
    parameters = _parameters(mask_bits=mask_bits)
    sizes = (
      np.array(ckks.mask_sizes(parameters)) * 4.0**parameters.fraction_bits
    )
    grains = sizes * 2.0**-53  # what a double of that size resolves
    self.assertLessEqual(grains[-1], 1.0)
    np.testing.assert_array_equal(sizes[1:] / grains[:-1], 2.0**mask_bits)
    self.assertEqual(ckks.mask_sizes(parameters)[0], 2.0**mask_bits)

  @parameterized.parameters(*SCHEMES)
  def test_the_passive_party_receives_one_number_a_result(self, name):
    scheme = _quick(name).scheme
    matrix, message = _uniform(8, 5, 30), _uniform(9, 30)
    opened = exchange.exchange(scheme, matrix, message).opened
    each = 64 if name == 'paillier' else 8  # 512 bits, one double
    self.assertLen(opened, 5 * each)


class TransportTest(parameterized.TestCase):
  @parameterized.parameters(*SCHEMES)
  def test_a_cut_frame_is_an_error(self, name):
    scheme = _quick(name).scheme
    frame = frames.pack(scheme.identity, scheme.encrypt(np.ones(3), (1, 3)))
    frames.unpack(scheme.identity, frame)
    for end in (0, 1, 35, 36, 39, 40, len(frame) // 2, len(frame) - 1):
      with self.assertRaisesRegex(InputError, 'cut or changed'):
        frames.unpack(scheme.identity, frame[:end])
    with self.assertRaisesRegex(InputError, 'cut or changed'):
      frames.unpack(scheme.identity, frame + b'\0')

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
    wrong = np.frombuffer(theirs.decrypt(ciphertexts, (1, 1)), '<f8')
    self.assertGreater(abs(wrong[0]), 1e3)  # no error, and no ones
    frame = frames.pack(ours.identity, ciphertexts)
    with self.assertRaisesRegex(InputError, 'would decrypt them wrongly'):
      frames.unpack(theirs.identity, frame)

  def test_a_wrong_key_is_an_error_in_paillier(self):
    one, two = (
      he.paillier(key_bits=256, insecure_for_tests=True).scheme
      for _ in range(2)
    )
    mixed = two._replace(encrypt=one.encrypt, identity=one.identity)
    frame = frames.pack(one.identity, mixed.encrypt(np.ones(1), (1, 1)))
    with self.assertRaisesRegex(InputError, 'would decrypt them wrongly'):
      frames.unpack(two.identity, frame)

  @parameterized.parameters(*SCHEMES)
  def test_keys_are_new_every_time(self, name):
    short = dict(key_bits=256, insecure_for_tests=True)
    hyper = short if name == 'paillier' else {}
    one, two = (registry.load('he', name, **hyper) for _ in range(2))
    self.assertNotEqual(one.scheme.identity, two.scheme.identity)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    ('paillier', dict(key_bits=1024), 'not secure, 2048'),
    ('paillier', dict(fraction_bits=0), 'fraction_bits=0'),
    ('paillier', dict(bound=-1.0), 'positive'),
    # 240 bits, SEAL's 128-bit limit at this degree being 218.
    ('ckks', dict(coeff_mod_bit_sizes=(60,) * 4), '128-bit secure up to 218'),
    ('ckks', dict(poly_modulus_degree=4096), '128-bit secure up to 109'),
    ('ckks', dict(poly_modulus_degree=8000), 'power of two'),
    ('ckks', dict(fraction_bits=50), 'add primes'),
    ('ckks', dict(mask_bits=0), 'mask_bits=0 in 1..40'),
    ('ckks', dict(width=3), 'width=3'),
    ('ckks', dict(bound=0.0), 'positive'),
  )
  def test_parameters(self, name, hyper, says):
    with self.assertRaisesRegex(InputError, says):
      registry.load('he', name, **hyper)

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
