"""Every kind of file that the package reads: small good ones, and their damage.

A `Kind` writes a good folder and reads it; `damages` yields what happens to
files: they are cut, lose a bit, are empty, absent, a folder, of another kind,
of another type, or hold NaN.
"""

from collections.abc import Iterator
import gzip
import io
import json
import pathlib
import shutil
import tarfile
from typing import NamedTuple, Protocol

from flax import traverse_util
import numpy as np
from PIL import Image
import safetensors.numpy

from labelleak import data
from labelleak.data import writing
from labelleak.data.reading import raw
from labelleak.models import weights

_CINIC = 'airplane automobile bird cat deer dog frog horse ship truck'
_NUS_WIDE = dict(CH=64, CM55=225, CORR=144, EDH=73, WT=128)
_VARIABLES = {
  'params': {
    'fc1': {'kernel': np.zeros((6, 4), 'f4'), 'bias': np.zeros(4, 'f4')},
    'bn1': {'scale': np.zeros(4, 'f4'), 'bias': np.zeros(4, 'f4')},
    'head': {'kernel': np.zeros((4, 3), 'f4'), 'bias': np.zeros(3, 'f4')},
  },
  'batch_stats': {'bn1': {'mean': np.zeros(4, 'f4'), 'var': np.ones(4, 'f4')}},
}


class Facts(NamedTuple):
  """What was read, as far as damage must not change it in silence.

  Attributes:
    shapes: of arrays, of an example, the number of classes.
    rows: how many.
    values: all numbers; finite.
  """

  shapes: tuple
  rows: int
  values: np.ndarray


class Write(Protocol):
  """Writes a good folder."""

  def __call__(self, root: pathlib.Path, rng: np.random.Generator) -> None: ...


class Read(Protocol):
  """Reads a folder."""

  def __call__(self, root: pathlib.Path) -> Facts: ...


class Kind(NamedTuple):
  """A kind of file, or of folder."""

  write: Write
  read: Read
  loose: bool = False  # lines or files, of which there may be fewer


def _state(rng):
  shapes = {'fc1.weight': (4, 6), 'fc1.bias': (4,)}
  shapes |= {'head.weight': (3, 4), 'head.bias': (3,)}
  for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
    shapes[f'bn1.{leaf}'] = (4,)
  return {k: np.float32(rng.normal(size=s)) for k, s in shapes.items()}


def _weights(suffix, read):
  """A file of tensors."""

  def write(root, rng):
    if suffix == 'npz':
      np.savez(root / 'file.npz', **_state(rng))
    else:
      safetensors.numpy.save_file(_state(rng), root / 'file.safetensors')

  def facts(root):
    leaves = read(root / f'file.{suffix}')
    flat = np.concatenate([np.ravel(v) for v in leaves.values()])
    return Facts(tuple((k, v.shape) for k, v in leaves.items()), 1, flat)

  return Kind(write, facts)


def _load(path):
  variables = weights.load(path, _VARIABLES)
  return traverse_util.flatten_dict(variables, sep='/')


def _head(path):
  return weights.head(path, kernel='head.weight', bias='head.bias')


def _source(name, splits=('train', 'test'), **options):
  """Reads all splits of a data set that lies below the root."""

  def read(root):
    sources = [
      data.load(name, path=str(root), split=split, **options)
      for split in splits
    ]
    return _facts(sources)

  return read


def _facts(sources):
  x = [source.take(np.arange(len(source.y))) for source in sources]
  for source, taken in zip(sources, x):
    assert taken.shape == (len(source.y), *source.shape)
    assert (source.y >= 0).all() and (source.y < source.num_classes).all()
  return Facts(
    tuple((source.shape, source.num_classes) for source in sources),
    sum(len(source.y) for source in sources),
    np.concatenate([*map(np.ravel, x), *(source.y for source in sources)]),
  )


def _images(rng, num, side, channels=3):
  x = rng.integers(0, 256, (num, side, side, channels), np.uint8)
  return raw.Images(x, np.arange(num, dtype=np.uint8) % 3)


def _tfds(root, rng):
  splits = dict(train=_images(rng, 4, 6), test=_images(rng, 3, 6))
  writing.write(root / 'mine' / '1.0.0', 'mine', splits, num_classes=3)


def _read_tfds(root):
  options = dict(data_dir=str(root))
  return _facts(
    [data.load('mine', split=s, **options) for s in ('train', None)]
  )


def _mnist(root, rng):
  for split, part in raw.DISTRIBUTIONS['mnist'].splits.items():
    x, y = _images(rng, 3 + len(split), 28, 1)
    for name, array in zip(part.files, (x[..., 0], y)):
      header = np.array([0x800 + array.ndim, *array.shape], '>u4').tobytes()
      (root / name).write_bytes(gzip.compress(header + array.tobytes()))


def _cifar(root, rng):
  with tarfile.open(root / 'cifar-100-binary.tar.gz', 'w:gz') as tar:
    for name in ('train.bin', 'test.bin'):
      rows = rng.integers(0, 20, (3, 3074)).astype(np.uint8).tobytes()
      info = tarfile.TarInfo(f'cifar-100-binary/{name}')
      info.size = len(rows)
      tar.addfile(info, io.BytesIO(rows))


def _prepared(name):
  def read(root):
    target = root.parent / 'prepared'
    shutil.rmtree(target, ignore_errors=True)
    options = dict(data_dir=str(target))
    writing.prepare(name, source=str(root), **options)
    return _facts(
      [data.load(name, split=s, **options) for s in ('train', None)]
    )

  return read


def _criteo(root, rng):
  rows = rng.integers(0, 99, (20, 39))
  lines = [
    '\t'.join([str(i % 2), *map(str, row)]) for i, row in enumerate(rows)
  ]
  (root / 'train.txt').write_text('\n'.join(lines) + '\n')


def _nus_wide(root, rng):
  def put(name, rows):
    file = root / name
    file.parent.mkdir(exist_ok=True, parents=True)
    np.savetxt(file, rows, '%.4g')

  for part in ('Train', 'Test'):
    for i, concept in enumerate(('clouds', 'person')):
      marks = np.arange(4) % 2 == i
      put(f'Groundtruth/TrainTestLabels/Labels_{concept}_{part}.txt', marks)
    put(f'NUS_WID_Tags/{part}_Tags1k.dat', rng.integers(0, 2, (4, 1000)))
    for kind, width in _NUS_WIDE.items():
      values = rng.normal(size=(4, width))
      put(f'Low_Level_Features/{part}_Normalized_{kind}.dat', values)


def _picture(file, rng, side):
  file.parent.mkdir(exist_ok=True, parents=True)
  pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
  Image.fromarray(pixels).save(file)


def _tiny_imagenet(root, rng):
  wnids, notes = ['n03', 'n01'], []
  for k, wnid in enumerate(wnids):
    _picture(root / f'train/{wnid}/images/{wnid}_0.JPEG', rng, 64)
    _picture(root / f'val/images/val_{k}.JPEG', rng, 64)
    notes.append(f'val_{k}.JPEG\t{wnid}\t0\t0\t62\t62\n')
  (root / 'wnids.txt').write_text('\n'.join(wnids) + '\n')
  (root / 'val/val_annotations.txt').write_text(''.join(notes))


def _cinic10(root, rng):
  for part in ('train', 'valid', 'test'):
    for name in _CINIC.split():
      _picture(root / part / name / 'a.png', rng, 32)


def _histopathology(root, rng):
  for patient in ('8863', '8864'):
    for i in range(10):
      file = f'{patient}/{i % 2}/{patient}_x{i}_class{i % 2}.png'
      _picture(root / file, rng, 50)


def _yahoo(root, rng):
  for name in ('train.csv', 'test.csv'):
    words = rng.choice(['what', 'is "" it', 'a, b', '\\n', 'Ü'], (12, 3))
    lines = [
      ','.join(f'"{field}"' for field in (i % 10 + 1, *row))
      for i, row in enumerate(words)
    ]
    (root / name).write_text('\n'.join(lines) + '\n', encoding='utf-8')
  vocab = '[PAD]', '[UNK]', '[CLS]', 'what', 'is', 'it'
  (root / 'vocab.txt').write_text('\n'.join(vocab) + '\n')


def _read_yahoo(root):
  words = _source('yahoo_answers', length=4)(root)
  vocab = str(root / 'vocab.txt')
  pieces = _source('yahoo_answers', ('test',), length=4, vocab=vocab)(root)
  assert pieces.shapes[0] == words.shapes[0]
  return words


KINDS = {
  'weights.npz': _weights('npz', _load),
  'weights.safetensors': _weights('safetensors', _load),
  'head.npz': _weights('npz', _head),
  'head.safetensors': _weights('safetensors', _head),
  'prepared': Kind(_tfds, _read_tfds),
  'mnist': Kind(_mnist, _prepared('mnist')),
  'cifar100': Kind(_cifar, _prepared('cifar100')),
  'criteo': Kind(_criteo, _source('criteo', rows=10), loose=True),
  'nus_wide': Kind(_nus_wide, _source('nus_wide', classes=2), loose=True),
  'tiny_imagenet': Kind(_tiny_imagenet, _source('tiny_imagenet'), loose=True),
  'cinic10': Kind(_cinic10, _source('cinic10')),
  'breast_histopathology': Kind(
    _histopathology, _source('breast_histopathology', patches=1), loose=True
  ),
  'yahoo_answers': Kind(_yahoo, _read_yahoo, loose=True),
}


def damages(
  file: pathlib.Path, rng: np.random.Generator, strangers: list[bytes]
) -> Iterator[str]:
  """Damages a file in one way after the other; yields the name of each.

  The caller reads the folder in between; the file is good again at the end.

  Args:
    file: a good one.
    rng: where it is cut, and which bit is flipped.
    strangers: files of other kinds.
  """
  good = file.read_bytes()
  place = int(rng.integers(len(good)))
  flipped = bytearray(good)
  flipped[place] ^= 1 << int(rng.integers(8))
  contents = {
    f'cut at {place}': good[:place],
    f'flipped at {place}': bytes(flipped),
    'empty': b'',
    'text': b'no such data\n',
    'json': json.dumps({'a': [1, None]}).encode(),
    'noise': rng.bytes(300),
    'stranger': strangers[int(rng.integers(len(strangers)))],
    'twice': good + good,
    **_retyped(file, good, rng),
  }
  for name, changed in contents.items():
    if changed != good:
      file.write_bytes(changed)
      yield f'{file.name} {name}'
  file.unlink()
  yield f'{file.name} absent'
  file.mkdir()
  yield f'{file.name} a folder'
  file.rmdir()
  file.write_bytes(good)


def _retyped(file, good, rng):
  """Values of another type, or not finite, where a file holds numbers."""
  if file.suffix in ('.npz', '.safetensors'):
    return dict(_tensors(file, rng))
  if file.suffix in ('.txt', '.dat', '.csv', '.json'):
    words = good.split(b'\t' if b'\t' in good else None)
    word = words[int(rng.integers(len(words)))].strip()
    at = good.index(word)
    head, tail = good[:at], good[at + len(word) :]
    values = (b'nan', b'inf', b'-1', b'1e999', b'../x', b'')
    return {f'{v} for {word[:9]}': head + v + tail for v in values}
  if file.suffix in ('.png', '.JPEG'):
    deep = io.BytesIO()
    pixels = rng.integers(0, 65536, (50, 50)).astype(np.uint16)
    Image.fromarray(pixels).save(deep, 'png')
    return {'16 bits': deep.getvalue()}
  return {}


def _tensors(file, rng):
  """A file of tensors, one of them of another type."""
  if file.suffix == '.npz':
    with np.load(file) as f:
      state = dict(f)
  else:
    state = safetensors.numpy.load_file(file)
  name = ('head.weight', 'head.bias')[int(rng.integers(2))]
  changes = {
    kind: np.ones_like(state[name], kind)
    for kind in ('int8', 'uint8', 'int64', 'bool')
  }
  changes |= {
    f'{value}': np.full_like(state[name], value) for value in (np.nan, np.inf)
  }
  changes |= {
    'stacked': np.stack([state[name]] * 2),
    'flat': state[name].ravel()[:-1],
    'scalar': np.float32(1.0),
  }
  if file.suffix == '.npz':
    changes |= {
      'complex64': state[name].astype('complex64'),
      'text': np.array(['a', 'b']),
    }
  for kind, value in changes.items():
    buffer = io.BytesIO()
    if file.suffix == '.npz':
      np.savez(buffer, **state | {name: value})
      yield f'{name} {kind}', buffer.getvalue()
    else:
      value = np.ascontiguousarray(value)
      yield f'{name} {kind}', safetensors.numpy.save(state | {name: value})
