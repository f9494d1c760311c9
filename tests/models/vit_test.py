"""Vision transformers: sizes, symmetries, initialisation, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak import base, compilation
from labelleak.models import vit


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(model, size):
  return jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, size, size, 3))
  )


@pytest.fixture(scope='module')
def digits():
  """A ViT for 8x8 digits, with its variables and some inputs."""
  model = vit.vit(num_classes=10, width=32, heads=4, depth=2, patch=2)
  x = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
  return model, compilation.jit_once(model.init)(jax.random.key(0), x), x


@pytest.mark.parametrize(
  ('constructor', 'size'),
  [
    (vit.tiny, 5_717_416),
    (vit.small, 22_050_664),
    (vit.base, 86_567_656),
  ],
)
def test_published_parameter_counts(constructor, size):
  model = constructor(num_classes=1000)
  assert count(shapes(model, 224)['params']) == size


def test_any_image_size_and_channels(digits):
  model, variables, x = digits
  assert model.apply(variables, x).shape == (6, 10)
  # Only the positions depend on the size: (224/16)^2 - (64/16)^2 of them.
  tiny = vit.tiny(num_classes=10)
  fewer = count(shapes(tiny, 224)) - count(shapes(tiny, 64))
  assert fewer == (14**2 - 4**2) * 192


def test_examples_do_not_mix(digits):
  model, variables, x = digits
  whole = model.apply(variables, x)
  alone = model.apply(variables, x[2:3])
  np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)


def test_patches_are_a_set_but_for_their_positions(digits):
  model, variables, x = digits
  params = variables['params']
  # Rows of patches swap places: two rows of pixels each.
  swapped = x.reshape(6, 4, 2, 8, 1)[:, ::-1].reshape(x.shape)
  blind = params | {'pos_embed': jnp.zeros_like(params['pos_embed'])}
  logits = lambda p, x: model.apply({'params': p}, x)
  np.testing.assert_allclose(
    logits(blind, swapped), logits(blind, x), atol=1e-5
  )
  # Within a patch the order of pixels matters even then.
  turned = x[:, ::-1]
  assert jnp.abs(logits(blind, turned) - logits(blind, x)).max() > 1e-3
  assert jnp.abs(logits(params, swapped) - logits(params, x)).max() > 1e-4
  # Moving the positions along with the patches changes nothing.
  grid = params['pos_embed'][:, 1:].reshape(1, 4, 4, -1)[:, ::-1]
  moved = jnp.concatenate(
    [params['pos_embed'][:, :1], grid.reshape(1, 16, -1)], axis=1
  )
  np.testing.assert_allclose(
    logits(params | {'pos_embed': moved}, swapped),
    logits(params, x),
    atol=1e-5,
  )


def test_initialisation_is_timms():
  model = vit.vit(num_classes=100, width=192, heads=3, depth=3)
  params = compilation.jit_once(model.init)(
    jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )['params']
  blocks = params['blocks']
  for kernel in (
    blocks['attn']['qkv']['kernel'],
    blocks['attn']['proj']['kernel'],
    blocks['mlp']['fc1']['kernel'],
    blocks['mlp']['fc2']['kernel'],
    params['head']['kernel'],
  ):
    assert abs(kernel.std() / 0.02 - 1) < 0.02
    # Not cut at two deviations, unlike Flax's truncated normal.
    assert jnp.abs(kernel).max() > 0.06
  assert abs(params['pos_embed'].std() / 0.02 - 1) < 0.06
  assert jnp.abs(params['cls_token']).max() < 1e-5
  assert not jnp.any(params['head']['bias'])
  assert not jnp.any(blocks['mlp']['fc1']['bias'])
  bound = (16 * 16 * 3) ** -0.5
  for leaf in params['patch_embed']['proj'].values():
    assert bound * 0.95 < jnp.abs(leaf).max() <= bound
    assert abs(leaf.std() / (bound / 3**0.5) - 1) < 0.12
  # Layers of the scanned stack are drawn apart.
  assert not jnp.allclose(*blocks['attn']['proj']['kernel'][:2])


def test_one_block_against_numpy(digits):
  """The block's equations, written out for a single example."""
  x = digits[2]
  model = vit.vit(num_classes=10, width=32, heads=4, depth=1, patch=2)
  params = model.init(jax.random.key(3), x)['params']
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  image = np.asarray(x[0], np.float64)

  def norm(h, at):
    h = h - h.mean(-1, keepdims=True)
    return h / np.sqrt(h.var(-1, keepdims=True) + 1e-6) * at['scale']

  def dense(h, at):
    return h @ at['kernel'].squeeze() + at['bias'].squeeze()

  patches = [
    image[i : i + 2, j : j + 2].ravel()
    for i in range(0, 8, 2)
    for j in range(0, 8, 2)
  ]
  h = dense(np.stack(patches), p['patch_embed']['proj'])
  h = np.concatenate([p['cls_token'][0], h]) + p['pos_embed'][0]
  block = jax.tree.map(lambda a: a[0], p['blocks'])
  qkv = dense(norm(h, block['norm1']), block['attn']['qkv'])
  mixed = []
  for head in range(4):
    q, k, v = (qkv[:, i * 32 + head * 8 :][:, :8] for i in range(3))
    weight = np.exp(q @ k.T / np.sqrt(8))
    mixed.append(weight / weight.sum(-1, keepdims=True) @ v)
  h = h + dense(np.concatenate(mixed, -1), block['attn']['proj'])
  z = dense(norm(h, block['norm2']), block['mlp']['fc1'])
  erf = np.vectorize(math.erf)
  z = z * (1 + erf(z / np.sqrt(2))) / 2
  h = h + dense(z, block['mlp']['fc2'])
  expected = dense(norm(h[:1], p['norm']), p['head'])[0]
  np.testing.assert_allclose(
    model.apply({'params': params}, x)[0], expected, atol=1e-5
  )


@pytest.mark.parametrize(
  ('hyper', 'field'),
  [
    (dict(width=30, heads=4), 'width=30'),
    (dict(width=32, heads=0), 'heads=0'),
    (dict(width=32, heads=4, depth=0), 'depth=0'),
  ],
)
def test_impossible_sizes_are_refused(hyper, field):
  with pytest.raises(base.InputError, match=field):
    vit.vit(num_classes=10, **hyper)


def test_images_that_do_not_split_into_patches_are_refused():
  with pytest.raises(base.InputError, match='28x28'):
    shapes(vit.tiny(num_classes=10), 28)
