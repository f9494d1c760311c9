"""Reconstruction: factors against dense gradients, limits, PyTorch, runs."""

import dataclasses
import functools

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labelleak import attacks, data, he, hfl, models
from labelleak.attacks.reconstruction import (
  factored,
  guesses,
  inverting,
  matching,
)
from labelleak.base import Batch, InputError, Model, Reconstruction
from labelleak.hfl import Known
from labelleak.models import layers

K, SHAPE = 10, (8, 8, 1)
MODELS = (
  dict(name='mlp.mlp', width=48, activation='tanh'),
  dict(name='mlp.mlp', width=32, head_bias=False),
  dict(name='mlp.linear'),
)


class Small(nn.Module):
  """Smooth, with one convolution: a model without factors."""

  @nn.compact
  def __call__(self, x):
    x = jnp.tanh(layers.Conv(6, 3, 1, 1)(x))
    return layers.Dense(K, name='head')(x.reshape(len(x), -1))


class Rematerialised(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.remat(layers.Dense)(K, name='head')(x.reshape(len(x), -1))


class Shared(nn.Module):
  @nn.compact
  def __call__(self, x):
    layer = layers.Dense(64, name='shared')
    x = layer(jnp.tanh(layer(x.reshape(len(x), -1))))
    return layers.Dense(K, name='head')(x)


@functools.cache
def _digits():
  return data.load('digits')


@functools.cache
def _model(name='mlp.mlp', **hyper):
  return models.load(name, num_classes=K, **hyper)


def _batch(size=3, seed=0):
  rng = np.random.default_rng(seed)
  rows = rng.choice(len(_digits().y), size, replace=False)
  rows = rows[np.argsort(_digits().y[rows])]  # slots are in ascending order
  x, y = _digits().take(rows), np.eye(K, dtype=np.float32)[_digits().y[rows]]
  return Batch((jnp.array(x),), jnp.array(y), rows, jnp.ones(size))


def _observed(model, batch, *, steps=1, lr=0.1, seed=0, **known):
  """(view of one client, what the server knows)."""
  given = dict(
    num_classes=K,
    batch_size=len(batch.mask),
    steps=steps,
    lr=lr,
    defense=(),
    model=Model(model.apply, SHAPE, _digits().pixel_range),
  )
  view = _observe(model, steps, lr)(jax.random.key(seed), batch)
  return view, Known(**given | known)


@functools.cache
def _observe(model, steps, lr):
  """(key, batch) -> view of one client, compiled."""
  loss_fn = hfl.cross_entropy(model.apply)
  client = hfl.fedsgd(loss_fn)
  if steps > 1:
    client = hfl.fedavg(loss_fn, lr=lr, steps=steps)

  def observe(key, batch):
    variables = model.init(key, batch.xs[0])
    grads = client(jax.random.key(1), variables, batch)
    return hfl.View(grads, variables)

  return jax.jit(observe)


@functools.partial(jax.jit, static_argnames='name')
def _distance(x, y, view, known, name='cosine_distance'):
  """A distance and its gradient by x."""
  distance = getattr(matching, name)(jax.random.key(0), view, known)
  return jax.value_and_grad(distance)(x, y)


@functools.partial(jax.jit, static_argnames=('steps', 'lr', 'tv'))
def _invert(x, view, known, labels, **options):
  return inverting.invert(jax.random.key(1), x, view, known, labels, **options)


def _infer(name, **hyper):
  """A compiled attack: (key, view, known) -> `Reconstruction`."""
  return jax.jit(attacks.load(f'reconstruction.{name}', **hyper).infer)


class FactoredTest(parameterized.TestCase):
  @parameterized.parameters(*MODELS)
  def test_equal_the_gradient(self, **spec):
    model, batch = _model(**spec), _batch()
    view, _ = _observed(model, batch)
    gradient = functools.partial(factored.gradient, model.apply)
    found = jax.jit(gradient)(view.variables, batch)
    dense = factored.by_layer(view.grads)
    self.assertEqual(found.keys(), dense.keys())
    for path, (inputs, cut) in found.items():
      own = {'kernel': inputs.T @ cut, 'bias': cut.sum(0)}
      own = {name: own[name] for name in dense[path]}
      chex.assert_trees_all_close(own, dense[path], atol=1e-6)
    other = jax.tree.map(
      lambda a: jnp.array(np.random.default_rng(0).normal(size=a.shape)),
      view.grads,
    )
    np.testing.assert_allclose(
      factored.inner(found, factored.by_layer(other)),
      optax.tree.vdot(view.grads, other),
      rtol=1e-4,
    )
    np.testing.assert_allclose(
      factored.squared_norm(found, dense),
      optax.tree.norm(view.grads, squared=True),
      rtol=1e-5,
    )

  @parameterized.parameters(Small, Rematerialised, Shared)
  def test_models_without_factors_have_none(self, module):
    model, batch = module(), _batch()
    variables = model.init(jax.random.key(0), batch.xs[0])
    self.assertIsNone(factored.gradient(model.apply, variables, batch))

  def test_a_compiled_forward_pass_is_right_or_has_none(self):
    model, batch = _model(**MODELS[0]), _batch()
    view, _ = _observed(model, batch)
    apply = jax.jit(model.apply)
    apply(view.variables, batch.xs[0])  # its trace is remembered from here on
    self.assertIsNone(factored.gradient(apply, view.variables, batch))

  def test_thin_is_exact_up_to_its_rank(self):
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 1e-1, 1e-2, 1e-3])
    left, right = rng.normal(size=(2, 90, 4))
    kernel = jnp.array(np.float32((left * scales) @ right[:70].T))
    grads = {('a',): {'kernel': kernel, 'bias': jnp.ones(70)}}
    found = factored.thin(jax.random.key(0), grads, 4)[('a',)]
    self.assertIsInstance(found['kernel'], factored.Thin)
    whole = found['kernel'].left @ found['kernel'].right.T
    np.testing.assert_allclose(whole, kernel, atol=1e-5 * np.abs(kernel).max())
    few = factored.thin(jax.random.key(0), grads, 40)[('a',)]
    np.testing.assert_array_equal(few['kernel'], kernel)


class MatchingTest(parameterized.TestCase):
  @parameterized.parameters((0, 1), (0, 3), (None, 1))
  def test_zero_at_the_truth_and_two_at_its_opposite(self, model, steps):
    model = Small() if model is None else _model(**MODELS[model])
    batch = _batch()
    view, known = _observed(model, batch, steps=steps)
    for sign, expected in ((1, 0), (-1, 2), (7, 0)):
      other = jax.tree.map(lambda g, s=sign: s * g, view.grads)
      other = view._replace(grads=other)
      found, _ = _distance(batch.xs[0], batch.y, other, known)
      np.testing.assert_allclose(found, expected, atol=1e-5)
    found, _ = _distance(
      batch.xs[0], batch.y, view, known, name='squared_distance'
    )
    np.testing.assert_allclose(found, 0, atol=1e-8)

  @parameterized.parameters(MODELS[0], MODELS[1])
  def test_factors_give_the_formed_distance_and_gradient(self, **spec):
    model, batch = _model(**spec), _batch()
    view, known = _observed(model, batch)
    x = jnp.array(np.random.default_rng(1).normal(size=(3, *SHAPE)))
    plain = jax.checkpoint(model.apply)
    found = [
      _distance(x, batch.y, view, dataclasses.replace(known, **change))
      for change in (
        # Has no factors.
        dict(model=dataclasses.replace(known.model, apply=plain)),
        dict(defense=None),
        {},
      )
    ]
    for value, slope in found[1:]:
      np.testing.assert_allclose(value, found[0][0], rtol=1e-4)
      top = np.abs(found[0][1]).max()
      np.testing.assert_allclose(slope, found[0][1], atol=1e-3 * top)

  def test_a_noisy_update_is_compared_whole(self):
    model, batch = _model(**MODELS[0]), _batch()
    view, known = _observed(model, batch, defense=(('gaussian', 0.1),))
    noisy = jax.tree.map(
      lambda g: g + 0.1 * np.random.default_rng(0).normal(size=g.shape),
      view.grads,
    )
    expected = 1 - optax.tree.vdot(view.grads, noisy) / (
      optax.tree.norm(view.grads) * optax.tree.norm(noisy)
    )
    self.assertGreater(expected, 0.1)
    view = view._replace(grads=noisy)
    found, _ = _distance(batch.xs[0], batch.y, view, known)
    np.testing.assert_allclose(found, expected, rtol=1e-4)

  def test_clients_of_fedsgd_are_one_larger_batch(self):
    model, batch = _model(**MODELS[0]), _batch(4)
    whole, known = _observed(model, batch, batch_size=2, clients=2)
    halves = jax.tree.map(
      lambda a: jnp.asarray(a).reshape(2, 2, *a.shape[1:]), batch
    )
    observe = jax.jit(
      functools.partial(
        hfl.observe,
        client=hfl.fedsgd(hfl.cross_entropy(model.apply)),
        defense=optax.identity(),
        aggregate=he.plaintext(),
      )
    )
    view = observe(jax.random.key(1), variables=whole.variables, batches=halves)
    found, _ = _distance(batch.xs[0], batch.y, view, known)
    np.testing.assert_allclose(found, 0, atol=1e-5)

  def test_total_variation(self):
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    total = 0.0
    for n, i, j, c in np.ndindex(x.shape):
      down = x[n, i + 1, j, c] if i + 1 < 4 else 0.0
      right = x[n, i, j + 1, c] if j + 1 < 5 else 0.0
      total += abs(down - x[n, i, j, c]) + abs(right - x[n, i, j, c])
    found = matching.total_variation(jnp.array(x))
    np.testing.assert_allclose(found, total / x.size, rtol=1e-5)

  def test_local_steps_do_not_pile_up_in_memory(self):
    """Activations of one step only: what grows with S is the parameters."""
    batch = _batch(16)
    needed = {}
    for steps in (2, 8):
      view, known = _observed(Small(), batch, steps=steps)

      def slope(x, view, y, known=known):
        distance = matching.cosine_distance(jax.random.key(0), view, known)
        return jax.grad(distance)(x, y)

      lowered = jax.jit(slope).lower(batch.xs[0], view, batch.y)
      memory = lowered.compile().memory_analysis()
      needed[steps] = memory.temp_size_in_bytes
    params = sum(4 * a.size for a in jax.tree.leaves(view.grads))
    self.assertLess(needed[8] - needed[2], 6 * 3 * params)


class InvertingGradientsTest(parameterized.TestCase):
  def test_schedule_is_the_published_one(self):
    rate = inverting.schedule(0.1, 24_000)
    for count, expected in (
      (0, 0.1), (8997, 0.1), (8998, 0.01), (14_998, 0.01), (14_999, 1e-3),
      (21_014, 1e-3), (21_015, 1e-4), (23_999, 1e-4),
    ):  # fmt: skip
      np.testing.assert_allclose(rate(count), expected, rtol=1e-5)

  def test_assign_repeats_classes(self):
    counts = jnp.array([0, 2, 0, 1, 1])
    np.testing.assert_array_equal(inverting.assign(counts, 4), [1, 1, 3, 4])

  @parameterized.parameters(1, 3)
  def test_restores_images(self, steps):
    """Closer than a random guess and than what wrong labels give."""
    batch = _batch(2)
    view, known = _observed(_model(**MODELS[0]), batch, steps=steps)
    labels = batch.y.argmax(-1)
    wrong = (labels + 1) % K
    x = guesses.draw(jax.random.key(0), known)
    right, other = (
      _invert(x, view, known, guess, steps=300, tv=0.01)
      for guess in (labels, wrong)
    )
    random = _infer('random')(jax.random.key(0), view, known)
    error = lambda found: jnp.sqrt(((found.x - batch.xs[0]) ** 2).mean())
    self.assertLess(error(right), 0.5 * error(random))
    self.assertLess(error(right), 0.7 * error(other))
    self.assertLess(right.objective, 0.5 * other.objective)
    self.assertLessEqual(jnp.abs(right.x).max(), 1.0)  # the box of digits

  def test_labels_come_from_the_attack_that_is_named(self):
    batch = _batch(4, seed=3)
    view, known = _observed(_model(**MODELS[0]), batch)
    for labels in ('counts.llbg', dict(name='counts.llbg', confidence=0.1)):
      infer = _infer('inverting_gradients', labels=labels, steps=1)
      found = infer(jax.random.key(0), view, known)
      np.testing.assert_array_equal(found.labels, batch.y.argmax(-1))
    granted = _infer('inverting_gradients', labels='granted', steps=1)
    with self.assertRaisesRegex(InputError, "needs 'labels'"):
      granted(jax.random.key(0), view, known)
    other = jnp.eye(K)[jnp.array([7, 1, 1, 0])]
    known = dataclasses.replace(known, labels=other)
    found = granted(jax.random.key(0), view, known)
    np.testing.assert_array_equal(found.labels, [0, 1, 1, 7])

  def test_restarts_keep_the_lowest_objective(self):
    batch = _batch(2)
    view, known = _observed(_model(**MODELS[0]), batch)
    found = _infer('inverting_gradients', steps=3, restarts=3)(
      jax.random.key(0), view, known
    )
    _, key = jax.random.split(jax.random.key(0))
    each = []
    for start_key in [jax.random.split(k)[0] for k in jax.random.split(key, 3)]:
      x = guesses.draw(start_key, known)
      each.append(_invert(x, view, known, found.labels, steps=3))
    best = min(each, key=lambda found: found.objective)
    np.testing.assert_allclose(found.objective, best.objective, rtol=1e-4)
    self.assertLess(jnp.abs(found.x - best.x).mean(), 1e-3)

  def test_a_restart_that_diverged_loses(self):
    values = jnp.array([jnp.nan, 0.3, 0.1])
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key: jax.random.uniform(key)

    def run(key):
      x = draw(key)
      place = jnp.argmin(jnp.abs(jax.vmap(draw)(keys) - x))
      return Reconstruction(x, jnp.zeros((), int), values[place])

    found = guesses.restart(run, jax.random.key(0), 3)
    self.assertEqual(found.x, draw(keys[2]))

  def test_the_best_guess_is_kept_and_not_the_last(self):
    move = lambda path: optax.GradientTransformation(
      lambda x: jnp.zeros((), int),
      lambda slope, place, x: (jnp.array(path)[place], place + 1),
    )
    square = lambda x: jnp.where(x > 50, jnp.nan, x**2)
    for path, best in (
      ([1.0, 2.0, 3.0], 1.0),  # the first
      ([-0.5, 4.0, 5.0], 0.5),
      ([1.0, 1.0, -3.0], 0.0),  # the last, that is judged too
      ([99.0, 1.0, 1.0], 1.0),  # not a number from the second on
    ):
      value, x = guesses.descend(square, move(path), jnp.array(1.0), 3)
      self.assertEqual((float(value), float(x)), (best**2, best))

  def test_the_guess_that_is_kept_has_the_objective_that_is_stated(self):
    batch = _batch(2)
    view, known = _observed(_model(**MODELS[0]), batch)
    labels = batch.y.argmax(-1)
    x = guesses.draw(jax.random.key(0), known)
    found = _invert(x, view, known, labels, steps=30, lr=5.0)
    value, _ = _distance(found.x, batch.y, view, known)
    value += 0.2 * matching.total_variation(found.x)
    np.testing.assert_allclose(found.objective, value, rtol=1e-4)

  def test_trials_are_independent(self):
    views = [
      _observed(_model(**MODELS[0]), _batch(2, seed=s))[0] for s in (0, 1)
    ]
    _, known = _observed(_model(**MODELS[0]), _batch(2))
    infer = _infer('inverting_gradients', steps=3)
    keys = jax.random.split(jax.random.key(0))
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *views)
    found = jax.vmap(infer, (0, 0, None))(keys, stacked, known)
    for i, view in enumerate(views):
      one = infer(keys[i], view, known)
      np.testing.assert_array_equal(found.labels[i], one.labels)
      np.testing.assert_allclose(found.objective[i], one.objective, rtol=1e-3)

  @parameterized.parameters(dict(tv=0.0), dict(tv=0.2))
  @pytest.mark.torch
  def test_objective_and_gradient_are_pytorchs(self, tv):
    torch = pytest.importorskip('torch')
    batch = _batch(3)
    view, known = _observed(_model(**MODELS[0]), batch)
    x = np.float32(np.random.default_rng(2).normal(size=(3, *SHAPE)))
    value, slope = _distance(jnp.array(x), batch.y, view, known)
    rough, rise = jax.value_and_grad(matching.total_variation)(jnp.array(x))
    value, slope = value + tv * rough, slope + tv * rise

    tensor = lambda a: torch.tensor(np.array(a))
    names = ('linear0', 'linear1', 'linear2', 'head')
    layers_ = [view.variables['params'][name] for name in names]
    weights = [
      tensor(layer[part]).requires_grad_()
      for layer in layers_
      for part in ('kernel', 'bias')
    ]
    grads = [
      tensor(view.grads[name][part])
      for name in names
      for part in ('kernel', 'bias')
    ]
    guess = tensor(x).permute(0, 3, 1, 2).clone().requires_grad_()
    hidden = guess.flatten(1)
    for i, act in enumerate((torch.relu, torch.relu, torch.tanh, None)):
      hidden = hidden @ weights[2 * i] + weights[2 * i + 1]
      hidden = act(hidden) if act else hidden
    labels = tensor(batch.y).argmax(-1)
    loss = torch.nn.functional.cross_entropy(hidden, labels)
    own = torch.autograd.grad(loss, weights, create_graph=True)
    dot = sum((a * b).sum() for a, b in zip(own, grads))
    size = lambda parts: sum((a**2).sum() for a in parts).sqrt()
    objective = 1 - dot / (size(own) * size(grads))
    kernel = torch.zeros(2, 1, 3, 3)  # as released: a padded convolution
    kernel[:, 0, 1, 1] = -1
    kernel[0, 0, 1, 2] = kernel[1, 0, 2, 1] = 1
    moves = torch.conv2d(guess, kernel, padding=1).abs() + 1e-8
    objective = objective + tv * (moves[:, :1] + moves[:, 1:]).mean()
    objective.backward()
    np.testing.assert_allclose(value, objective.item(), rtol=1e-4)
    theirs = guess.grad.permute(0, 2, 3, 1).numpy()
    top = np.abs(theirs).max()
    np.testing.assert_allclose(slope, theirs, atol=1e-3 * top)

  def test_bad_options_are_named(self):
    name = 'reconstruction.inverting_gradients'
    for hyper, message in (
      (dict(steps=0), 'steps=0'),
      (dict(restarts=0), 'restarts=0'),
      (dict(lr=0.0), 'lr=0.0'),
      (dict(tv=-1.0), 'tv=-1.0'),
      (dict(labels='counts.lllg'), "did you mean 'counts.llg'"),
      (dict(labels=dict(confidence=0.5)), 'lacks a name'),
    ):
      with self.assertRaisesRegex(InputError, message):
        attacks.load(name, **hyper)

  @parameterized.parameters(
    'reconstruction.inverting_gradients', 'reconstruction.deep_leakage'
  )
  def test_missing_grants_are_named(self, name):
    batch = _batch(2)
    view, known = _observed(_model(**MODELS[0]), batch)
    for change, message in (
      (dict(model=None), "needs 'model'"),
      (dict(steps=2, lr=None), "needs 'lr'"),
      (dict(model=Model(known.model.apply, (64,))), 'images'),
      (dict(steps=2, clients=2), 'no single batch'),
    ):
      with self.assertRaisesRegex(InputError, message):
        attack = attacks.load(name, steps=1)
        other = dataclasses.replace(known, **change)
        attack.infer(jax.random.key(0), view, other)


class DeepLeakageTest(parameterized.TestCase):
  def test_restores_an_image_and_its_label(self):
    batch = _batch(1, seed=1)
    view, known = _observed(_model(**MODELS[0]), batch)
    infer = _infer('deep_leakage', steps=40)
    found = infer(jax.random.key(0), view, known)
    self.assertIsInstance(found, Reconstruction)
    np.testing.assert_array_equal(found.labels, batch.y.argmax(-1))
    self.assertLess(jnp.abs(found.x - batch.xs[0]).mean(), 0.05)
    size = optax.tree.norm(view.grads, squared=True)
    self.assertLess(found.objective, 1e-3 * size)


if __name__ == '__main__':
  absltest.main()
