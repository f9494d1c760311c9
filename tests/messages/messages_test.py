"""Captured rounds of every format are read to the same update."""

import base64
import json
import pathlib
import pickle
import re
import subprocess
import sys
import zlib

from absl.testing import absltest, parameterized
import ml_dtypes
import numpy as np
import pytest

from labelleak import messages
from labelleak.base import InputError
from labelleak.messages import flower
from tests.messages import clients
from tests.messages.clients import COUNTS, H, K, save

BEFORE, AFTER, UPDATE = clients.models()
FORMATS = 'a.npz', 'a.safetensors', 'a.safetensors.index.json', 'a.flwr', 'a.pb'
BUFFERS = 'bn.running_mean', 'bn.running_var', 'bn.num_batches_tracked'
# A RecordDict of arrays, config and metrics, as flwr 1.42.0 serialises it.
FLOWER = (
  'c-rGS&BDc&SX7i)SuAvbh3hCI7iU_sUU_O}dPa%Rc1AAtw4D6J5@RDFCT1on-n`P>f=a!-6tD)'
  'R8H|(tLVW`w85znLs?}3ci<67gtrXO4(oEEK6x7r5i%N<T^WyW1Qc^+UZizX?sX+1KjKqReAYa2'
  '+N5M!_N1;}MY{139&|uHNz~BHxK-_SE0Rrr~wt-xpte2FTSS+*($rp^w=$`1I)Dx6>0qh9|peGv'
  'kgB`wykxMKoPY>wE_@u;=<c!qfc%TE4vr|)q7BX_NX6BWcnV@^21BVwfEr{|0r5*r!fgKv~T+&='
  '@$@zI{ndwS`T>M;2IYmO8oU>+vz)pKE9WM6V)RLmi<YFmBE<rAqoc!WqpgctD4|^^iF2+0|_Dzf'
  '|Tue+X0Ih+UDF'
)


class MessagesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.dir = pathlib.Path(self.create_tempdir().full_path)

  def save(self, name, state):
    """Writes a file, each in a folder of its own; shards have names of one."""
    folder = self.dir / str(len(list(self.dir.iterdir())))
    folder.mkdir()
    return save(folder / name, state)

  def read(self, before=BEFORE, after=AFTER, name='a.npz', **options):
    return messages.read(
      self.save(name, before), self.save(name, after), **options
    )

  def check_update(self, capture, tolerance=1e-6):
    self.assertEqual(set(capture.update), {'kernel', 'bias'})
    for leaf, value in UPDATE.items():
      self.assertEqual(capture.update[leaf].dtype, np.float32)
      self.assertEqual(capture.update[leaf].shape, value.shape)
      np.testing.assert_allclose(capture.update[leaf], value, atol=tolerance)

  @parameterized.parameters(*FORMATS)
  def test_two_models(self, name):
    capture = self.read(name=name, num_classes=K)
    self.check_update(capture)
    server = {'kernel': BEFORE['fc2.weight'].T, 'bias': BEFORE['fc2.bias']}
    for leaf, value in server.items():
      np.testing.assert_array_equal(capture.server[leaf], value)
    names = {'kernel': 'fc2.weight', 'bias': 'fc2.bias'}
    self.assertEqual(capture.names, names)
    self.assertEqual(set(capture.buffers), set(BUFFERS))
    self.assertEqual(capture.tensors, len(BEFORE) - 3)
    whole = clients.subtract(BEFORE, AFTER)
    flat = np.concatenate([value.ravel() for value in whole.values()])
    np.testing.assert_allclose(capture.norm, np.linalg.norm(flat), rtol=1e-5)
    notes = ' '.join(capture.notes)
    self.assertIn('rose by 7', notes)
    self.assertIn('transposed', notes)
    self.assertNotRegex(notes, 'swapped|sum to zero over classes \\(')

  @parameterized.product(
    name=FORMATS, sign=('server-client', 'client-server'), alone=(True, False)
  )
  def test_an_update(self, name, sign, alone):
    flip = -1 if sign == 'client-server' else 1
    whole = clients.subtract(BEFORE, AFTER)
    path = self.save(name, {k: flip * v for k, v in whole.items()})
    before = None if alone else self.save(name, BEFORE)
    capture = messages.read(before, update=path, sign=sign, num_classes=K)
    self.check_update(capture)
    self.assertEqual(capture.server is None, alone)

  def test_formats_may_differ(self):
    before = self.save('a.safetensors', BEFORE)
    after = self.save('a.npz', AFTER)
    self.check_update(messages.read(before, after))

  @parameterized.parameters(
    'module.', '_orig_mod.', '_module.', 'module._module.'
  )
  def test_prefixes_are_stripped(self, prefix):
    after = {prefix + name: value for name, value in AFTER.items()}
    capture = self.read(after=after)
    self.check_update(capture)
    self.assertEqual(capture.names['kernel'], prefix + 'fc2.weight')
    self.assertEqual(set(capture.buffers), {prefix + name for name in BUFFERS})
    self.assertIn('wrapping', ' '.join(capture.notes))
    self.check_update(self.read(after=after, kernel=prefix + 'fc2.weight'))

  @parameterized.product(
    dtype=('float16', 'bfloat16'),
    name=('a.npz', 'a.safetensors', 'a.flwr'),
  )
  def test_half_precision_is_widened(self, dtype, name):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    before, after = (
      {n: v.astype(dtype) if v.dtype == 'f4' else v for n, v in state.items()}
      for state in (BEFORE, AFTER)
    )
    capture = self.read(before, after, name, num_classes=K)
    kernel, bias = (
      np.float32(before[n]) - np.float32(after[n])
      for n in ('fc2.weight', 'fc2.bias')
    )
    np.testing.assert_array_equal(capture.update['kernel'], kernel.T)
    np.testing.assert_array_equal(capture.update['bias'], bias)
    self.assertRegex(' '.join(capture.notes), f'{dtype} were widened')

  @parameterized.parameters(0.03, 0.003)
  def test_the_share_of_rounding_is_said(self, lr):
    states = clients.models(lr=lr)[:2]
    half = [
      {n: v.astype(ml_dtypes.bfloat16) for n, v in s.items()} for s in states
    ]
    before, after = ({n: np.float32(v) for n, v in s.items()} for s in half)
    exact = clients.subtract(*states)
    error = clients.subtract(before, after)
    sizes = [
      sum(np.abs(e[n]).sum() for n in ('fc2.weight', 'fc2.bias'))
      for e in ({n: error[n] - exact[n] for n in exact}, exact)
    ]
    notes = ' '.join(self.read(*half, num_classes=K).notes)
    share = float(re.search(r'Rounding .* about (\d+)%', notes)[1]) / 100
    self.assertBetween(share, sizes[0] / sizes[1] / 2, 2 * sizes[0] / sizes[1])

  def test_doubles_are_subtracted_before_they_are_narrowed(self):
    before = {n: np.float64(v) for n, v in BEFORE.items()}
    after = before | {
      'fc2.weight': before['fc2.weight'] - 1e-6 * UPDATE['kernel'].T,
      'fc2.bias': before['fc2.bias'] - 1e-6 * UPDATE['bias'],
    }
    update = self.read(before, after).update
    for leaf, value in UPDATE.items():
      np.testing.assert_allclose(update[leaf], 1e-6 * value, atol=1e-14)

  @parameterized.parameters('list', 'text', 'json', None)
  def test_lists_of_flower(self, names):
    arrays = [
      {f'arr_{i}': v for i, v in enumerate(s.values())} for s in (BEFORE, AFTER)
    ]
    file = self.dir / 'names'
    file.write_text(
      json.dumps([*BEFORE]) if names == 'json' else '\n'.join(BEFORE)
    )
    told = {'list': [*BEFORE], None: None}.get(names, file)
    capture = self.read(*arrays, num_classes=K, names=told)
    self.check_update(capture)
    self.assertEqual(
      capture.names['kernel'], 'fc2.weight' if names else 'arr_9'
    )
    self.assertEqual(len(capture.buffers), 3 if names else 1)

  def test_a_list_of_more_than_ten_is_in_its_order(self):
    state = clients.subtract(BEFORE, AFTER)
    body = {f'arr_{i}': np.full((2, i + 2), 0.1, 'f4') for i in range(10)}
    head = {'arr_10': state['fc2.weight'], 'arr_11': state['fc2.bias']}
    shuffled = dict(sorted((body | head).items()))  # arr_10 before arr_2
    path = self.save('a.npz', shuffled)
    self.check_update(messages.read(update=path, num_classes=K))
    capture = messages.read(update=path, kernel='arr_10', bias='arr_11')
    self.check_update(capture)

  def test_bytes_of_flower(self):
    data = zlib.decompress(base64.b85decode(FLOWER))
    state = flower.parse(data)
    expected = {
      'fc.weight': np.array([[1, 2], [3, -4], [0, 0.5]], 'f4'),
      'fc.bias': np.array([0.5, -1, 0.5], 'f4'),
      'bn.num_batches_tracked': np.array(7),
    }
    self.assertEqual([*state], [*expected])
    for name, value in expected.items():
      np.testing.assert_array_equal(state[name], value)
      self.assertEqual(state[name].dtype, value.dtype)
    self.assertIn(clients.flower_record(expected), data)
    self.assertTrue(data.startswith(clients.flower_dict(expected)))
    record = flower.parse(clients.flower_record(expected))
    np.testing.assert_array_equal(record['fc.weight'], expected['fc.weight'])

  @parameterized.named_parameters(
    ('keras', 'logits/kernel:0', 'logits/bias:0', False),
    ('haiku', 'net/~/linear/w', 'net/~/linear/b', False),
    ('flax', 'params/head/kernel', 'params/head/bias', False),
    ('torch', 'classifier.6.weight', 'classifier.6.bias', True),
  )
  def test_names_of_libraries(self, kernel, bias, torch):
    rng = np.random.default_rng(0)
    body = 'fc1.weight' if torch else 'dense_1/kernel'
    stored = UPDATE['kernel'].T if torch else UPDATE['kernel']
    state = {
      body: rng.normal(size=(H, H)),
      kernel: stored,
      bias: UPDATE['bias'],
    }
    capture = messages.read(update=self.save('a.npz', state))
    self.check_update(capture)
    self.assertEqual(capture.names, {'kernel': kernel, 'bias': bias})

  def test_square_heads_are_told_by_name_or_by_sums(self):
    square = np.float32(UPDATE['kernel'][:K])
    for names in (('fc.weight', 'fc.bias'), ('arr_0', 'arr_1')):
      state = dict(zip(names, (square.T, UPDATE['bias'])))
      capture = messages.read(update=self.save('a.npz', state), num_classes=K)
      np.testing.assert_array_equal(capture.update['kernel'], square)

  def test_a_head_without_bias(self):
    state = {
      'norm.weight': np.float32([0.1, -0.1]),
      'score.weight': UPDATE['kernel'].T,
    }
    capture = messages.read(update=self.save('a.npz', state), num_classes=K)
    self.assertEqual(set(capture.update), {'kernel'})
    np.testing.assert_array_equal(capture.update['kernel'], UPDATE['kernel'])

  def test_a_bias_alone(self):
    path = self.save('a.npz', {'fc.bias': UPDATE['bias']})
    capture = messages.read(update=path, num_classes=K)
    self.assertEqual(set(capture.update), {'bias'})

  def test_a_pointwise_convolution(self):
    state = {
      'conv.weight': UPDATE['kernel'].T[:, :, None, None],
      'conv.bias': UPDATE['bias'],
    }
    capture = messages.read(update=self.save('a.npz', state), num_classes=K)
    self.check_update(capture)

  @parameterized.parameters('a.npz', 'a.safetensors')
  def test_behaviour_tells_the_head_of_two(self, name):
    rng = np.random.default_rng(0)
    # the hidden layer is the last, and called as a head is
    state = {'0.weight': UPDATE['kernel'].T, '0.bias': UPDATE['bias']}
    state |= {
      'head.weight': rng.normal(size=(K, K)),
      'head.bias': rng.normal(size=K),
    }
    capture = messages.read(update=self.save(name, state), num_classes=K)
    self.check_update(capture)
    self.assertIn('sums to zero', ' '.join(capture.notes))

  @parameterized.parameters(
    (('fc.weight', '0.weight'), 'fc.weight'),
    (('a.weight', 'b.weight'), 'b.weight'),
  )
  def test_names_then_order_tell_where_behaviour_does_not(self, names, head):
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=(K, H)) for name in names}
    path = self.save('a.npz', state)
    capture = messages.read(update=path, num_classes=K)
    self.assertEqual(capture.names['kernel'], head)
    self.assertIn('does not sum to zero', ' '.join(capture.notes))

  @parameterized.product(named=(True, False), name=('a.npz', 'a.safetensors'))
  def test_layers_before_layer_norm_are_no_rivals(self, named, name):
    """Their updates sum to zero, too; here the head's do not."""
    rng = np.random.default_rng(0)
    body = rng.normal(size=(H, 20))
    body -= body.mean(0)
    state = {
      'mlp.dense.weight': body,
      'mlp.dense.bias': UPDATE['kernel'].sum(1)
      - UPDATE['kernel'].sum(1).mean(),
      'classifier.weight': UPDATE['kernel'].T - 0.01,
      'classifier.bias': UPDATE['bias'] - 0.01,
    }
    if not named:
      state = {f'arr_{i}': value for i, value in enumerate(state.values())}
    path = self.save(name if named else 'a.npz', state)
    capture = messages.read(update=path, num_classes=K)
    np.testing.assert_allclose(capture.update['bias'], UPDATE['bias'] - 0.01)
    if named:  # what it is called decides, where K is not told
      self.assertEqual(messages.read(update=path).names, capture.names)

  def test_numbers_are_an_order_where_the_file_has_none(self):
    rng = np.random.default_rng(0)
    state = {f'net.{i}.weight': rng.normal(size=(K, H)) for i in (2, 10)}
    path = self.save('a.safetensors', state)
    capture = messages.read(update=path, num_classes=K)
    self.assertEqual(capture.names['kernel'], 'net.10.weight')

  def test_either_flag_decides(self):
    for flags in (dict(kernel='fc2.weight'), dict(bias='fc2.bias')):
      self.check_update(self.read(**flags))

  def test_a_frozen_leaf_is_left_out(self):
    after = AFTER | {'fc2.bias': BEFORE['fc2.bias']}
    capture = self.read(after=after)
    self.assertEqual(set(capture.update), {'kernel'})
    self.assertEqual(set(capture.server), {'kernel'})
    self.assertIn('fc2.bias did not change', ' '.join(capture.notes))

  def test_an_update_may_lack_tensors(self):
    state = {'fc2.weight': UPDATE['kernel'].T, 'fc2.bias': UPDATE['bias']}
    capture = messages.read(
      self.save('a.npz', BEFORE), update=self.save('a.npz', state)
    )
    self.check_update(capture)
    self.assertIn('lacks', ' '.join(capture.notes))

  @parameterized.named_parameters(
    ('adam', lambda u: u / (np.abs(u) + 1e-8)),
    (
      'noise',
      lambda u: u + 0.01 * np.sin(1 + np.arange(u.size)).reshape(u.shape),
    ),
    ('sigmoid', lambda u: u - 0.01),
  )
  def test_what_sgd_does_not_do_is_said(self, change):
    state = {
      'fc.weight': change(UPDATE['kernel'].T),
      'fc.bias': change(UPDATE['bias']),
    }
    capture = messages.read(update=self.save('a.npz', state))
    self.assertIn('does not sum to zero', ' '.join(capture.notes))

  def test_many_random_entries_do_not_sum_to_zero(self):
    rng = np.random.default_rng(0)
    state = {'fc.weight': rng.normal(size=(20_000, 3))}
    capture = messages.read(update=self.save('a.npz', state))
    self.assertIn('does not sum to zero', ' '.join(capture.notes))

  @parameterized.parameters(True, False)
  def test_a_likely_swap_is_said(self, swapped):
    state = clients.subtract(BEFORE, AFTER)
    labels = np.float32(COUNTS.max() == COUNTS)
    state['fc2.bias'] = np.float32(1 / K - labels) * (-1 if swapped else 1)
    capture = messages.read(update=self.save('a.npz', state), num_classes=K)
    self.assertEqual('swapped' in ' '.join(capture.notes), swapped)

  def test_many_are_read_in_the_order_of_their_numbers(self):
    for i in (1, 2, 10):
      after = AFTER | {'fc2.bias': BEFORE['fc2.bias'] - i * UPDATE['bias']}
      save(self.dir / f'round_{i}.npz', after)
    before = save(self.dir / 'server.npz', BEFORE)
    pattern = str(self.dir / 'round_*.npz')
    captures = messages.read_many(before, pattern)
    self.assertLen(captures, 3)
    for i, capture in zip((1, 2, 10), captures):
      np.testing.assert_allclose(
        capture.update['bias'], i * UPDATE['bias'], atol=1e-6
      )
    listed = messages.read_many(
      [before, before], [self.dir / 'round_2.npz'] * 2
    )
    np.testing.assert_array_equal(
      listed[1].update['bias'], captures[1].update['bias']
    )

  def test_many_of_no_match_or_other_heads_are_refused(self):
    before = self.save('a.npz', BEFORE)
    after = self.save('a.npz', AFTER)
    other = self.save('a.npz', {'head.weight': UPDATE['kernel'].T})
    same = self.save('a.npz', {'fc2.weight': UPDATE['kernel'].T})
    for options, expected in (
      (dict(before=before, after=str(self.dir / '*.bla')), 'matches no file'),
      (dict(before=[before] * 2, after=[after] * 3), '2 files .* fit 3'),
      (dict(before=before), 'fit 0'),
      (dict(update=[same, other]), f'{other} has the head .* and {same} '),
    ):
      with self.assertRaisesRegex(InputError, expected) as caught:
        messages.read_many(**options)
      self.assertNotIn('\n', str(caught.exception))

  def test_the_two_lines_convert_a_pickle(self):
    path = str(self.dir / 'client.pkl')
    with open(path, 'wb') as file:
      pickle.dump(BEFORE, file)
    with self.assertRaisesRegex(InputError, 'not read') as caught:
      messages.read(path, path)
    for line in re.findall('`(.+?)`', str(caught.exception)):
      exec(line, scope := locals().get('scope', {}))
    converted = np.load(self.dir / 'client.npz')
    np.testing.assert_array_equal(converted['fc2.bias'], BEFORE['fc2.bias'])


@pytest.mark.torch
@pytest.mark.parametrize('suffix', ['.pt', '.bin', '.ckpt'])
def test_the_two_lines_convert_what_torch_saved(tmp_path, suffix):
  torch = pytest.importorskip('torch')
  model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
  before, after = tmp_path / 'before.npz', tmp_path / f'after{suffix}'
  np.savez(before, **{k: v.numpy() for k, v in model.state_dict().items()})
  optimizer = torch.optim.SGD(model.parameters(), 0.1)
  logits = model(torch.randn(8, 4))
  torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1] * 4)).backward()
  optimizer.step()
  state = model.state_dict()
  torch.save({'state_dict': state} if suffix == '.ckpt' else state, after)
  with pytest.raises(InputError) as caught:
    messages.read(before, after)
  lines, scope = re.findall('`(.+?)`', str(caught.value)), {}
  assert len(lines) == 2
  for line in lines:
    exec(line, scope)
  capture = messages.read(before, tmp_path / 'after.npz', num_classes=3)
  for leaf, gradient in zip(
    ('kernel', 'bias'), (model[1].weight.grad.T, model[1].bias.grad)
  ):
    np.testing.assert_allclose(capture.update[leaf], 0.1 * gradient, atol=1e-6)
  assert 'num_batches_tracked rose by 1, the local steps.' in capture.notes


def test_no_heavy_library_is_imported():
  code = (
    'import sys, labelleak.messages; heavy = {"tensorflow_datasets", "orbax",'
    ' "dp_accounting", "torch", "flwr", "tensorflow"};'
    ' print(sorted(heavy & set(sys.modules)))'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == '[]'


if __name__ == '__main__':
  absltest.main()
