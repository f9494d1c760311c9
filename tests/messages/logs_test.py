"""Logs of a passive party: read as they are, or refused in one line."""

from collections.abc import Iterator
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak import messages
from labelleak.base import InputError
from labelleak.messages import bottoms
from tests.messages import clients
from tests.messages.clients import save

K, F, B = 3, 5, (4, 3)  # two steps, the second smaller
M = sum(B)


def make_log(hidden: int = 6) -> clients.State:
  """Makes a log with all arrays: an MLP, softmax cross entropy, K logits."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  x, rows = normal(M, F), rng.permutation(M).astype(np.int32)
  step = np.repeat([4, 9], B)
  params = {
    '0.weight': normal(2, hidden, F),
    '0.bias': normal(2, hidden),
    '2.weight': normal(2, K, hidden),
    '2.bias': normal(2, K),
  }
  y = jnp.eye(K)[rng.integers(K, size=M)]
  log = dict(step=step, row=rows, x=x, h=np.zeros((M, K), 'f4'))
  log['cut_grads'] = np.zeros((M, K), 'f4')
  grads = {name: np.zeros_like(value) for name, value in params.items()}
  for i in range(2):
    lines = step == step[4 * i]
    weights = {name: value[i] for name, value in params.items()}

    def embed(p, lines=lines):
      hidden = jax.nn.relu(x[lines] @ p['0.weight'].T + p['0.bias'][None])
      return hidden @ p['2.weight'].T + p['2.bias'][None]

    h, pull = jax.vjp(embed, weights)
    cut = (jax.nn.softmax(h + 0.3) - y[lines]) / lines.sum()
    log['h'][lines], log['cut_grads'][lines] = h, cut
    for name, value in pull(cut)[0].items():
      grads[name][i] = value
  log |= {f'params/{name}': value for name, value in params.items()}
  return log | {f'param_grads/{name}': value for name, value in grads.items()}


LOG = make_log()
CLEAR = {n: v for n, v in LOG.items() if '/' not in n and n != 'x'}
SEALED = {n: v for n, v in LOG.items() if n not in ('cut_grads', 'h')}


def _with(name, index, value, log=LOG):
  array = log[name].copy()
  array[index] = value
  return log | {name: array}


def _without(name, log=LOG):
  return {n: v for n, v in log.items() if n != name}


def malformed() -> Iterator[tuple[str, clients.State]]:
  """Yields what is wrong with a log: words of the refusal, the log."""
  for name in ('step', 'row'):
    yield f'lacks {name}', _without(name)
    yield f'{name} float', LOG | {name: LOG[name].astype('f4')}
    yield f'{name} .*integers', LOG | {name: LOG[name][:, None]}
    yield f'{name} .*integers', LOG | {name: LOG[name][:0]}
    yield f'{name} has -1', _with(name, 0, -1)
    yield (
      f'{name} has .*2147483648',
      _with(name, -1, 2**31, LOG | {name: LOG[name].astype('i8')}),
    )
  yield 'row U|row <U', LOG | {'row': LOG['row'].astype('U')}
  yield 'step falls from 9 to 4', _with('step', slice(0, 2), 9)
  yield 'stands 2 times in step 4', _with('row', 0, LOG['row'][1])
  for name in ('row', 'x', 'h', 'cut_grads'):
    yield f'{name}.* (line|shape)', LOG | {name: LOG[name][:-1]}
  yield 'x .*a line for each', LOG | {'x': LOG['x'].T}
  yield 'lacks cut_grads', _without('cut_grads', CLEAR)
  yield 'lacks x', _without('x', SEALED)
  yield (
    'lacks params/NAME',
    {n: v for n, v in SEALED.items() if not n.startswith('params/')},
  )
  yield "'labels'", LOG | {'labels': LOG['row']}
  yield "'cut_grad'", LOG | {'cut_grad': LOG['cut_grads']}
  yield "'params/'", LOG | {'params/': LOG['cut_grads']}
  for name in ('cut_grads', 'h', 'x', 'param_grads/2.bias', 'params/0.weight'):
    for value in (np.nan, np.inf):
      yield f'{name}.*not finite', _with(name, (0, 1), value)
  for name in ('cut_grads', 'h', 'param_grads/2.weight', 'params/0.bias'):
    for dtype in ('i4', 'i1', 'bool', 'c8'):
      word = np.dtype(dtype).name
      yield f'{name}.*{word}', LOG | {name: LOG[name].astype(dtype)}
  yield 'x.*bool', LOG | {'x': LOG['x'] > 0}
  yield 'cut_grads are 0', LOG | {'cut_grads': 0 * LOG['cut_grads']}
  yield 'cut_grads are h', LOG | {'cut_grads': LOG['h']}
  mean = np.broadcast_to(LOG['cut_grads'].mean(0), (M, K)).copy()
  yield 'alike in all 7 lines', LOG | {'cut_grads': mean}
  yield 'one shape', LOG | {'h': LOG['h'][:, :2]}
  yield r'\[M, D\]', LOG | {'cut_grads': LOG['cut_grads'][:, None]}
  yield r'\[M, D\]', LOG | {'cut_grads': LOG['cut_grads'][:, :0]}
  zeros = {n: 0 * v for n, v in LOG.items() if n.startswith('param_grads')}
  yield 'param_grads/ are 0 in step 4', LOG | zeros
  late = {name: np.stack([LOG[name][0], zeros[name][1]]) for name in zeros}
  yield 'param_grads/ are 0 in step 9', LOG | late
  for name in ('params/2.bias', 'param_grads/0.weight'):
    yield f'{name} .*one for each step', LOG | {name: LOG[name][0]}
    yield f'{name} .*one for each step', LOG | {name: LOG[name][:1]}
  yield 'differ in 2.bias', _without('params/2.bias')
  yield 'differ in 2.bias', _without('param_grads/2.bias')
  yield (
    'differ in 0.weight',
    LOG | {'param_grads/0.weight': LOG['param_grads/0.weight'][:, :, :4]},
  )


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_malformed_logs_are_refused(tmp_path, suffix):
  cases = [*malformed()]
  assert len({expected for expected, _ in cases}) >= 25
  for i, (expected, log) in enumerate(cases):
    if suffix == 'safetensors' and (
      log.get('row', LOG['row']).dtype.kind == 'U' or '2147483648' in expected
    ):
      continue  # neither of which that format, or its reader, has
    with pytest.raises(InputError) as error:
      messages.read_log(save(tmp_path / f'{i}.{suffix}', log))
    text = str(error.value)
    assert '\n' not in text and text.endswith('.'), text
    assert re.search(expected, text), (expected, text)


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_files_cut_anywhere_are_refused(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  data = pathlib.Path(save(path, LOG)).read_bytes()
  for size in (0, 1, 9, 100, len(data) // 2, len(data) - 1):
    path.write_bytes(data[:size])
    with pytest.raises(InputError, match=re.escape(str(path))):
      messages.read_log(path)


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'objects.npz'
  np.savez(path, step=np.array([None]), row=np.array([{}]))
  paths = {path: 'cannot be read', tmp_path / 'absent.npz': 'not exist'}
  paths[tmp_path / 'log.pt'] = 'np.savez'
  for path, expected in paths.items():
    with pytest.raises(InputError, match=expected):
      messages.read_log(path)


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_steps_are_read_as_they_were(tmp_path, suffix):
  log = messages.read_log(save(tmp_path / f'a.{suffix}', LOG))
  assert [step.number for step in log.steps] == [4, 9]
  assert [len(step.rows) for step in log.steps] == [*B]
  for i, step in enumerate(log.steps):
    lines = LOG['step'] == step.number
    for name in ('x', 'h', 'cut_grads'):
      np.testing.assert_array_equal(getattr(step, name), LOG[name][lines])
    np.testing.assert_array_equal(step.rows, LOG['row'][lines])
    np.testing.assert_array_equal(
      step.param_grads['2.bias'], LOG['param_grads/2.bias'][i]
    )
  assert not log.notes


def test_a_clear_log_needs_nothing_else(tmp_path):
  log = _without('h', CLEAR) | {'cut_grads': LOG['cut_grads'][:, 0].copy()}
  log['cut_grads'][2] = 0
  read = messages.read_log(save(tmp_path / 'a.npz', log))
  assert read.steps[0].cut_grads.shape == (4, 1)
  assert read.steps[0].h is None and read.steps[0].params == {}
  assert read.notes == ('1 of 7 lines have a cut gradient of 0.',)


def test_halves_are_widened_and_said_to_be(tmp_path):
  half = LOG | {'cut_grads': LOG['cut_grads'].astype(jnp.bfloat16)}
  for suffix in ('npz', 'safetensors'):
    path = tmp_path / f'a.{suffix}'
    save(path, half) if suffix == 'npz' else save(
      path, LOG | {'cut_grads': LOG['cut_grads'].astype('f2')}
    )
    log = messages.read_log(path)
    assert log.steps[0].cut_grads.dtype == np.float32
    np.testing.assert_allclose(
      log.steps[0].cut_grads, LOG['cut_grads'][:4], atol=1e-2
    )
    assert '16 bits' in log.notes[0]


class TestBottom:
  @pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
  @pytest.mark.parametrize('flax', [False, True])
  def test_layers_are_run_as_they_were(self, tmp_path, suffix, flax):
    log = LOG
    if flax:
      log = {n.replace('weight', 'kernel'): v for n, v in LOG.items()}
      for name in log:
        if 'kernel' in name:
          log[name] = log[name].swapaxes(1, 2)
    log = messages.read_log(save(tmp_path / f'a.{suffix}', log))
    bottom = bottoms.stack(log)
    for i, step in enumerate(log.steps):
      np.testing.assert_array_equal(bottoms.embed(log, bottom, i), step.h)
      variables = {'params': bottom.convert(step.params)}
      forward = lambda p, s=step: bottom.apply(
        {'params': p}, s.x, jax.random.key(0)
      )
      h, pull = jax.vjp(forward, variables['params'])
      np.testing.assert_allclose(h, step.h, rtol=1e-4, atol=1e-5)
      grads, true = pull(step.cut_grads)[0], bottom.convert(step.param_grads)
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        grads,
        true,
      )

  def test_a_model_of_the_package_is_run(self, tmp_path):
    names = {'0.': 'linear0.', '2.': 'head.'}
    log = {
      re.sub(r'(?<=/)[02]\.', lambda m: names[m[0]], n): v
      for n, v in LOG.items()
    }
    log = messages.read_log(save(tmp_path / 'a.npz', log))
    bottom = bottoms.load(log, dict(name='mlp2', num_classes=K, width=6))
    np.testing.assert_array_equal(bottoms.embed(log, bottom, 1), LOG['h'][4:])
    with pytest.raises(InputError, match='does not fit'):
      bottoms.load(log, dict(name='mlp', num_classes=K)).convert(
        log.steps[0].params
      )

  @pytest.mark.parametrize(
    ('change', 'expected'),
    [
      (lambda log: {'x': log['x'][:, :4]}, 'x has 4 features'),
      (lambda log: {'h': 2 * log['h']}, 'that is 0.5 times'),
      (
        lambda log: {
          'h': log['h'][:, :2],
          'cut_grads': log['cut_grads'][:, :2],
        },
        'that is inf times',
      ),
      (lambda log: _both('scale', np.ones((2, 3), 'f4')), 'no dense layer'),
      (
        lambda log: _both('9.weight', np.ones((2, 3, 2, 2, 2), 'f4')),
        'no dense',
      ),
      (lambda log: _both('9.bias', np.ones((2, 3), 'f4')), 'without a weight'),
      (
        lambda log: _both('2.kernel', np.ones((2, 3, 3), 'f4')),
        'second kernel',
      ),
      (lambda log: _both('2.bias', np.ones((2, 4), 'f4')), 'does not fit'),
      (lambda log: _both('9.weight', np.ones((2, 4, 4), 'f4')), 'one after'),
    ],
  )
  def test_what_is_no_such_bottom_is_refused(self, tmp_path, change, expected):
    log = messages.read_log(save(tmp_path / 'a.npz', LOG | change(LOG)))
    with pytest.raises(InputError, match=expected):
      bottoms.embed(log, bottoms.stack(log), 0)

  def test_another_activation_is_found_out(self, tmp_path):
    log = messages.read_log(save(tmp_path / 'a.npz', LOG))
    with pytest.raises(InputError, match='--activation'):
      bottoms.embed(log, bottoms.stack(log, activation='tanh'), 0)
    with pytest.raises(InputError, match='activation='):
      bottoms.stack(log, activation='gelu')


def _both(name, value):
  return {f'params/{name}': value, f'param_grads/{name}': value}


@pytest.mark.torch
@pytest.mark.parametrize('activation', ['relu', 'sigmoid', 'leaky', 'tanh'])
def test_a_party_of_torch_is_read_as_it_trained(tmp_path, activation):
  torch = pytest.importorskip('torch')
  layers = dict(
    relu=torch.nn.ReLU,
    sigmoid=torch.nn.Sigmoid,
    leaky=torch.nn.LeakyReLU,
    tanh=torch.nn.Tanh,
  )
  torch.manual_seed(0)
  net = torch.nn.Sequential(
    torch.nn.Linear(F, 7), layers[activation](), torch.nn.Linear(7, K)
  )
  optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
  arrays = {}
  keep = lambda name, value: arrays.setdefault(name, []).append(
    value.detach().numpy().copy()
  )
  for _ in range(2):
    x, y = torch.randn(6, F), torch.randint(K, (6,))
    h = net(x)
    h.retain_grad()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(h, y).backward()
    for name, value in dict(x=x, h=h, cut_grads=h.grad).items():
      keep(name, value)
    for name, parameter in net.named_parameters():
      keep(f'params/{name}', parameter)
      keep(f'param_grads/{name}', parameter.grad)
    optimizer.step()
  log = {
    name: np.stack(v) if '/' in name else np.concatenate(v)
    for name, v in arrays.items()
  }
  log |= dict(step=np.repeat([0, 1], 6), row=np.arange(12))
  log = messages.read_log(save(tmp_path / 'a.npz', log))
  bottom = bottoms.stack(log, activation=activation)
  for i, step in enumerate(log.steps):
    bottoms.embed(log, bottom, i)
    forward = lambda p, s=step: bottom.apply(
      {'params': p}, s.x, jax.random.key(0)
    )
    h, pull = jax.vjp(forward, bottom.convert(step.params))
    np.testing.assert_allclose(h, step.h, rtol=1e-4, atol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
      pull(step.cut_grads)[0],
      bottom.convert(step.param_grads),
    )
