"""BERT: as torch computes it, read from a released file, mixed for MixText."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from labelleak import models
from labelleak.base import InputError
from labelleak.models import bert, weights

TINY = dict(width=12, heads=3, depth=3, vocab=40)
LENGTH = 7


@pytest.fixture
def model():
  return models.load('bert.bert', num_classes=5, **TINY)


def tokens(seed, num=4):
  return np.random.default_rng(seed).integers(0, 40, (num, LENGTH))


def perturbed(model, seed=0):
  """Variables in which no leaf has its default."""
  variables = model.init(jax.random.key(seed), tokens(0))
  leaves, tree = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  noisy = [
    a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)
  ]
  return jax.tree.unflatten(tree, noisy)


@pytest.mark.torch
@pytest.mark.parametrize('mix', [None, 1, 2, 3])
def test_a_converted_twin_agrees(model, mix, tmp_path):
  torch = pytest.importorskip('torch')
  from tests.twins import language

  torch.manual_seed(0)
  twin = language.Bert(5, TINY['vocab'], 12, 3, 3).eval()
  with torch.no_grad():
    for name, tensor in twin.state_dict().items():
      tensor.normal_(float('LayerNorm.weight' in name), 0.3)
  state = {k: v.numpy() for k, v in twin.state_dict().items()}
  # As the loader looks for a classifier: the one matrix that nothing claims.
  path = tmp_path / 'twin.safetensors'
  safetensors.numpy.save_file(state, path)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens(0))
  variables = weights.load(path, shapes)
  own, other = tokens(1), tokens(2)
  theirs = None if mix is None else (torch.tensor(other), 0.7, mix)
  ours = None if mix is None else bert.Mix(other, 0.7, mix)
  with torch.no_grad():
    expected = twin(torch.tensor(own), theirs).numpy()
  found = model.apply(variables, own, mix=ours)
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert expected.std() > 0.1


def test_a_released_checkpoint_is_read_but_for_its_head(model, tmp_path):
  """Names, extra tensors and TensorFlow's gamma and beta as on the hub."""
  rng = np.random.default_rng(0)
  width = TINY['width']
  shapes = {
    'embeddings.word_embeddings.weight': (40, width),
    'embeddings.position_embeddings.weight': (512, width),
    'embeddings.token_type_embeddings.weight': (2, width),
    'embeddings.LayerNorm.gamma': (width,),
    'embeddings.LayerNorm.beta': (width,),
    'embeddings.position_ids': (1, 512),
    'pooler.dense.weight': (width, width),
    'pooler.dense.bias': (width,),
  }
  for i in range(3):
    for name, out, fan_in in (
      ('attention.self.query', width, width),
      ('attention.self.key', width, width),
      ('attention.self.value', width, width),
      ('attention.output.dense', width, width),
      ('intermediate.dense', 4 * width, width),
      ('output.dense', width, 4 * width),
    ):
      shapes[f'encoder.layer.{i}.{name}.weight'] = out, fan_in
      shapes[f'encoder.layer.{i}.{name}.bias'] = (out,)
    for name in ('attention.output', 'output'):
      for leaf in ('gamma', 'beta'):
        shapes[f'encoder.layer.{i}.{name}.LayerNorm.{leaf}'] = (width,)
  state = {
    f'bert.{k}': rng.normal(size=s).astype(np.float32)
    for k, s in shapes.items()
  }
  state['cls.predictions.bias'] = np.zeros(40, np.float32)
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(state, path)
  before = model.init(jax.random.key(0), tokens(0))
  after = weights.load(path, before, head='fresh')['params']
  for name in ('head', 'head_neck'):
    chex.assert_trees_all_equal(after[name], before['params'][name])
  query = after['encoder']['attention']['self']['query']['kernel']
  norm = after['encoder']['output']['LayerNorm']['scale']
  for i in range(3):
    stem = f'bert.encoder.layer.{i}'
    np.testing.assert_array_equal(
      query[i], state[f'{stem}.attention.self.query.weight'].T
    )
    np.testing.assert_array_equal(
      norm[i], state[f'{stem}.output.LayerNorm.gamma']
    )
  np.testing.assert_array_equal(
    after['embeddings']['word_embeddings']['embedding'],
    state['bert.embeddings.word_embeddings.weight'],
  )
  del state['bert.encoder.layer.1.output.dense.bias']
  safetensors.numpy.save_file(state, path)
  with pytest.raises(InputError, match=r'lacks encoder\.layer\.1\.output'):
    weights.load(path, before, head='fresh')


def test_rows_of_a_batch_do_not_meet_and_order_matters(model):
  variables = perturbed(model)
  x = tokens(3, num=6)
  found = model.apply(variables, x)
  np.testing.assert_allclose(
    model.apply(variables, x[::-1])[::-1], found, atol=1e-5
  )
  turned = model.apply(variables, x[:, ::-1])
  assert np.abs(turned - found).max() > 0.01


def test_mixing_at_the_ends_of_its_share(model):
  """All of one text, all of the partner past any block, or oneself."""
  variables, own, other = perturbed(model), tokens(4), tokens(5)

  def mixed(share, layer, partner=other):
    return model.apply(variables, own, mix=bert.Mix(partner, share, layer))

  plain, theirs = (model.apply(variables, x) for x in (own, other))
  for layer in (1, 2, 3):
    np.testing.assert_allclose(mixed(1.0, layer), plain, atol=1e-5)
    np.testing.assert_allclose(mixed(0.0, layer), theirs, atol=1e-5)
    np.testing.assert_allclose(mixed(0.4, layer, own), plain, atol=1e-5)
  early, late = mixed(0.5, 1), mixed(0.5, 3)
  assert np.abs(early - late).max() > 1e-3


def test_a_drawn_layer_is_one_program(model):
  variables, own, other = perturbed(model), tokens(4), tokens(5)
  traced = []

  @jax.jit
  def mixed(layer):
    traced.append(layer)
    return model.apply(variables, own, mix=bert.Mix(other, 0.3, layer))

  for layer in (1, 3):
    expected = model.apply(variables, own, mix=bert.Mix(other, 0.3, layer))
    np.testing.assert_allclose(mixed(jnp.int32(layer)), expected, atol=1e-5)
  assert len(traced) == 1


def test_dropout_acts_in_training_alone(model):
  variables, x = perturbed(model), tokens(6)
  apply = lambda key, model=model: model.apply(
    variables, x, train=True, rngs={'dropout': jax.random.key(key)}
  )
  assert np.abs(apply(0) - apply(1)).max() > 1e-3
  certain = models.load('bert.bert', num_classes=5, drop=0.0, **TINY)
  np.testing.assert_allclose(
    apply(0, certain), model.apply(variables, x), atol=1e-6
  )


def test_base_has_the_size_of_the_released_one():
  model = models.load('bert.base', num_classes=10)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 256), jnp.int32)
  )['params']
  heads = {name: shapes.pop(name) for name in ('head', 'head_neck')}
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(shapes) == 108_891_648
  assert count(heads) == 768 * 128 + 128 + 128 * 10 + 10


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(heads=5), 'width=12 does not split into heads=5'),
    (dict(depth=0), 'bert: depth=0 must be'),
    (dict(drop=1.0), r'drop=1.0 must be in \[0, 1\)'),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(InputError, match=message):
    models.load('bert.bert', num_classes=5, **TINY | options)


def test_too_long_a_text_is_named(model):
  with pytest.raises(InputError, match='513 tokens exceed the 512 positions'):
    jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 513), int))
