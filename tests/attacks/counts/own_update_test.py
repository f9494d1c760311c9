"""Count attacks on a head gradient from a file, with no model of ours."""

import pathlib
import re

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest
import safetensors.numpy

from labelleak import attacks, base, hfl
from labelleak.models import weights

K, H, B = 40, 24, 10
LABELS = np.array([7, 7, 7, 7, 2, 2, 39, 0, 11, 30])
COUNTS = np.bincount(LABELS, minlength=K)
ATTACKS = ('llbg', 'ebi', 'llg', 'calibrated')


def gradient(labels=LABELS, features=H, num_classes=K):
  """Kernel [H, K] and bias [K] gradients at uniform logits."""
  rng = np.random.default_rng(0)
  x = rng.dirichlet(np.ones(features), size=labels.size)  # equal sums, for LLG
  error = 1 / num_classes - np.eye(num_classes)[labels]
  return {
    'kernel': (x.T @ error / labels.size).astype(np.float32),
    'bias': error.mean(0).astype(np.float32),
  }


def save(path, state):
  """Contiguous arrays, because safetensors ignores strides."""
  state = {name: np.ascontiguousarray(value) for name, value in state.items()}
  if path.suffix == '.npz':
    np.savez(path, **state)
  else:
    safetensors.numpy.save_file(state, path)
  return path


def infer(attack, grads):
  known = hfl.Known(num_classes=K, batch_size=B)
  view = hfl.View(grads=grads)
  return attacks.load(f'counts.{attack}').infer(jax.random.key(0), view, known)


class OwnUpdateTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.dir = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.product(
    suffix=('.npz', '.safetensors'), torch_layout=(False, True)
  )
  def test_attacks_recover_the_counts(self, suffix, torch_layout):
    ours = gradient()
    state = ours
    if torch_layout:
      state = {'fc.weight': ours['kernel'].T, 'fc.bias': ours['bias']}
    grads = weights.head(save(self.dir / f'head{suffix}', state))
    self.assertEqual(set(grads), set(ours))
    for name, value in ours.items():
      np.testing.assert_array_equal(grads[name], value)
    for attack in ATTACKS:
      with self.subTest(attack):
        np.testing.assert_array_equal(infer(attack, grads), COUNTS)

  @parameterized.parameters(('kernel', False), ('weight', True))
  def test_the_name_tells_a_square_layout(self, name, transposed):
    ours = gradient(features=K)
    stored = ours['kernel'].T if transposed else ours['kernel']
    path = save(self.dir / 'a.npz', {name: stored, 'bias': ours['bias']})
    np.testing.assert_array_equal(weights.head(path)['kernel'], ours['kernel'])

  @parameterized.parameters(('kernel', False), ('fc.weight', True))
  def test_the_name_tells_the_layout_without_bias(self, name, transposed):
    ours = gradient()['kernel']
    path = save(self.dir / 'a.npz', {name: ours.T if transposed else ours})
    grads = weights.head(path)
    np.testing.assert_array_equal(infer('llg', grads), COUNTS)
    with self.assertRaisesRegex(base.InputError, r'counts\.llg'):
      infer('llbg', grads)

  def test_named_tensors_of_a_whole_update(self):
    ours = gradient()
    state = {
      'conv.weight': np.ones((3, 3), np.float32),
      'conv.bias': np.ones(3, np.float32),
      'fc.weight': ours['kernel'].T,
      'fc.bias': ours['bias'],
    }
    path = save(self.dir / 'a.safetensors', state)
    grads = weights.head(path, kernel='fc.weight', bias='fc.bias')
    np.testing.assert_array_equal(grads['kernel'], ours['kernel'])
    np.testing.assert_array_equal(infer('llbg', grads), COUNTS)
    self.assertEqual(set(weights.head(path, bias='fc.bias')), {'bias'})
    self.assertEqual(set(weights.head(path, kernel='fc.weight')), {'kernel'})
    with self.assertRaisesRegex(base.InputError, 'set kernel= to one of'):
      weights.head(path)

  @parameterized.named_parameters(
    ('unknown_name', {'a': (4, 3)}, dict(kernel='b'), 'no .b.; set kernel='),
    ('bias_is_a_matrix', {'bias': (4, 3), 'kernel': (2, 3)}, {}, '1 dimension'),
    ('other_classes', {'kernel': (4, 3), 'bias': (5,)}, {}, 'does not fit'),
    ('nothing', {'a': (2, 2, 2)}, {}, 'no matrix and no vector'),
    ('two_vectors', {'a': (3,), 'b': (3,)}, {}, 'set bias= to one of'),
  )
  def test_refusals_are_one_line(self, shapes, names, expected):
    state = {name: np.zeros(shape) for name, shape in shapes.items()}
    path = save(self.dir / 'a.npz', state)
    with self.assertRaisesRegex(base.InputError, expected) as caught:
      weights.head(path, **names)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.named_parameters(
    # Modules of a body, beside a head that has no bias.
    ('norm', {'norm.weight': (H,), 'score.weight': (K, H)}),
    (
      'norm_and_bias',
      {'ln.weight': (H,), 'ln.bias': (H,), 'fc.weight': (K, H)},
    ),
    ('convolution', {'c.weight': (H, 1, 3, 3), 'c.bias': (H,), 'fc.weight': 0}),
    ('bias_of_k', {'ln.bias': (K,), 'fc.weight': (K, H)}),
    ('wrapped', {'module.n.bias': (H,), 'module.fc.weight': (K, H)}),
    ('keras', {'logits/kernel:0': (H, K), 'norm/gamma:0': (H,)}),
    ('haiku', {'net/~/linear/w': (H, K), 'net/~/norm/scale': (H,)}),
    ('flax', {'params/head/kernel': (H, K), 'params/norm/bias': (H,)}),
    ('keystr', {"['head']['kernel']": (H, K), "['norm']['bias']": (H,)}),
    ('called_cls', {'cls.weight': (K, H), 'pooler.bias': (H,)}),
  )
  def test_a_bias_is_paired_with_its_own_module(self, shapes):
    kernel = gradient()['kernel']
    state = {
      name: kernel
      if shape == (H, K)
      # What is not the head is never zero: a wrong pair shows.
      else kernel.T
      if shape in ((K, H), 0)
      else np.ones(shape, np.float32)
      for name, shape in shapes.items()
    }
    grads = weights.head(save(self.dir / 'a.npz', state))
    self.assertEqual(set(grads), {'kernel'})
    np.testing.assert_array_equal(grads['kernel'], kernel)
    np.testing.assert_array_equal(infer('llg', grads), COUNTS)

  @parameterized.product(
    names=(
      ('fc.weight', 'fc.bias'),
      ('logits/kernel:0', 'logits/bias:0'),
      ('linear/w', 'linear/b'),
      ('fc_weight', 'fc_bias'),
      ('_orig_mod.module.fc.weight', '_orig_mod.module.fc.bias'),
    ),
    pointwise=(False, True),
  )
  def test_heads_among_other_layers(self, names, pointwise):
    kernel, bias = gradient().values()
    torch = names[0].endswith('weight')
    stored = kernel.T if torch else kernel
    if pointwise:
      stored = stored[..., None, None] if torch else stored[None, None]
    state = {
      'conv.weight': np.ones((H, 3, 3, 3), np.float32),
      'conv.bias': np.ones(H, np.float32),
      'down.weight': np.ones((H, 3, 1, 1), np.float32),
      'norm.weight': np.ones(H, np.float32),
      'norm.bias': np.ones(H, np.float32),
      names[0]: stored,
      names[1]: bias,
    }
    if pointwise:
      del state['down.weight']
    grads = weights.head(save(self.dir / 'a.npz', state))
    np.testing.assert_array_equal(grads['kernel'], kernel)
    np.testing.assert_array_equal(grads['bias'], bias)

  @parameterized.named_parameters(
    ('quantised', {'fc.weight': ((K, H), 'int8'), 'fc.bias': ((K,), 'f4')}),
    ('unsigned', {'fc.weight': ((K, H), 'uint8')}),
    ('integers', {'fc.bias': ((K,), 'int64')}),
    ('complex', {'fc.bias': ((K,), 'complex64')}),
    ('coo', {'values': ((9,), 'f4'), 'indices': ((2, 9), 'int64')}),
    (
      'coo_of_fc',
      {'fc.weight.values': ((9,), 'f4'), 'fc.weight.indices': ((2, 9), 'f4')},
    ),
    ('flat', {'update': ((K * H + K,), 'f4')}),
    ('flat_weight', {'weight': ((K * H + K,), 'f4')}),
    ('flat_of_fc', {'fc.weight': ((K * H,), 'f4')}),
    ('clients', {'fc.weight': ((2, K, H), 'f4'), 'fc.bias': ((2, K), 'f4')}),
    (
      'clients_of_norm',
      {'n.weight': ((2, H), 'f4'), 'f.weight': ((2, K, H), 'f4')},
    ),
    ('clients_of_bias', {'fc.bias': ((2, K), 'f4')}),
    ('client_kernels', {'kernel': ((2, H, K), 'f4')}),
    ('norm_alone', {'norm.weight': ((H,), 'f4'), 'norm.bias': ((H,), 'f4')}),
    ('lists', {'arr_0': ((K, H), 'f4'), 'arr_1': ((H,), 'f4')}),
    ('two_heads', {'a.weight': ((K, H), 'f4'), 'b.weight': ((K, H), 'f4')}),
    (
      'two_pointwise',
      {'a.weight': ((K, H, 1, 1), 'f4'), 'b.weight': ((H, 3, 1, 1), 'f4')},
    ),
    ('two_layouts', {'kernel': ((H, K), 'f4'), 'weight': ((K, H), 'f4')}),
    ('no_rows', {'fc.weight': ((0, H), 'f4')}),
    ('empty', {}),
  )
  def test_what_is_no_head_is_refused(self, tensors):
    state = {n: np.ones(shape, kind) for n, (shape, kind) in tensors.items()}
    with self.assertRaisesRegex(base.InputError, r'a\.npz.*; ') as caught:
      weights.head(save(self.dir / 'a.npz', state))
    self.assertNotIn('\n', str(caught.exception))
    if tensors:  # what is there is listed
      names = '|'.join(map(re.escape, tensors))
      self.assertRegex(str(caught.exception), names)

  @parameterized.parameters(np.nan, np.inf, -np.inf, 1e39)
  def test_what_is_not_finite_is_refused(self, value):
    state = {n: v.astype(np.float64) for n, v in gradient().items()}
    for name in state:
      broken = {n: v.copy() for n, v in state.items()}
      broken[name].flat[3] = value
      path = save(self.dir / 'a.npz', broken)
      with self.assertRaisesRegex(base.InputError, f'{name}.* 1 of .*finite'):
        weights.head(path)

  def test_a_name_that_says_nothing_needs_the_bias(self):
    ours = gradient()
    state = {'arr_0': ours['kernel'].T, 'arr_1': ours['bias']}
    path = save(self.dir / 'a.npz', state)
    grads = weights.head(path, kernel='arr_0', bias='arr_1')
    np.testing.assert_array_equal(grads['kernel'], ours['kernel'])
    with self.assertRaisesRegex(base.InputError, r'\[K, H\] or a kernel'):
      weights.head(path, kernel='arr_0')

  def test_nothing_is_unpickled(self):
    path = self.dir / 'a.npz'
    np.savez(path, kernel=np.array([{'a': 1}], dtype=object))
    with self.assertRaisesRegex(base.InputError, 'not pickled'):
      weights.head(path)


@pytest.mark.torch
@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_gradients_of_a_torch_model(tmp_path, suffix):
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  body = torch.nn.Sequential(torch.nn.Linear(12, H), torch.nn.Softmax(-1))
  head = torch.nn.Linear(H, K)
  for tensor in head.parameters():
    torch.nn.init.zeros_(tensor)  # uniform logits
  logits = head(body(torch.randn(B, 12)))
  labels = torch.from_numpy(LABELS)
  torch.nn.functional.cross_entropy(logits, labels).backward()
  model = torch.nn.ModuleDict(dict(body=body, head=head))
  state = {n: p.grad.numpy() for n, p in model.named_parameters()}
  path = save(tmp_path / f'update{suffix}', state)
  grads = weights.head(path, kernel='head.weight', bias='head.bias')
  for attack in ATTACKS:
    np.testing.assert_array_equal(infer(attack, grads), COUNTS, attack)


if __name__ == '__main__':
  absltest.main()
