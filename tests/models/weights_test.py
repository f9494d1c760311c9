"""PyTorch files into our variables: equal logits, and refusals that say why."""

import importlib
import re
from unittest import mock

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from labelleak import base, models
from labelleak.models import vit, weights

VIT = dict(width=48, heads=3, depth=2, patch=8)
# Model and options; twin in tests/twins and options; image size; kind of file.
FAMILIES = (
  ('mlp.mlp', dict(width=64), 'cifar.Mlp', dict(width=64), 32, '.npz'),
  ('cnn.cnn', dict(width=16), 'cifar.Cnn', dict(width=16), 32, '.npz'),
  ('vgg.vgg11', {}, 'cifar.Vgg', dict(depth=11), 32, '.npz'),
  ('resnet.resnet20', {}, 'cifar.ResNet', dict(blocks=3), 32, '.safetensors'),
  ('resnet.resnet50', {}, 'imagenet.ResNet50', {}, 64, '.npz'),
  (
    'vgg.vgg19',
    dict(form='imagenet'),
    'imagenet.Vgg19',
    {},
    64,
    '.safetensors',
  ),
  ('efficientnet.b0', {}, 'imagenet.EfficientNetB0', {}, 64, '.npz'),
  ('mnasnet.mnasnet', {}, 'imagenet.MnasNet', {}, 64, '.safetensors'),
  ('shufflenet.shufflenet_v2', {}, 'imagenet.ShuffleNet', {}, 64, '.npz'),
  (
    'vit.vit',
    VIT,
    'imagenet.ViT',
    VIT | dict(image_size=64),
    64,
    '.safetensors',
  ),
)


def save(path, state):
  """A state_dict of arrays as the file that its suffix names."""
  if path.suffix == '.npz':
    np.savez(path, **state)
  else:
    safetensors.numpy.save_file(state, path)


def abstract(model, shape):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def randomised(twin, torch):
  """Every tensor away from its default, activations of moderate size."""
  generator = torch.Generator().manual_seed(1)
  for name, tensor in twin.state_dict().items():
    if name.endswith('running_var'):
      tensor.uniform_(0.5, 1.5, generator=generator)
    elif name.endswith('running_mean') or tensor.ndim == 1:
      offset = 1.0 if name.endswith('weight') else 0.0
      tensor.normal_(0.0, 0.1, generator=generator).add_(offset)
    elif tensor.ndim == 4:
      fan_in = tensor[0].numel()
      tensor.normal_(0.0, (2 / fan_in) ** 0.5, generator=generator)
  return twin.eval()


def logits_agree(model, twin, path, shape, torch):
  """The twin's file, converted, gives the twin's logits."""
  state = {k: v.numpy() for k, v in twin.state_dict().items()}
  save(path, state)
  variables = weights.load(path, abstract(model, shape))
  path.unlink()  # VGG: half a gigabyte
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  nchw = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
  with torch.no_grad():
    expected = twin(nchw).numpy()
  ours = jax.jit(model.apply)(variables, x)
  assert expected.std(0).max() > 1e-3 * np.abs(expected).max()  # sees x
  np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.torch
@pytest.mark.parametrize(
  ('name', 'hyper', 'twin', 'options', 'size', 'suffix'), FAMILIES
)
def test_logits_of_a_converted_twin(
  name, hyper, twin, options, size, suffix, tmp_path
):
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  module, twin = twin.split('.')
  module = importlib.import_module(f'tests.twins.{module}')
  twin = randomised(getattr(module, twin)(num_classes=7, **options), torch)
  model = models.load(name, num_classes=7, **hyper)
  path = tmp_path / f'twin{suffix}'
  logits_agree(model, twin, path, (2, size, size, 3), torch)


@pytest.fixture
def model():
  return vit.vit(num_classes=5, width=8, heads=2, depth=2, patch=4)


@pytest.fixture
def state():
  """A file of the model above at 8x8x1, made without torch."""
  rng = np.random.default_rng(0)
  shapes = {
    'cls_token': (1, 1, 8),
    'pos_embed': (1, 5, 8),
    'patch_embed.proj.weight': (8, 1, 4, 4),
    'patch_embed.proj.bias': (8,),
    'norm.weight': (8,),
    'norm.bias': (8,),
    'head.weight': (5, 8),
    'head.bias': (5,),
  }
  for i in range(2):
    for name, shape in {
      'norm1': (8,),
      'norm2': (8,),
      'attn.qkv': (24, 8),
      'attn.proj': (8, 8),
      'mlp.fc1': (32, 8),
      'mlp.fc2': (8, 32),
    }.items():
      shapes[f'blocks.{i}.{name}.weight'] = shape
      shapes[f'blocks.{i}.{name}.bias'] = shape[:1]
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_layouts(model, state, suffix, tmp_path):
  path = tmp_path / f'file{suffix}'
  save(path, state | {'norm.num_batches_tracked': np.array(3)})
  params = weights.load(path, abstract(model, (1, 8, 8, 1)))['params']
  np.testing.assert_array_equal(
    params['head']['kernel'], state['head.weight'].T
  )
  qkv = params['blocks']['attn']['qkv']
  for i in range(2):
    np.testing.assert_array_equal(
      qkv['kernel'][i], state[f'blocks.{i}.attn.qkv.weight'].T
    )
  # The patch embedding is the convolution of the file.
  x = np.random.default_rng(1).normal(size=(1, 8, 8, 1)).astype(np.float32)
  embed = vit.PatchEmbed(8, 4).apply({'params': params['patch_embed']}, x)
  corner = np.einsum(
    'oihw,hwi->o', state['patch_embed.proj.weight'], x[0, :4, 4:]
  )
  np.testing.assert_allclose(
    embed[0, 1], corner + state['patch_embed.proj.bias'], rtol=1e-5
  )


def test_the_head_may_bear_any_name(model, state, tmp_path):
  path = tmp_path / 'file.npz'
  variables = abstract(model, (1, 8, 8, 1))
  save(path, state)
  expected = weights.load(path, variables)
  renamed = {k.replace('head.', 'classifier.6.'): v for k, v in state.items()}
  save(path, renamed)
  chex.assert_trees_all_equal(weights.load(path, variables), expected)


def test_fresh_head_keeps_ours(model, state, tmp_path):
  path = tmp_path / 'file.npz'
  save(path, state)
  wide = vit.vit(num_classes=9, width=8, heads=2, depth=2, patch=4)
  ours = wide.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  with pytest.raises(base.InputError, match=r"head.weight \(5, 8\).*'fresh'"):
    weights.load(path, ours)
  loaded = weights.load(path, ours, head='fresh')['params']
  np.testing.assert_array_equal(
    loaded['head']['kernel'], ours['params']['head']['kernel']
  )
  np.testing.assert_array_equal(loaded['norm']['scale'], state['norm.weight'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda s: s.pop('norm.bias'), 'lacks norm.bias for params/norm/bias'),
    (lambda s: s.pop('blocks.1.norm1.bias'), 'lacks blocks.1.norm1.bias'),
    (lambda s: s.pop('head.weight'), "lacks head.weight.*head='fresh'"),
    (
      lambda s: s.update({'extra.bias': np.zeros(3)}),
      'holds extra.bias, which the model has no place for',
    ),
    (
      lambda s: s.update({'blocks.2.norm1.bias': np.zeros(8)}),
      'blocks.2.norm1.bias.*depth',
    ),
    (
      lambda s: s.update({'fc.weight': np.zeros((5, 8))}),
      'holds fc, head, of which one may be the head',
    ),
    (
      lambda s: s.update(pos_embed=np.zeros((1, 17, 8))),
      r'pos_embed \(1, 17, 8\).*\(1, 5, 8\).*image size',
    ),
  ],
)
def test_other_models_files_are_refused(
  change, message, model, state, tmp_path
):
  change(state)
  path = tmp_path / 'file.npz'
  save(path, state)
  with pytest.raises(base.InputError, match=message) as e:
    weights.load(path, abstract(model, (1, 8, 8, 1)))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', '_module.module.'])
def test_names_of_wrappers_are_left_out(model, state, prefix, tmp_path):
  path, variables = tmp_path / 'file.npz', abstract(model, (1, 8, 8, 1))
  save(path, state)
  expected = weights.load(path, variables)
  wrapped = {prefix + name: value for name, value in state.items()}
  save(path, wrapped | {'n_averaged': np.array(3)})
  chex.assert_trees_all_equal(weights.load(path, variables), expected)
  within = {k.replace('blocks.', 'blocks._orig_mod.'): state[k] for k in state}
  save(path, within)
  chex.assert_trees_all_equal(weights.load(path, variables), expected)
  save(path, wrapped | {'norm.bias': state['norm.bias']})
  with pytest.raises(base.InputError, match=r'holds norm\.bias twice'):
    weights.load(path, variables)


@pytest.mark.parametrize('prefix', ['net.', 'model.backbone.'])
def test_the_remedy_for_a_module_within_is_its_name(
  model, state, prefix, tmp_path
):
  path = tmp_path / 'file.npz'
  save(path, {prefix + name: value for name, value in state.items()})
  with pytest.raises(base.InputError, match=f"begin with '{prefix}'"):
    weights.load(path, abstract(model, (1, 8, 8, 1)))


def test_gradients_have_no_buffers(tmp_path):
  model = models.load('resnet.resnet20', num_classes=3)
  variables = abstract(model, (1, 8, 8, 3))
  rng = np.random.default_rng(0)
  state = {}
  for (collection, *modules, leaf), value in traverse_util.flatten_dict(
    variables
  ).items():
    name = '.'.join(re.sub(r'_(?=\d)', '.', m) for m in modules)
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(value.ndim, (0,))
    shape = [value.shape[i] for i in axes]
    if collection == 'params':
      leaf = 'bias' if leaf == 'bias' else 'weight'
      state[f'{name}.{leaf}'] = rng.normal(size=shape).astype(np.float32)
  path = tmp_path / 'grads.npz'
  save(path, state)
  params = {'params': variables['params']}
  grads = weights.load(path, params)['params']
  assert jax.tree.structure(grads) == jax.tree.structure(variables['params'])
  np.testing.assert_array_equal(grads['head']['bias'], state['head.bias'])
  with pytest.raises(base.InputError, match=r"running_.*\{'params': var"):
    weights.load(path, variables)
  # The file of another model lacks more than buffers.
  del state['conv1.weight']
  save(path, state)
  with pytest.raises(base.InputError, match='choose the model'):
    weights.load(path, variables)


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (np.ones(8, np.int8), 'holds int8'),
    (np.ones(8, np.uint8), 'holds uint8'),
    (np.full(8, np.nan), '8 of 8 values that are not finite'),
    (np.float32([1, 2, np.inf, 1, 1, 1, 1, 1]), '1 of 8 values'),
  ],
)
def test_values_are_finite_floats(model, state, value, message, tmp_path):
  path = tmp_path / 'file.npz'
  save(path, state | {'norm.weight': value})
  with pytest.raises(base.InputError, match=f'norm.weight.*{message}'):
    weights.load(path, abstract(model, (1, 8, 8, 1)))


def test_unreadable_files_are_refused(model, tmp_path):
  variables = abstract(model, (1, 8, 8, 1))
  pickled = tmp_path / 'pickled.npz'
  np.savez(pickled, weight=np.array([{}], dtype=object))
  for suffix in ('.npz', '.safetensors'):
    (tmp_path / f'noise{suffix}').write_bytes(b'no such format at all')
  for name, message in (
    ('pickled.npz', 'plain arrays, not pickled'),
    ('noise.npz', 'cannot be read'),
    ('noise.safetensors', 'cannot be read'),
    ('absent.npz', 'cannot be read'),
    ('model.pth', 'neither .npz nor .safetensors'),
  ):
    with pytest.raises(base.InputError, match=message) as e:
      weights.load(tmp_path / name, variables)
    assert '\n' not in str(e.value)
  with pytest.raises(base.InputError, match="head='new' is unknown"):
    weights.load(pickled, variables, head='new')


def test_of_a_library_s_reason_the_first_line_is_said(model, tmp_path):
  reason = ValueError('why\n\nlong advice')
  with (
    mock.patch.object(np, 'load', side_effect=reason),
    pytest.raises(base.InputError, match=r'cannot be read \(why\)'),
  ):
    weights.load(tmp_path / 'a.npz', abstract(model, (1, 8, 8, 1)))
