"""Published count attacks against plain Python, their limits and symmetries."""

import functools

from absl.testing import absltest, parameterized
import flax.linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from labelleak import attacks, base, hfl, metrics

KEY = jax.random.key(0)
# An attack's name and options, and the leaf of the head that it reads.
PUBLISHED = (
  ('llbg', {}, 'bias'),
  ('llbg', dict(confidence=0.3), 'bias'),
  ('ebi', {}, 'bias'),
  ('llg', {}, 'kernel'),
  ('llg', dict(form='original'), 'kernel'),
)
ALL = PUBLISHED + (
  ('random', {}, 'bias'),
  ('idlg', {}, 'kernel'),
  ('calibrated', {}, 'bias'),
)
# K, B, S; B is a power of two, so that no quotient is rounded and ties stay.
SIZES = ((2, 1, 1), (3, 4, 2), (5, 2, 1), (10, 8, 3), (10, 64, 10))


def view_of(scores, name):
  """A view whose bias, and whose kernel's column sums, are `scores` [K].

  `calibrated` reads clients off a kernel, which takes long to compile.
  """
  scores = jnp.asarray(scores, jnp.float32)
  head = {'bias': scores}
  if name != 'calibrated':
    head['kernel'] = jnp.stack([scores, jnp.zeros_like(scores)])
  return hfl.View(grads={'head': head})


@functools.cache
def jitted(name, num_classes, batch_size, steps, clients, options):
  """Compiled once for all scores, [K] -> [K]."""
  infer = attacks.load(f'counts.{name}', **dict(options)).infer
  known = hfl.Known(num_classes, batch_size, steps, clients)
  return jax.jit(lambda scores: infer(KEY, view_of(scores, name), known))


def run(name, scores, known, *, jit=True, **options):
  if jit:
    sizes = known.num_classes, known.batch_size, known.steps, known.clients
    infer = jitted(name, *sizes, tuple(options.items()))
    return np.asarray(infer(jnp.asarray(scores, jnp.float32)))
  infer = attacks.load(f'counts.{name}', **options).infer
  return np.asarray(infer(KEY, view_of(scores, name), known))


# --- The algorithms once more, as printed: lists, loops and no JAX ---


def greedy(labels, scores, impact, total):
  """Names the lowest class and lifts it by its impact until all are named."""
  scores = scores.copy()
  while len(labels) < total:
    lowest = min(range(len(scores)), key=lambda i: (scores[i], i))
    labels.append(lowest)
    scores[lowest] -= impact[lowest]
  return np.bincount(labels, minlength=len(scores))


def oracle(
  name, g, total, size, *, v=0.0, form='benchmark', offset=0.0, m=None
):
  """Counts by `name`: the scores g [K], C * B labels, b * C examples a step."""
  g = np.asarray(g, np.float32)
  k = len(g)
  certain = [i for i in range(k) if g[i] < 0]
  certain.sort(key=lambda i: (g[i], i))
  labels = certain[:total]
  negative = sum((g[i] for i in certain), np.float32(0))
  rest = g - np.float32(offset) * np.ones(k, np.float32)
  if name == 'llbg':
    impact = np.float32(-(1.0 - np.asarray(v)) / size) * np.ones(k, np.float32)
  elif name == 'ebi':
    impact = np.full(k, negative / np.float32(total))
  elif name == 'llg':
    impact = np.full(k, np.float32(1 + 1 / k) * negative / np.float32(total))
  else:
    impact = np.full(k, np.float32(m))
  if not (name == 'llg' and form == 'benchmark'):
    for i in certain:
      rest[i] -= impact[i]
  return greedy(labels, rest, impact, total)


def random_scores(rng, k):
  """Continuous, of mixed signs, some classes heavy."""
  return rng.normal(size=k) * 0.1 - rng.exponential(0.2, k) * rng.integers(0, 2)


eighths = st.integers(-40, 40).map(lambda i: i / 8)
wild = st.one_of(
  eighths,
  eighths,
  st.sampled_from([0.0, -0.0]),
)


extreme = st.sampled_from([-1e38, 1e38])


@jax.jit
def count_wild(head):
  """Counts of `calibrated`, told no client, of rows [2, 10] and a bias."""
  view = hfl.View(grads={'head': {'kernel': head[:-1], 'bias': head[-1]}})
  known = hfl.Known(10, 8, steps=3)
  return attacks.load('counts.calibrated').infer(KEY, view, known)


@st.composite
def wild_problem(draw, entries=wild):
  k, b, s = draw(st.sampled_from(SIZES))
  sign = draw(st.sampled_from([None, -1, 0, 1]))  # all negative, zero, positive
  scores = np.array(draw(st.lists(entries, min_size=k, max_size=k)))
  if sign == 0:
    scores[:] = 0
  elif sign is not None:
    scores = sign * np.abs(scores)
  return scores, hfl.Known(k, b, s)


def slice_size(known):
  return max(hfl.step_sizes(known.batch_size, known.steps)) * known.clients


class PublishedTest(parameterized.TestCase):
  @parameterized.parameters(*PUBLISHED)
  @settings(max_examples=60, deadline=None)
  @given(wild_problem())
  def test_wild_scores_as_printed(self, name, options, leaf, problem):
    del leaf
    scores, known = problem
    got = run(name, scores, known, **options)
    form, v = options.get('form', 'benchmark'), options.get('confidence', 0.0)
    want = oracle(
      name, scores, known.batch_size, slice_size(known), v=v, form=form
    )
    np.testing.assert_array_equal(got, want)

  @parameterized.product(
    attack=PUBLISHED,
    sizes=((7, 13, 4, 1), (100, 100, 10, 1), (10, 9, 2, 3), (10, 3, 5, 1)),
    jit=(True, False),
  )
  def test_continuous_scores_as_printed(self, attack, sizes, jit):
    name, options, _ = attack
    k, b, s, clients = sizes
    known = hfl.Known(k, b, s, clients)
    form, v = options.get('form', 'benchmark'), options.get('confidence', 0.0)
    rng = np.random.default_rng(k)
    for _ in range(4 if jit else 1):
      scores = random_scores(rng, k)
      want = oracle(
        name, scores, clients * b, slice_size(known), v=v, form=form
      )
      np.testing.assert_array_equal(
        run(name, scores, known, jit=jit, **options), want
      )

  @parameterized.parameters(*ALL)
  @settings(max_examples=40, deadline=None)
  @given(wild_problem(st.one_of(wild, extreme)))
  def test_counts_are_a_batch(self, name, options, leaf, problem):
    del leaf
    scores, known = problem
    counts = run(name, scores, known, **options)
    self.assertTrue(np.issubdtype(counts.dtype, np.integer))
    self.assertEqual(counts.shape, (known.num_classes,))
    self.assertEqual(counts.sum(), known.batch_size)
    self.assertGreaterEqual(counts.min(), 0)

  @settings(max_examples=24, deadline=None)
  @given(hnp.arrays(np.float32, (3, 10), elements=st.one_of(wild, extreme)))
  @pytest.mark.slow
  def test_wild_heads_have_counts_of_a_batch(self, head):
    counts = count_wild(head)
    self.assertEqual(counts.sum(), 8)
    self.assertGreaterEqual(counts.min(), 0)

  @parameterized.parameters(*ALL)
  def test_clients_add_up(self, name, options, leaf):
    del leaf
    scores = random_scores(np.random.default_rng(0), 6)
    known = hfl.Known(6, 5, 2, clients=3)
    self.assertEqual(run(name, scores, known, **options).sum(), 15)

  @parameterized.parameters(*PUBLISHED)
  def test_more_negatives_than_examples(self, name, options, leaf):
    del leaf
    scores = -np.array([3.0, 1.0, 5.0, 2.0, 4.0])
    counts = run(name, scores, hfl.Known(5, 2), **options)
    np.testing.assert_array_equal(counts, [0, 0, 1, 0, 1])

  @parameterized.parameters({}, dict(confidence=0.5))
  def test_llbg_goes_round_where_all_is_zero(self, **options):
    counts = run('llbg', np.zeros(4), hfl.Known(4, 6), **options)
    np.testing.assert_array_equal(counts, [2, 2, 1, 1])

  @parameterized.parameters(*PUBLISHED)
  def test_permuting_classes_permutes_counts(self, name, options, leaf):
    del leaf
    rng = np.random.default_rng(3)
    known = hfl.Known(12, 30, 4)
    for _ in range(5):
      scores, order = random_scores(rng, 12), rng.permutation(12)
      counts = run(name, scores, known, **options)
      permuted = run(name, scores[order], known, **options)
      np.testing.assert_array_equal(permuted, counts[order])

  @parameterized.parameters(*ALL)
  def test_vmap_is_a_loop(self, name, options, leaf):
    del leaf
    rng = np.random.default_rng(4)
    known = hfl.Known(8, 11, 3)
    attack = attacks.load(f'counts.{name}', **options)
    infer = jax.jit(lambda key, s: attack.infer(key, view_of(s, name), known))
    scores = jnp.stack([random_scores(rng, 8) for _ in range(5)])
    keys = jax.random.split(KEY, 5)
    got = jax.jit(jax.vmap(infer))(keys, scores)
    want = [infer(key, s) for key, s in zip(keys, scores)]
    np.testing.assert_array_equal(got, want)

  @parameterized.parameters('ebi', 'llg')
  def test_scale_free(self, name):
    rng = np.random.default_rng(5)
    known = hfl.Known(10, 20, 3)
    for _ in range(5):
      scores = random_scores(rng, 10)
      np.testing.assert_array_equal(
        run(name, scores, known), run(name, scores / 8, known)
      )


def label_only(labels, k, steps, p=None):
  """Bias update [K] of one client whose softmax is p, uniform by default."""
  sizes = hfl.step_sizes(len(labels), steps)
  beta = steps * (np.full(k, 1 / k) if p is None else p)
  for part in np.split(labels, np.cumsum(sizes)[:-1]):
    beta = beta - np.bincount(part, minlength=k) / len(part)
  return beta


class ClosedFormTest(parameterized.TestCase):
  @parameterized.parameters((50, 60, 10), (100, 128, 1), (10, 64, 4), (5, 1, 1))
  def test_llbg_is_exact_at_uniform_softmax(self, k, b, steps):
    rng = np.random.default_rng(b)
    for _ in range(5):
      labels = rng.choice(k, b, p=rng.dirichlet(np.ones(k)))
      counts = run('llbg', label_only(labels, k, steps), hfl.Known(k, b, steps))
      np.testing.assert_array_equal(counts, np.bincount(labels, minlength=k))

  def test_llbg_is_exact_for_several_clients(self):
    rng = np.random.default_rng(1)
    k, b, steps, clients = 20, 12, 3, 4
    labels = rng.integers(k, size=(clients, b))
    beta = np.mean([label_only(part, k, steps) for part in labels], axis=0)
    counts = run('llbg', beta, hfl.Known(k, b, steps, clients))
    want = np.bincount(labels.ravel(), minlength=k)
    np.testing.assert_array_equal(counts, want)

  @parameterized.parameters(0.4, 0.8)
  def test_llbg_with_confidence_is_exact_where_it_holds(self, gamma):
    """An example adds -(1 - gamma)/B to its class and no other entry moves."""
    rng = np.random.default_rng(2)
    labels = rng.integers(30, size=40)
    truth = np.bincount(labels, minlength=30)
    beta = -(1 - gamma) * truth / 40 + 1e-4
    counts = run('llbg', beta, hfl.Known(30, 40), confidence=gamma)
    np.testing.assert_array_equal(counts, truth)

  def test_llg_and_ebi_are_exact_where_all_mass_is_negative(self):
    """Impact m = sum of negatives / B is exact without a positive offset."""
    truth = np.array([5, 0, 1, 2, 0, 0, 8, 0])
    for name in ('llg', 'ebi'):
      counts = run(name, -truth / 16 + 1e-3 * (truth == 0), hfl.Known(8, 16))
      np.testing.assert_array_equal(counts, truth)

  def test_idlg_is_exact_for_one_example(self):
    rng = np.random.default_rng(3)
    for label in range(6):
      x, p = rng.uniform(size=9), rng.dirichlet(np.ones(6))
      kernel = np.outer(x, p - np.eye(6)[label])
      view = hfl.View(grads={'head': {'kernel': jnp.asarray(kernel)}})
      counts = attacks.load('counts.idlg').infer(KEY, view, hfl.Known(6, 1))
      np.testing.assert_array_equal(counts, np.eye(6)[label])

  def test_idlg_names_its_class_and_guesses_the_rest(self):
    scores = np.array([0.2, -1.0, 0.3, 0.5])
    known = hfl.Known(4, 9)
    keys = jax.random.split(KEY, 3000)
    infer = attacks.load('counts.idlg').infer
    counts = jax.vmap(lambda key: infer(key, view_of(scores, 'random'), known))(
      keys
    )
    self.assertGreaterEqual(counts[:, 1].min(), 1)
    rest = counts.mean(0) - jnp.eye(4)[1]
    error = (8 * 0.25 * 0.75 / 3000) ** 0.5
    np.testing.assert_allclose(rest, 2.0, atol=4 * error)

  @parameterized.parameters((100, 128), (10, 16))
  def test_random_is_at_chance(self, k, b):
    rng = np.random.default_rng(0)
    truth = jnp.asarray(
      np.bincount(rng.choice(k, b, p=rng.dirichlet(np.ones(k))), minlength=k)
    )
    infer = attacks.load('counts.random').infer
    known = hfl.Known(k, b)
    values = jax.vmap(
      lambda key: metrics.count_accuracy(
        infer(key, view_of(np.zeros(k), 'random'), known), truth
      )
    )(jax.random.split(KEY, 2000))
    error = values.std() / 2000**0.5
    guessed = np.arange(b + 1)
    pmf = stats.binom.pmf(guessed, b, 1 / k)
    chance = sum(np.minimum(guessed, t) @ pmf for t in truth) / b
    self.assertLess(abs(values.mean() - chance), 4 * error)


class TinyNet(nn.Module):
  """One hidden layer below a head with large logits, so that p varies."""

  num_classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(7)(x))
    head = nn.Dense(
      self.num_classes, name='head', kernel_init=nn.initializers.normal(0.7)
    )
    return head(x)


class ModelTest(parameterized.TestCase):
  """Attacks that run the victim's model."""

  K, M = 6, 15

  def setUp(self):
    super().setUp()
    model = TinyNet(self.K)
    self.apply = model.apply
    self.variables = model.init(KEY, jnp.zeros((1, 4)))
    rng = np.random.default_rng(0)
    self.rng = rng
    self.x = jnp.asarray(rng.normal(size=(self.M, 4)), jnp.float32)
    # No example of the last class.
    self.labels = rng.permutation(np.arange(self.M) % (self.K - 1))

  def head_gradient(self, x, labels):
    """Of the mean cross entropy on x with these labels, by jax.grad."""

    def loss(params):
      logp = jax.nn.log_softmax(self.apply({'params': params}, x))
      return -logp[jnp.arange(len(labels)), jnp.asarray(labels)].mean()

    return jax.grad(loss)(self.variables['params'])['head']

  def known(self, b, s, *, grant=True):
    labelled = base.Labelled(self.x, jax.nn.one_hot(self.labels, self.K))
    return hfl.Known(
      self.K,
      b,
      s,
      model=base.Model(self.apply, (4,)),
      labelled=labelled if grant else None,
    )

  def updates(self, b, steps):
    """Head updates of real batches, held at the server's variables."""
    for _ in range(25):
      labels = self.rng.choice(self.K, b, p=self.rng.dirichlet(np.ones(self.K)))
      x = jnp.asarray(self.rng.normal(size=(b, 4)), jnp.float32)
      grad = self.head_gradient(x, labels)
      yield jax.tree.map(lambda g: steps * g, grad)

  def oracle_from(self, single, grads, b, steps):
    """LLG+ and LLG*, given {class: row sums [K] of its single-class batch}."""
    own = np.mean([single[i][i] for i in single])
    m = own * (1 + 1 / self.K) * steps / b
    offset = [
      steps * np.mean([single[i][j] for i in single if i != j])
      for j in range(self.K)
    ]
    g = np.asarray(grads['kernel']).sum(0)
    return oracle('measured', g, b, None, m=m, offset=offset)

  @parameterized.parameters((8, 1), (20, 4))
  def test_llg_plus_measures_single_class_batches(self, b, steps):
    single = {}
    for i in range(self.K - 1):
      rows = np.flatnonzero(self.labels == i)
      grad = self.head_gradient(self.x[rows], self.labels[rows])
      single[i] = np.asarray(grad['kernel']).sum(0)
    infer = jax.jit(attacks.load('counts.llg_plus').infer)
    for grads in self.updates(b, steps):
      view = hfl.View({'head': grads}, self.variables)
      np.testing.assert_array_equal(
        infer(KEY, view, self.known(b, steps)),
        self.oracle_from(single, grads, b, steps),
      )

  @parameterized.parameters('zeros', 'ones', 'random')
  def test_llg_star_measures_dummy_inputs(self, inputs):
    b, steps, num = 12, 2, 5
    x = dict(
      zeros=jnp.zeros((num, 4)),
      ones=jnp.ones((num, 4)),
      random=jax.random.normal(KEY, (num, 4)),
    )[inputs]
    # Biases are zero at the start, and zero inputs would leave no gradient.
    params = jax.tree.map(lambda p: p + 0.2, self.variables['params'])
    self.variables = {'params': params}
    single = {
      i: np.asarray(self.head_gradient(x, [i] * num)['kernel']).sum(0)
      for i in range(self.K)
    }
    attack = attacks.load('counts.llg_star', inputs=inputs, examples=num)
    infer = jax.jit(attack.infer)
    for grads in self.updates(b, steps):
      view = hfl.View({'head': grads}, self.variables)
      np.testing.assert_array_equal(
        infer(KEY, view, self.known(b, steps, grant=False)),
        self.oracle_from(single, grads, b, steps),
      )

  def test_llbg_takes_confidence_from_auxiliary_examples(self):
    b, steps = 20, 4
    logits = np.asarray(self.apply(self.variables, self.x), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    v = np.zeros(self.K)  # a class without examples has no confidence
    for i in range(self.K - 1):
      v[i] = p[self.labels == i, i].mean()
    self.assertGreater(v.max() - v[:-1].min(), 0.1)
    infer = jax.jit(attacks.load('counts.llbg', confidence='aux').infer)
    known = self.known(b, steps)
    for grads in self.updates(b, steps):
      view = hfl.View({'head': grads}, self.variables)
      beta = np.asarray(grads['bias'])
      want = oracle('llbg', beta, b, slice_size(known), v=v)
      np.testing.assert_array_equal(infer(KEY, view, known), want)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters('ebi', 'llbg', 'calibrated')
  def test_head_without_bias(self, name):
    view = hfl.View(grads={'head': {'kernel': jnp.ones((3, 4))}})
    with self.assertRaisesRegex(base.InputError, r'counts\.llg') as caught:
      attacks.load(f'counts.{name}').infer(KEY, view, hfl.Known(4, 2))
    self.assertNotIn('\n', str(caught.exception))

  def test_llg_needs_no_bias(self):
    truth = np.bincount([3, 3, 3, 0, 7, 1], minlength=50)
    kernel = np.outer(np.ones(3), 1 / 50 - truth / 6)
    view = hfl.View(grads={'head': {'kernel': jnp.asarray(kernel)}})
    counts = attacks.load('counts.llg').infer(KEY, view, hfl.Known(50, 6))
    np.testing.assert_array_equal(counts, truth)

  @parameterized.parameters('llg', 'idlg')
  def test_head_without_kernel(self, name):
    view = hfl.View(grads={'head': {'bias': jnp.ones(4)}})
    with self.assertRaisesRegex(base.InputError, r'counts\.llbg'):
      attacks.load(f'counts.{name}').infer(KEY, view, hfl.Known(4, 2))

  @parameterized.parameters(
    ('llg_plus', {}, True),
    ('llg_star', {}, False),
    ('llbg', dict(confidence='aux'), True),
  )
  def test_missing_grants(self, name, options, labelled):
    known = hfl.Known(4, 2)
    needs = f"counts.{name} needs 'model', which is not granted; add it"
    with self.assertRaisesRegex(base.InputError, needs):
      run(name, np.zeros(4), known, jit=False, **options)
    if labelled:
      model = base.Model(lambda variables, x: x, (4,))
      known = hfl.Known(4, 2, model=model)
      with self.assertRaisesRegex(base.InputError, "needs 'labelled'"):
        run(name, np.zeros(4), known, jit=False, **options)

  @parameterized.parameters(
    ('llbg', dict(confidence=1.0)),
    ('llbg', dict(confidence=-0.1)),
    ('llbg', dict(confidence='gamma')),
    ('llg', dict(form='other')),
    ('llg_star', dict(inputs='noise')),
    ('llbg', dict(gamma=0.5)),
    ('llgb', {}),
  )
  def test_wrong_options(self, name, options):
    with self.assertRaises(base.InputError):
      attacks.load(f'counts.{name}', **options)


if __name__ == '__main__':
  absltest.main()
