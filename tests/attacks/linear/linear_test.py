"""Label inference by linear algebra: its equations, limits and symmetries."""

import functools
from unittest import mock

from absl.testing import absltest, parameterized
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import attacks, vfl
from labelleak.attacks.linear import (
  closed_form,
  equations,
  leaves,
  propagation,
  shifts,
  solver,
  whitening,
)
from labelleak.base import InputError
from labelleak.vfl import Known

KEY = jax.random.key(0)


class Mlp(nn.Module):
  num_classes: int
  width: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(self.width, name='linear0')(x))
    return nn.Dense(self.num_classes, name='head')(x)


class Bare(nn.Module):
  """No bias, a smooth activation."""

  num_classes: int
  width: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.tanh(nn.Dense(self.width, use_bias=False, name='linear0')(x))
    return nn.Dense(self.num_classes, use_bias=False, name='head')(x)


class Conv(nn.Module):
  """Batch norm, whose statistics let the rows of a batch see each other."""

  num_classes: int
  width: int

  @nn.compact
  def __call__(self, x, train=False):
    x = x.reshape(x.shape[0], 4, -1, 1)
    for i in range(2):
      x = nn.Conv(self.width, (3, 3), use_bias=False, name=f'conv{i}')(x)
      norm = nn.BatchNorm(use_running_average=not train, name=f'bn{i}')
      x = nn.relu(norm(x))
    return nn.Dense(self.num_classes, name='head')(x.mean((1, 2)))


MODELS = (('mlp', Mlp), ('bare', Bare), ('conv', Conv))


@functools.cache  # one function a model, so that compiled attacks are reused
def bottom_of(model):
  return vfl.bottom(vfl.party(model, optax.sgd(0.1)))


@functools.partial(jax.jit, static_argnames=('model', 'num', 'features'))
def _observe(seed, scale, model, num, features):
  keys = jax.random.split(jax.random.key(seed), 6)
  bottom = bottom_of(model)
  xs = [jax.random.normal(k, (num, features)) for k in keys[:2]]
  grow = lambda v: {
    **v,
    'params': jax.tree.map(lambda p: scale * p, v['params']),
  }
  both = [grow(model.init(k, x)) for k, x in zip(keys[2:4], xs)]
  forward = lambda p: bottom({**both[0], 'params': p}, xs[0], keys[4])
  h, pull = jax.vjp(forward, both[0]['params'])
  s = jax.nn.softmax(h + bottom(both[1], xs[1], keys[4]))
  labels = jax.random.randint(keys[5], (num,), 0, s.shape[1])
  u = (s - jax.nn.one_hot(labels, s.shape[1])) / num
  view = vfl.View(xs[0], h, both[0], keys[4], pull(u)[0], None)
  return view, (u, s, labels)


def observe(model, num, *, features=24, seed=0, scale=1.0):
  """Two parties with `model` as bottom; the first one's view of a step.

  Returns (view, known, truth): truth has U [B, K], S [B, K] and labels [B].
  `scale` multiplies all kernels, as training makes logits large.
  """
  view, truth = _observe(seed, scale, model, num, features)
  known = Known(model.num_classes, num, bottom=bottom_of(model))
  return view, known, truth


def accuracy(scores, labels):
  return float((scores.argmax(1) == labels).mean())


@functools.partial(jax.jit, static_argnames='bottom')
def _solve(view, bottom, rounds=30):
  num, classes = view.h.shape
  known = Known(classes, num, bottom=bottom)
  return solver.solve(KEY, view, known, rounds=rounds)


# Model, B, features.
SIZES = (
  (Mlp(7, 40), 20, 30),
  (Mlp(2, 40), 1, 30),
  (Bare(12, 40), 16, 30),
  (Bare(3, 24), 8, 10),
)


@functools.partial(jax.jit, static_argnames=('model', 'num', 'features'))
def solved_last_layer(seed, model, num, features):
  """((U, labels), what `closed_form.solve` finds, scores of `last_layer`)."""
  view, known, (u, _, labels) = observe(
    model, num, features=features, seed=seed
  )
  scores = attacks.load('linear.last_layer').infer(KEY, view, known)
  return (u, labels), closed_form.solve(view, known), scores


def solve(view, known, **kwargs):
  return _solve(view, known.bottom, **kwargs)


class EquationsTest(parameterized.TestCase):
  @parameterized.named_parameters(*MODELS)
  def test_truth_solves_them(self, model):
    view, known, (u, _, _) = observe(model(5, 8), 32)
    eq = equations.whiten(KEY, view, known, excess=100.0)
    np.testing.assert_allclose(
      eq.apply(32 * u),
      eq.observed,
      atol=1e-2 * float(jnp.abs(eq.observed).max()),
    )
    self.assertGreater(float(jnp.abs(eq.observed).max()), 0)

  @parameterized.named_parameters(*MODELS)
  def test_adjoint(self, model):
    view, known, _ = observe(model(5, 8), 32)
    eq = equations.whiten(KEY, view, known)
    u = jax.random.normal(jax.random.key(1), view.h.shape)
    z = jax.random.normal(jax.random.key(2), eq.observed.shape)
    left, right = jnp.vdot(eq.apply(u), z), jnp.vdot(u, eq.adjoint(z))
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(eq.adjoint(z).sum(-1), 0, atol=1e-3)

  @parameterized.named_parameters(*MODELS)
  def test_whitening_gives_each_equation_unit_power(self, model):
    view, known, _ = observe(model(5, 8), 64)
    eq = equations.whiten(KEY, view, known, excess=100.0)
    keys = jax.random.split(jax.random.key(1), 200)
    draw = lambda key: eq.apply(jax.random.normal(key, view.h.shape)) ** 2
    power = jax.lax.map(draw, keys).sum(-1).mean()
    # Exactly one only where all cut gradients have been drawn, not a few.
    self.assertBetween(float(power / eq.rank), 0.5, 2.0)
    # The same trace, from the other side.
    np.testing.assert_allclose(4 * eq.gain.sum() / power, 1.0, rtol=0.2)

  @parameterized.parameters(
    (Mlp(5, 16), 16),  # the least
    (Mlp(5, 40), 33),  # the head's 41 x 5, four of its columns a row
    (Mlp(2, 40), 64),  # the most
  )
  def test_a_long_leaf_is_whitened_from_more_probes(self, model, num):
    known = Known(model.num_classes, 8, bottom=bottom_of(model))
    fit = mock.Mock(wraps=whitening.fit)
    groups = mock.Mock(wraps=leaves.last_groups)

    def whiten():
      view, _ = _observe(0, 1.0, model, 8, 24)
      return equations.whiten(KEY, view, known, excess=0.5).observed

    with (
      mock.patch.object(whitening, 'fit', fit),
      mock.patch.object(leaves, 'last_groups', groups),
    ):
      jax.eval_shape(whiten)
    size = 0.5 * (model.num_classes - 1) * 8  # half of the unknowns
    self.assertEqual(groups.call_args.args[2], size)
    samples = {call.args[0].shape[0] for call in fit.call_args_list}
    self.assertEqual(samples, {num})

  def test_last_leaves_suffice(self):
    view, known, (_, _, labels) = observe(Mlp(5, 40), 16)
    few = equations.whiten(KEY, view, known, excess=1.0)
    every = equations.whiten(KEY, view, known, excess=100.0)
    self.assertLessEqual(int(few.rank), 41 * 4)  # of the head alone
    self.assertGreater(int(every.rank), 41 * 4)
    # Nothing is read of the leaves before: they may hold anything.
    grads = {**view.param_grads}
    grads['linear0'] = jax.tree.map(jnp.ones_like, grads['linear0'])
    broken = view._replace(param_grads=grads)
    self.assertEqual(accuracy(solve(broken, known).y, labels), 1.0)

  def test_order_of_leaves_is_seen_through_jit(self):
    view, known, _ = observe(Mlp(5, 40), 16)
    jitted = Known(5, 16, bottom=jax.jit(known.bottom))
    plain = equations.whiten(KEY, view, known)
    inner = equations.whiten(KEY, view, jitted)
    np.testing.assert_array_equal(plain.rank, inner.rank)
    np.testing.assert_allclose(plain.observed, inner.observed, atol=1e-3)

  @given(st.integers(0, 2**31 - 1), st.integers(1, 12))
  @settings(deadline=None, max_examples=20)
  def test_conjugate_gradient_is_a_solver(self, seed, n):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix = (q * rng.uniform(0.5, 2.0, n)) @ q.T
    rhs = rng.normal(size=n)
    m = jnp.asarray(matrix, jnp.float32)
    z = equations.conjugate_gradient(
      lambda z: m @ z, jnp.asarray(rhs, jnp.float32), 30
    )
    np.testing.assert_allclose(z, np.linalg.solve(matrix, rhs), atol=1e-4)

  def test_conjugate_gradient_of_nothing_is_nothing(self):
    z = equations.conjugate_gradient(lambda z: 2 * z, jnp.zeros(3), 4)
    np.testing.assert_array_equal(z, np.zeros(3))


class LeavesTest(absltest.TestCase):
  def test_a_kernel_and_its_bias_are_one_matrix(self):
    rng = np.random.default_rng(0)
    tree = {
      (layer, name): np.float32(rng.normal(size=shape))
      for layer, name, shape in (
        ('dense', 'kernel', (5, 3)),
        ('dense', 'bias', (3,)),
        ('conv', 'kernel', (2, 3, 4, 6)),
        ('norm', 'scale', (7,)),
      )
    }
    both = ('dense', 'kernel'), ('dense', 'bias')
    for group, matrix in (
      (both, np.vstack([tree[both[0]], tree[both[1]]])),
      (both[:1], tree[both[0]]),
      ((('conv', 'kernel'),), tree['conv', 'kernel'].reshape(24, 6)),
      ((('norm', 'scale'),), tree['norm', 'scale'][:, None]),
    ):
      np.testing.assert_array_equal(leaves.group_matrix(tree, group), matrix)
      self.assertEqual(leaves.group_shape(tree, group), matrix.shape)

  def test_of_a_large_leaf_evenly_spaced_rows_and_columns_are_read(self):
    tree = {('embed',): np.arange(2047.0)[:, None] * np.ones(3)}
    group = (('embed',),)
    self.assertEqual(leaves.group_shape(tree, group), (2047, 3))
    np.testing.assert_array_equal(
      leaves.group_matrix(tree, group), tree['embed',][::2]
    )

  def test_the_last_used_come_first_until_they_hold_enough(self):
    """Of layers in no order of their names, and a leaf without a use."""
    names = [('z', 'kernel'), ('a', 'kernel'), ('a', 'bias'), ('b', 'scale')]
    tree = dict(zip(names, map(jnp.ones, ((4, 6), (6, 3), (3,), (9,)))))

    def forward(tree):
      h = jnp.ones(4) @ tree['z', 'kernel']
      return h @ tree['a', 'kernel'] + tree['a', 'bias']

    ordered = [tuple(names[1:3]), (names[0],)]
    for size, num in ((1, 1), (21, 1), (22, 2), (1000, 2)):
      found = leaves.last_groups(forward, tree, size)
      self.assertEqual(found, ordered[:num])


class LastLayerTest(parameterized.TestCase):
  @given(st.integers(0, 2**31 - 1), st.sampled_from(SIZES))
  @settings(deadline=None, max_examples=25)
  def test_theorem_1(self, seed, size):
    (u, labels), found, scores = solved_last_layer(seed, *size)
    num = labels.size
    self.assertLessEqual(int(found.rank), num)
    if int(found.rank) == num:
      np.testing.assert_allclose(num * found.u, num * u, atol=0.02)
      self.assertEqual(accuracy(scores, labels), 1.0)

  def test_theorem_1_is_met(self):
    for seed in range(5):  # so that the property above is not void
      for size in SIZES:
        self.assertEqual(int(solved_last_layer(seed, *size)[1].rank), size[1])

  def test_inputs_of_the_head_against_numpy(self):
    view, known, (u, _, _) = observe(Mlp(5, 6), 50)
    params = jax.tree.map(np.asarray, view.variables['params'])
    first = params['linear0']
    a = np.maximum(np.asarray(view.x) @ first['kernel'] + first['bias'], 0)
    a = np.concatenate([a, np.ones((50, 1))], 1)
    found = closed_form.solve(view, known)
    self.assertEqual(int(found.rank), np.linalg.matrix_rank(a))
    best = np.linalg.pinv(a.T) @ (a.T @ np.asarray(u))
    np.testing.assert_allclose(50 * found.u, 50 * best, atol=2e-3)

  def test_batch_norm(self):
    view, known, (_, _, labels) = observe(Conv(4, 24), 12)
    self.assertEqual(int(closed_form.solve(view, known).rank), 12)
    scores = attacks.load('linear.last_layer').infer(KEY, view, known)
    self.assertEqual(accuracy(scores, labels), 1.0)

  def test_beyond_the_rank_labels_are_lost(self):
    view, known, (_, _, labels) = observe(Mlp(10, 8), 200)
    self.assertLessEqual(int(closed_form.solve(view, known).rank), 9)
    scores = attacks.load('linear.last_layer').infer(KEY, view, known)
    self.assertLess(accuracy(scores, labels), 0.6)

  def test_without_a_head(self):
    view, known, _ = observe(Mlp(5, 8), 4)
    params = {'fc': view.variables['params']['head']}
    view = view._replace(variables={'params': params})
    with self.assertRaisesRegex(InputError, "0 classifiers named 'head'"):
      closed_form.solve(view, known)


def _problem(view, known, rounds):
  eq = equations.whiten(KEY, view, known)
  return propagation.Problem(
    eq=eq,
    shift=shifts.find(eq, view.h),
    rows=jnp.eye(known.num_classes),
    key=KEY,
    rounds=rounds,
    steps=25,
    ridge=0.03,
    damping=0.7,
  )


class PropagationTest(absltest.TestCase):
  def test_the_variance_of_the_others_softmax_is_learned(self):
    view, known, (_, _, labels) = observe(Mlp(5, 16), 64)
    other = 2 * jax.random.normal(jax.random.key(1), view.h.shape)
    s = jax.nn.softmax(view.h + other)
    u = (s - jax.nn.one_hot(labels, 5)) / 64
    forward = lambda p: known.bottom({'params': p}, view.x, view.key)
    grads = jax.vjp(forward, view.variables['params'])[1](u)[0]
    problem = _problem(view._replace(param_grads=grads), known, 30)
    found = jax.jit(lambda: propagation.run(problem))()
    rest = s - shifts.softmax(problem.shift, found.shift)
    truth = jnp.mean(rest**2) * 5 / 4  # K - 1 directions of K
    first = propagation.start(view.h, problem.rows).var
    self.assertGreater(float(truth), 2.5 * float(first))
    np.testing.assert_allclose(found.var, truth, rtol=0.25)

  def test_at_first_every_label_is_as_likely(self):
    h = jax.random.normal(KEY, (7, 4))
    first = propagation.start(h, jnp.eye(4))
    for belief in (first.m, first.y, first.v[:, None]):
      np.testing.assert_allclose(belief, 1 / 4, rtol=1e-6)
    s = np.exp(h) / np.exp(h).sum(1, keepdims=True)
    self.assertAlmostEqual(
      float(first.var), ((s - 1 / 4) ** 2).sum() / (7 * 3), places=6
    )

  def test_the_others_constant_is_as_large_as_ones_own(self):
    h = jax.random.normal(KEY, (20, 4)) + jnp.array([[1.0, 3.0, -2.0, 0.0]])
    eq = equations.Equations(jnp.ravel, None, None, None, None)
    mean = np.mean(h, 0)
    self.assertAlmostEqual(
      float(shifts.find(eq, h).prior), mean.var(ddof=1), places=4
    )

  def test_the_share_that_equations_determine_is_a_trace(self):
    """Of estimates by unknowns, for 20 equations of 12 rows; against NumPy."""
    rng = np.random.default_rng(0)
    rows = np.float32(rng.normal(size=(20, 12, 5)))
    rows -= rows.mean(-1, keepdims=True)
    eq = equations.Equations(
      apply=lambda u: jnp.einsum('mbk,bk->m', rows, u),
      adjoint=lambda z: jnp.einsum('mbk,m->bk', rows, z),
      observed=jnp.ones(20),
      gain=jnp.array((rows**2).sum((0, 2)) / 4),
      rank=jnp.array(20.0),
    )
    h = jax.random.normal(KEY, (12, 5))
    problem = propagation.Problem(
      eq, shifts.find(eq, h), jnp.eye(5), KEY, 8, 60, 1.0, 0.7
    )
    first = propagation.start(h, problem.rows)
    share = lambda key: propagation._solve_rows(
      problem._replace(key=key), first, jax.nn.softmax(h)
    )[3].mean()
    found = jax.jit(jax.vmap(share))(jax.random.split(KEY, 100)).mean()
    column = np.repeat(first.v + first.var, 5)
    matrix = rows.reshape(20, -1) * np.sqrt(column)
    power = (matrix**2).sum() / 20
    gram = matrix @ matrix.T + power * np.eye(20)
    exact = np.trace(matrix.T @ np.linalg.solve(gram, matrix)) / (4 * 12)
    self.assertBetween(exact, 0.1, 0.9)
    np.testing.assert_allclose(found, exact, rtol=0.05)

  def test_rows_that_are_as_strong_determine_as_much(self):
    shares = jax.jit(propagation._shares)
    for mean in (1e-3, 0.5, 0.998):
      found = shares(jnp.full(5, 3e-4), mean)
      np.testing.assert_allclose(found, mean, rtol=1e-4)

  def test_the_odds_of_a_share_grow_as_the_strength(self):
    shares = jax.jit(propagation._shares)
    strength = np.float32([1e-3, 0.02, 1.0, 1.0, 40.0])
    for mean in (0.01, 0.3, 0.9):
      found = np.asarray(shares(strength, mean))
      np.testing.assert_allclose(found.mean(), mean, rtol=1e-4)
      odds = found / (1 - found)
      np.testing.assert_allclose(odds / odds[2], strength, rtol=1e-2)
    silent = shares(jnp.array([1.0, 1.0, 0.0, 0.0, 0.0]), 0.2)
    np.testing.assert_allclose(silent, 2 * [0.5] + 3 * [1e-6], rtol=1e-4)

  def test_a_belief_and_its_evidence_have_the_posterior_moments(self):
    """N(m, v) N(extrinsic, tau) has the moments of y, against NumPy."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 4))
    y = rng.dirichlet(np.full(4, 0.3), 9)
    extrinsic = rng.normal(size=(9, 4))
    mean = y @ rows
    far = ((rows[None] - mean[:, None]) ** 2).sum(-1)  # [B, K]
    var = (y * far).sum(-1, keepdims=True) / 3
    even = ((rows - rows.mean(0)) ** 2).sum() / 4 / 3
    tau = np.full((9, 1), 1.0)
    m, v = jax.jit(propagation._belief)(y, rows, extrinsic, tau)
    narrow = (1 / var - 1 / tau > 1 / even)[:, 0]
    self.assertBetween(narrow.mean(), 0.3, 0.9)
    v = np.asarray(v)[:, None]
    joint = 1 / (1 / v + 1 / tau)
    np.testing.assert_allclose(joint[narrow], var[narrow], rtol=1e-3)
    found = joint * (m / v + extrinsic / tau)
    np.testing.assert_allclose(found[narrow], mean[narrow], atol=1e-3)
    # No narrower than its evidence: the prior's variance, about y's mean.
    np.testing.assert_allclose(v[~narrow], even, rtol=1e-5)
    np.testing.assert_allclose(m[~narrow], mean[~narrow], atol=1e-5)

  def test_a_certain_label_keeps_a_trace_of_doubt(self):
    y, tau = jnp.eye(5), jnp.full((5, 1), 0.3)
    m, v = jax.jit(propagation._belief)(y, 2 * y, jnp.zeros((5, 5)), tau)
    np.testing.assert_allclose(m, 2 * y, atol=1e-6)
    prior = 4 / 5  # a label's second moment less its mean's, over K - 1
    np.testing.assert_allclose(v, 1e-6 * 5 * prior, rtol=1e-4)

  def test_soft_labels_of_unequal_length_are_told_apart(self):
    """Label 0 looks like itself, every other one half like it."""
    view, known, (_, s, labels) = observe(Mlp(5, 32), 64)
    rows = 0.5 * (jnp.eye(5) + jnp.eye(1, 5))  # [K, K]
    u = (s - rows[labels]) / 64
    forward = lambda p: known.bottom({'params': p}, view.x, view.key)
    grads = jax.vjp(forward, view.variables['params'])[1](u)[0]
    problem = _problem(view._replace(param_grads=grads), known, 30)
    problem = problem._replace(rows=rows)
    found = jax.jit(lambda: propagation.run(problem).y)()
    self.assertGreater((found.argmax(-1) == labels).mean(), 0.99)

  def test_the_first_round_doubts_twice_as_much_as_the_last(self):
    """Of equations that fit the beliefs, which call for no doubt."""
    view, known, _ = observe(Mlp(11, 16), 128)
    rounds = 8
    problem = _problem(view, known, rounds)
    first = propagation.start(view.h, problem.rows)
    first = first._replace(m=jax.random.dirichlet(KEY, jnp.ones(11), (128,)))
    fit = problem.eq.apply(jax.nn.softmax(view.h) - first.m)
    problem = problem._replace(eq=problem.eq._replace(observed=fit))
    probes = jax.random.split(KEY, 8)

    @jax.jit
    def contrast(done):
      state = first._replace(round=done)
      advance = lambda key: propagation.advance(
        problem._replace(key=key), state
      )
      y = jnp.log(jax.lax.map(advance, probes).y)
      return (y[..., 1:] - y[..., :1]).mean(0)

    early = contrast(0)
    for done in (rounds // 2, rounds):
      slope = (early * contrast(done)).sum() / (early**2).sum()
      np.testing.assert_allclose(slope, 2 / (2 - done / rounds), rtol=0.1)


class FullTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('mlp', Mlp(5, 16), 64, 0.0),
    ('bare', Bare(10, 16), 48, 0.0),
    ('two_classes', Mlp(2, 8), 64, 0.0),
    ('batch_norm', Conv(5, 16), 128, 0.0),
    ('one_row', Mlp(5, 8), 1, 0.0),
    # 1,280 unknowns, 568 equations: least squares has no chance.
    ('past_the_rank', Mlp(11, 16), 128, 0.03),
  )
  def test_recovers_labels(self, model, num, missed):
    view, known, (_, _, labels) = observe(model, num)
    found = solve(view, known)
    self.assertGreaterEqual(accuracy(found.y, labels), 1.0 - missed)
    np.testing.assert_allclose(found.y.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(found.s.sum(-1), 1.0, atol=1e-5)

  def test_past_the_rank_means_what_it_says(self):
    view, known, (_, _, labels) = observe(Mlp(11, 16), 128)
    found = solve(view, known)
    self.assertLess(int(found.rank), 0.5 * 10 * 128)
    self.assertLess(float(found.share), 0.5)
    scores = attacks.load('linear.last_layer').infer(KEY, view, known)
    self.assertLess(accuracy(scores, labels) + 0.2, accuracy(found.y, labels))

  def test_what_is_no_gradient_stays_unexplained(self):
    view, known, _ = observe(Mlp(5, 8), 32)
    self.assertLess(float(solve(view, known).unexplained), 0.3)
    larger = jax.tree.map(lambda g: 10 * g, view.param_grads)
    wrong = solve(view._replace(param_grads=larger), known)
    self.assertGreater(float(wrong.unexplained), 0.5)

  def test_residual_falls_with_the_rounds(self):
    view, known, _ = observe(Mlp(11, 16), 128)
    first, last = solve(view, known, rounds=1), solve(view, known)
    self.assertLess(float(last.residual), float(first.residual))
    self.assertEqual(int(first.rounds), 1)
    self.assertGreater(int(last.rounds), 1)

  def test_labels_that_stand_still_end_the_rounds(self):
    view, known, _ = observe(Mlp(5, 16), 64)
    found = solve(view, known)  # of 30 rounds at most
    self.assertBetween(int(found.rounds), 2, 10)

  def test_learns_the_others_constant(self):
    view, known, (_, _, labels) = observe(Mlp(5, 16), 64)
    offset = jnp.array([1.0, -1.0, 0.5, 0.0, -0.5])
    s = jax.nn.softmax(view.h + offset[None])
    u = (s - jax.nn.one_hot(labels, 5)) / 64
    forward = lambda p: known.bottom({'params': p}, view.x, view.key)
    grads = jax.vjp(forward, view.variables['params'])[1](u)[0]
    found = solve(view._replace(param_grads=grads), known)
    self.assertEqual(accuracy(found.y, labels), 1.0)
    before = jnp.abs(jax.nn.softmax(view.h) - s).mean()
    self.assertLess(float(jnp.abs(found.s - s).mean()), 0.2 * float(before))

  @parameterized.parameters(2.0, 4.0)
  def test_large_logits_of_a_trained_model(self, scale):
    view, known, (_, _, labels) = observe(Mlp(5, 16), 64, scale=scale)
    self.assertGreater(float(jnp.abs(view.h).max()), 2)
    found = solve(view, known)
    self.assertTrue(bool(jnp.isfinite(found.y).all()))
    self.assertGreater(accuracy(found.y, labels), 0.9)

  def test_order_of_the_batch_does_not_matter(self):
    view, known, (_, _, labels) = observe(Mlp(5, 16), 64)
    order = np.random.default_rng(0).permutation(64)
    moved = view._replace(x=view.x[order], h=view.h[order])
    scores = solve(moved, known).y
    self.assertEqual(accuracy(scores, labels[order]), 1.0)

  def test_names_of_classes_do_not_matter(self):
    view, known, (_, _, labels) = observe(Mlp(5, 16), 64)
    order = np.random.default_rng(0).permutation(5)
    rename = lambda tree: {
      **tree,
      'head': jax.tree.map(lambda a: a[..., order], tree['head']),
    }
    moved = view._replace(
      h=view.h[:, order],
      variables={'params': rename(view.variables['params'])},
      param_grads=rename(view.param_grads),
    )
    scores = solve(moved, known).y
    self.assertEqual(accuracy(scores, np.argsort(order)[labels]), 1.0)

  def test_gradients_of_noise_tell_nothing(self):
    view, known, (_, _, labels) = observe(Mlp(11, 16), 128)
    leaves, tree = jax.tree.flatten(view.param_grads)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [jax.random.normal(k, g.shape) for k, g in zip(keys, leaves)]
    found = solve(view._replace(param_grads=tree.unflatten(noise)), known)
    self.assertTrue(bool(jnp.isfinite(found.y).all()))
    # Chance and 4 sd.
    self.assertLess(accuracy(found.y, labels), 1 / 11 + 0.1)

  def test_no_gradient_tells_nothing(self):
    view, known, _ = observe(Mlp(5, 16), 64)
    zeros = jax.tree.map(jnp.zeros_like, view.param_grads)
    found = solve(view._replace(param_grads=zeros), known)
    self.assertTrue(bool(jnp.isfinite(found.y).all()))

  def test_attack_is_solve(self):
    view, known, (_, _, labels) = observe(Mlp(5, 16), 64)
    infer = attacks.load('linear.expectation_propagation').infer
    plain = jax.jit(infer)(KEY, view, known)
    np.testing.assert_allclose(plain, solve(view, known).y, atol=1e-3)
    self.assertEqual(accuracy(plain, labels), 1.0)

  @parameterized.named_parameters(
    ('rounds', dict(rounds=0), 'rounds=0'),
    ('ridge', dict(ridge=0.0), 'ridge=0.0'),
    ('damping', dict(damping=1.5), 'damping=1.5'),
  )
  def test_options_out_of_range(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      attacks.load('linear.expectation_propagation', **options)

  @parameterized.parameters('full', 'expectation_propagation', 'last_layer')
  def test_what_they_need(self, name):
    infer = attacks.load(f'linear.{name}').infer
    view, known, _ = observe(Mlp(5, 8), 4)
    with self.assertRaisesRegex(InputError, "needs 'bottom'"):
      infer(KEY, view, Known(5, 4))
    with self.assertRaisesRegex(InputError, '5 wide; use the sum top'):
      infer(KEY, view, Known(3, 4, bottom=known.bottom))


if __name__ == '__main__':
  absltest.main()
