"""Malformed captures end in one line, and never in a number."""

from collections.abc import Iterator
import json
import pathlib
import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest

from labelleak import messages
from labelleak.base import InputError
from tests.messages import clients
from tests.messages.clients import H, K, save

BEFORE, AFTER, UPDATE = clients.models()
WHOLE = clients.subtract(BEFORE, AFTER)
HEAD = {'fc2.weight': WHOLE['fc2.weight'], 'fc2.bias': WHOLE['fc2.bias']}
FORMATS = 'npz', 'safetensors', 'safetensors.index.json', 'flwr'
CUTS = 8  # of each format
FLIPS = 60


def _without(state, *names):
  return {name: value for name, value in state.items() if name not in names}


def _with(state, name, index, value):
  array = state[name].copy()
  array.flat[index] = value
  return state | {name: array}


def _reset(state):
  """Makes of a model what initialisation leaves: norms and biases constant."""
  ones = {'bn.weight': np.ones(4, 'f4')}
  return state | ones | {n: 0 * v for n, v in state.items() if 'bias' in n}


def _cast(state, name, dtype):
  return state | {name: (100 * state[name]).astype(dtype)}


def _pairs() -> Iterator[tuple[str, dict, dict, dict]]:
  """Yields what is wrong with two models: a word, before, after, options."""
  yield 'wrong order', AFTER, BEFORE, {}
  yield (
    'wrong order',
    *(_without(s, 'bn.num_batches_tracked') for s in (AFTER, _reset(BEFORE))),
    {},
  )
  yield 'no change', BEFORE, BEFORE, {}
  still = AFTER | {n: BEFORE[n] for n in HEAD}
  yield 'an update of 0', BEFORE, still, dict(num_classes=K)
  yield 'each of which may be', BEFORE, still, {}
  for name in (
    'fc2.weight',
    'fc2.bias',
    'fc1.weight',
    'conv.bias',
    'bn.weight',
  ):
    yield f'{name} .*absent', BEFORE, _without(AFTER, name), {}
    yield f'{name} .*absent', _without(BEFORE, name), AFTER, {}
  yield 'fc2', BEFORE, AFTER | {'fc2.weight': np.ones((K, H + 1), 'f4')}, {}
  yield 'fc2', BEFORE, AFTER | {'fc2.weight': AFTER['fc2.weight'].T}, {}
  yield 'fc2', BEFORE, AFTER | {'fc2.bias': np.ones(K + 1, 'f4')}, {}
  yield (
    'fc1',
    BEFORE,
    {
      n.replace('fc2', 'head'): v
      for n, v in _without(AFTER, 'fc1.bias').items()
    },
    {},
  )
  yield 'extra', BEFORE, AFTER | {'extra.weight': np.ones((3, 3), 'f4')}, {}
  yield 'model.', BEFORE, {f'model.{n}': v for n, v in AFTER.items()}, {}
  yield 'twice', BEFORE, AFTER | {'module.fc2.bias': AFTER['fc2.bias']}, {}
  yield 'twice', BEFORE | {'_orig_mod.conv.bias': AFTER['conv.bias']}, AFTER, {}
  for value in (np.nan, np.inf, -np.inf):
    for name in ('fc2.bias', 'fc2.weight', 'conv.weight'):
      yield f'{name}.* finite', BEFORE, _with(AFTER, name, 1, value), {}
  yield 'fc2.bias.* finite', _with(BEFORE, 'fc2.bias', 1, np.nan), AFTER, {}
  for dtype in ('int8', 'uint8', 'int64', 'bool'):
    word = dtype.removesuffix('64')  # JAX narrows int64
    yield f'fc2.weight.* {word}', BEFORE, _cast(AFTER, 'fc2.weight', dtype), {}
    yield f'fc2.bias.* {word}', BEFORE, _cast(AFTER, 'fc2.bias', dtype), {}
  yield (
    'fc1.weight.* int8',
    _cast(BEFORE, 'fc1.weight', 'int8'),
    _cast(AFTER, 'fc1.weight', 'int8'),
    {},
  )
  yield (
    'not one of|or the reverse',
    BEFORE,
    WHOLE | {n: BEFORE[n] for n in BEFORE if n not in WHOLE},
    {},
  )
  yield 'times', BEFORE, {n: 100 * v for n, v in AFTER.items()}, {}
  yield (
    'finite',
    BEFORE | {'fc1.bias': np.full(H, 3e38, 'f4')},
    AFTER | {'fc1.bias': np.full(H, -3e38, 'f4')},
    {},
  )
  stacked = [
    {n: np.stack([v, v]) for n, v in s.items()} for s in (BEFORE, AFTER)
  ]
  yield 'holds no linear layer', *stacked, {}
  flat = [
    {'model.weight': np.concatenate([v.ravel() for v in s.values()])}
    for s in (BEFORE, AFTER)
  ]
  yield 'holds no linear layer', *flat, {}
  two = [s | {'fc.weight': s['fc2.weight']} for s in (BEFORE, AFTER)]
  yield (
    'each of which may be',
    *(
      {f'{c}.weight': c2 * s['fc2.weight'] for c, c2 in (('a', 1), ('b', 2))}
      for s in two
    ),
    {},
  )
  for wrong in (7, 11, 100, H):
    yield (
      f'num_classes={wrong}|sum to zero',
      BEFORE,
      AFTER,
      dict(num_classes=wrong),
    )
  adam = AFTER | {n: BEFORE[n] - np.sign(v) / 100 for n, v in WHOLE.items()}
  yield 'takes its outputs', BEFORE, adam, dict(num_classes=H)
  for wrong in (0, 1, -3, 2.5, 'ten', float('nan')):
    yield 'num_classes=', BEFORE, AFTER, dict(num_classes=wrong)
  yield "no 'fc3.weight'", BEFORE, AFTER, dict(kernel='fc3.weight')
  yield "no 'fc3.bias'", BEFORE, AFTER, dict(bias='fc3.bias')
  yield 'dimensions', BEFORE, AFTER, dict(kernel='conv.weight')
  yield 'dimensions', BEFORE, AFTER, dict(bias='fc1.weight')
  yield 'do not fit', BEFORE, AFTER, dict(kernel='fc2.weight', bias='conv.bias')
  yield 'do not fit', BEFORE, AFTER, dict(kernel='fc1.weight', num_classes=K)
  yield "no 'bn.running_mean'", BEFORE, AFTER, dict(bias='bn.running_mean')


def _updates() -> Iterator[tuple[str, dict, dict]]:
  """Yields what is wrong with an update: a word, the update, options."""
  yield 'a model', _without(AFTER, 'bn.running_mean'), {}
  yield 'no change', {n: 0 * v for n, v in WHOLE.items()}, {}
  still = WHOLE | {n: 0 * HEAD[n] for n in HEAD}
  yield 'an update of 0', still, dict(num_classes=K)
  yield 'each of which may be', still, {}
  yield 'finite', {n: v * np.float32(np.nan) for n, v in WHOLE.items()}, {}
  yield 'int32', {n: (1e4 * v).astype('i4') for n, v in WHOLE.items()}, {}
  yield 'sign=', WHOLE, dict(sign='minus')
  yield 'holds no linear layer', {'norm.weight': HEAD['fc2.bias']}, {}
  yield 'holds no linear layer', {'arr_0': HEAD['fc2.bias']}, {}
  yield (
    'one output',
    {'fc.weight': HEAD['fc2.weight'][:1], 'fc.bias': HEAD['fc2.bias'][:1]},
    {},
  )
  yield (
    r'\[K, H\] or a kernel',
    {'arr_0': np.float32([[1, 2], [3, 4]])},
    dict(num_classes=2),
  )
  yield 'float8|not floats|V1', {'fc.bias': HEAD['fc2.bias'].astype('S4')}, {}
  yield 'complex', {'fc.bias': HEAD['fc2.bias'] * 1j}, {}
  yield 'printable', HEAD | {'two\nlines.weight': HEAD['fc2.weight']}, {}
  numbers = {f'arr_{i}': v for i, v in enumerate(WHOLE.values())}
  yield 'names= has 2 names for the 8', numbers, dict(names=['a', 'b'])
  yield 'names= has 7 names', numbers, dict(names=[*WHOLE][:7] + [*WHOLE][:1])
  yield 'list of 7 arrays', _without(numbers, 'arr_3'), {}
  yield 'cannot be read', numbers, dict(names='/does/not/exist.txt')
  yield 'arr_6.* int8', _cast(numbers, 'arr_6', 'int8'), {}


def _refuse(expected, *args, **options):
  """Reads, and returns the one line that refuses."""
  try:
    capture = messages.read(*args, **options)
  except InputError as e:
    text = str(e)
    assert '\n' not in text, text
    assert '; ' in text and text.endswith('.'), text
    assert re.search(expected, text), (expected, text)
    return text
  raise AssertionError(f'{expected}: {capture.names} {capture.notes}')


@pytest.mark.parametrize('suffix', FORMATS)
def test_malformed_models_are_refused(tmp_path, suffix):
  cases = [*_pairs()]
  assert len(cases) >= 60
  for i, (expected, before, after, options) in enumerate(cases):
    folders = tmp_path / f'{i}a', tmp_path / f'{i}b'
    for folder in folders:
      folder.mkdir()
    paths = [
      save(f / f'a.{suffix}', s) for f, s in zip(folders, (before, after))
    ]
    _refuse(expected, *paths, **options)


@pytest.mark.parametrize('before', [False, True])
def test_malformed_updates_are_refused(tmp_path, before):
  server = save(tmp_path / 'server.npz', BEFORE) if before else None
  for i, (expected, update, options) in enumerate(_updates()):
    path = save(tmp_path / f'{i}.npz', update)
    expected = expected if not before else f'{expected}|differ'
    _refuse(expected, server, update=path, **options)


def test_updates_of_an_absurd_scale_are_refused(tmp_path):
  server = save(tmp_path / 'server.npz', BEFORE)
  for scale, expected in ((1e4, 'times its size'), (-1e4, 'times its size')):
    path = save(tmp_path / 'u.npz', {n: scale * v for n, v in WHOLE.items()})
    _refuse(expected, server, update=path)
  weights = {n: BEFORE[n] + 0.1 * WHOLE[n] for n in HEAD}
  path = save(tmp_path / 'w.npz', weights)
  _refuse('holds a model', server, update=path)
  negative = save(tmp_path / 'n.npz', {n: -v for n, v in weights.items()})
  _refuse('holds a model', server, update=negative, sign='client-server')


def test_arguments_that_do_not_fit_are_refused(tmp_path):
  path = save(tmp_path / 'a.npz', BEFORE)
  for options in (
    {},
    dict(before=path),
    dict(after=path),
    dict(before=path, after=path, update=path),
  ):
    _refuse('before= and after=', **options)


@pytest.mark.parametrize('suffix', FORMATS)
def test_files_cut_anywhere_are_refused(tmp_path, suffix):
  for name, state in (('before', BEFORE), ('after', AFTER)):
    (tmp_path / name).mkdir()
    save(tmp_path / name / f'a.{suffix}', state)
  before = tmp_path / 'before' / f'a.{suffix}'
  rng = np.random.default_rng(0)
  for path in sorted((tmp_path / 'after').iterdir()):
    data = path.read_bytes()
    for size in [
      0,
      1,
      7,
      9,
      len(data) - 1,
      *rng.integers(len(data), size=CUTS),
    ]:
      path.write_bytes(data[:size])
      _refuse('', before, tmp_path / 'after' / f'a.{suffix}')
    path.write_bytes(data)
  messages.read(before, tmp_path / 'after' / f'a.{suffix}')


@pytest.mark.parametrize('suffix', ['npz', 'safetensors', 'flwr'])
def test_flipped_bits_are_refused_or_leave_a_finite_capture(tmp_path, suffix):
  before = save(tmp_path / f'before.{suffix}', BEFORE)
  after = tmp_path / f'after.{suffix}'
  data = pathlib.Path(save(after, AFTER)).read_bytes()
  rng = np.random.default_rng(0)
  for place in rng.integers(min(len(data), 4000), size=FLIPS):
    flipped = bytearray(data)
    flipped[place] ^= 1 << rng.integers(8)
    after.write_bytes(flipped)
    try:
      capture = messages.read(before, after, num_classes=K)
    except InputError as e:
      assert '\n' not in str(e)
      continue
    assert capture.update['kernel'].shape == (H, K), place
    assert all(np.isfinite(v).all() for v in capture.update.values())


def test_records_cut_between_arrays_are_refused(tmp_path):
  data = clients.flower_record(AFTER)
  short = clients.flower_record(dict([*AFTER.items()][:-1]))
  assert data.startswith(short)
  before, after = save(tmp_path / 'b.npz', BEFORE), tmp_path / 'a.flwr'
  after.write_bytes(data)
  messages.read(before, after)
  after.write_bytes(short)
  _refuse(r'fc2.bias \(.*absent', before, after)


@pytest.mark.parametrize(
  'suffix', ['npz', 'flwr', 'safetensors', 'safetensors.index.json']
)
def test_other_contents_are_refused(tmp_path, suffix):
  before = save(tmp_path / 'before.npz', BEFORE)
  path = tmp_path / f'a.{suffix}'
  stranger = save(tmp_path / ('b.npz' if suffix != 'npz' else 'b.flwr'), AFTER)
  rng = np.random.default_rng(0)
  for content in (
    b'text\n',
    b'{}',
    b'[]',
    b'{"weight_map": {}}',
    b'{"weight_map": {"a": "../b.safetensors"}}',
    b'{"weight_map": {"a": "absent.safetensors"}}',
    b'{"weight_map": {"a": "a.safetensors.index.json"}}',
    b'{"weight_map": {"a": 3}}',
    b'{"weight_map": {"a": "b", "a": "b"}}',
    pickle.dumps(AFTER),
    pathlib.Path(stranger).read_bytes(),
    *(rng.bytes(n) for n in (1, 2, 10, 100, 1000)),
  ):
    path.write_bytes(content)
    _refuse('a.', before, path)


def test_paths_that_hold_no_file_are_refused(tmp_path):
  before = save(tmp_path / 'before.npz', BEFORE)
  for name, expected in (
    ('absent.npz', 'does not exist'),
    ('absent.flwr', 'does not exist'),
    ('folder', 'is a folder'),
    ('folder.npz', 'is a folder'),
  ):
    if 'folder' in name:
      (tmp_path / name).mkdir()
    _refuse(expected, before, tmp_path / name)
    _refuse(expected, update=tmp_path / name)
  for suffix in ('.pt', '.pth', '.bin', '.ckpt', '.pkl', '.pickle'):
    path = shutil.copy(before, tmp_path / f'a{suffix}')
    _refuse('np.savez', before, path)
  for suffix in ('.npy', '.h5', '.msgpack', '.gguf', '.json', ''):
    path = shutil.copy(before, tmp_path / f'b{suffix}')
    _refuse('is none of', before, path)


def test_names_that_stand_twice_are_refused(tmp_path):
  before = save(tmp_path / 'before.npz', BEFORE)
  after = save(tmp_path / 'after.npz', AFTER)
  with zipfile.ZipFile(after) as file:
    data = file.read('fc2.bias.npy')
  with pytest.warns(UserWarning), zipfile.ZipFile(after, 'a') as file:
    file.writestr('fc2.bias.npy', data)
  _refuse('one name', before, after)
  record = clients.flower_record(AFTER) + clients.flower_record(HEAD)
  (tmp_path / 'a.flwr').write_bytes(record)
  _refuse('two of its items', before, tmp_path / 'a.flwr')
  (tmp_path / 'b.flwr').write_bytes(2 * clients.flower_dict(AFTER))
  _refuse('two of its items', before, tmp_path / 'b.flwr')


def test_shards_of_two_savings_are_refused(tmp_path):
  for name, state in (('before', BEFORE), ('after', AFTER)):
    (tmp_path / name).mkdir()
    save(tmp_path / name / 'a.safetensors.index.json', state)
  before, after = (
    tmp_path / n / 'a.safetensors.index.json' for n in ('before', 'after')
  )
  index = json.loads(after.read_text())
  shard = after.parent / 'model-00002-of-00002.safetensors'
  save(shard, HEAD)
  _refuse('differ in', before, after)
  shard.unlink()
  _refuse('does not exist', before, after)
  index['weight_map'] = dict.fromkeys(AFTER, 'model-00001-of-00002.safetensors')
  after.write_text(json.dumps(index))
  _refuse('differ in', before, after)


def test_arrays_that_are_not_as_flower_says_are_refused(tmp_path):
  before = save(tmp_path / 'before.npz', BEFORE)
  data = clients.flower_dict(AFTER)
  path = tmp_path / 'a.flwr'
  for old, new in (
    (b'float32', b'float16'),
    (b'numpy.ndarray', b'numpy.objarra'),
    (b'NUMPY', b'NUMPX'),
    (b"'<f4'", b"'|O4'"),
    (b"'<f4'", b"'<i4'"),
    (b'(10, 12)', b'(12, 10)'),
  ):
    assert old in data
    path.write_bytes(data.replace(old, new))
    _refuse('a.flwr', before, path)
