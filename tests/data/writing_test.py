"""Data sets from their makers' files: what is read is what was distributed."""

import gzip
import io
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest

from labelleak import data
from labelleak.base import InputError
from labelleak.data import __main__ as command
from labelleak.data import writing
from labelleak.data.reading import raw


def idx(array):
  """The bytes of an IDX file."""
  header = [0x800 + array.ndim, *array.shape]
  return gzip.compress(np.array(header, '>u4').tobytes() + array.tobytes())


def archive(contents):
  """A .tar.gz of name -> bytes, in a folder."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w:gz') as tar:
    for name, text in contents.items():
      info = tarfile.TarInfo(f'folder/{name}')
      info.size = len(text)
      tar.addfile(info, io.BytesIO(text))
  return file.getvalue()


def distribute(folder, name, num=12):
  """Writes small files of a distribution; returns split -> images, labels."""
  folder.mkdir()
  rng, truth, members = np.random.default_rng(0), {}, {}
  side, channels = (28, 1) if 'mnist' in name else (32, 3)
  for split, part in raw.DISTRIBUTIONS[name].splits.items():
    count = num if split == 'train' else num // 2
    x = rng.integers(0, 256, (count, side, side, channels), np.uint8)
    y = rng.integers(0, 10, count).astype(np.uint8)
    truth[split] = x, y
    if channels == 1:
      (folder / part.files[0]).write_bytes(idx(x[..., 0]))
      (folder / part.files[1]).write_bytes(idx(y))
      continue
    rows = x.transpose(0, 3, 1, 2).reshape(count, -1)
    coarse = [] if name == 'cifar10' else [y[:, None] // 5]
    rows = np.concatenate([*coarse, y[:, None], rows], 1)
    names = part.read.keywords['names']
    for each, chunk in zip(names, np.array_split(rows, len(names))):
      members[each] = chunk.tobytes()
    (folder / part.files[0]).write_bytes(archive(members))
  return truth


def refuse(name, folder, root):
  with pytest.raises(InputError) as caught:
    writing.prepare(name, data_dir=str(root), source=str(folder))
  assert '\n' not in str(caught.value)
  assert not [*root.glob('**/dataset_info.json')]
  return str(caught.value)


@pytest.mark.parametrize(
  'name', ['mnist', 'fashion_mnist', 'cifar10', 'cifar100']
)
def test_what_is_read_is_what_was_distributed(name, tmp_path):
  truth = distribute(tmp_path / 'files', name)
  root = tmp_path / 'tfds'
  options = dict(data_dir=str(root), source=str(tmp_path / 'files'))
  directory = writing.prepare(name, **options)
  assert directory == writing.prepare(name, **options)  # once
  for split, (x, y) in truth.items():
    source = data.load(name, split=split, data_dir=str(root), normalise=False)
    assert source.num_classes == (100 if name == 'cifar100' else 10)
    assert (source.name, source.shape) == (name, x.shape[1:])
    np.testing.assert_array_equal(source.y, y)
    taken = source.take(np.arange(len(y))) * 255
    np.testing.assert_allclose(taken, x, atol=1e-3)
  assert [path.name for path in root.iterdir()] == [name]  # nothing is left


def test_damaged_files_are_refused_and_nothing_is_left(tmp_path):
  folder, root = tmp_path / 'files', tmp_path / 'tfds'
  distribute(folder, 'mnist')
  images = folder / 'train-images-idx3-ubyte.gz'
  labels = folder / 'train-labels-idx1-ubyte.gz'
  good = images.read_bytes(), labels.read_bytes()
  plain = gzip.decompress(good[0])
  for contents, text in (
    (good[0][:40], 'no gzip file'),
    (b'', 'no IDX file'),
    (plain, 'no gzip file'),
    (gzip.compress(plain[:-1]), 'no IDX file of bytes with 3 axes'),
    (gzip.compress(plain[:7]), 'no IDX file'),
    (gzip.compress(plain + b'0'), 'no IDX file'),
    (good[1], 'no IDX file of bytes with 3 axes'),
  ):
    images.write_bytes(contents)
    assert text in refuse('mnist', folder, root)
  images.write_bytes(good[0])
  labels.write_bytes(idx(np.zeros(5, np.uint8)))
  assert '5 labels for the 12 images' in refuse('mnist', folder, root)
  labels.write_bytes(idx(np.full(12, 10, np.uint8)))
  assert 'labels up to 10' in refuse('mnist', folder, root)
  labels.unlink()
  assert 'does not exist' in refuse('mnist', folder, root)


def test_damaged_archives_are_refused(tmp_path):
  folder, root = tmp_path / 'files', tmp_path / 'tfds'
  distribute(folder, 'cifar100')
  (file,) = folder.iterdir()
  good = file.read_bytes()
  for contents, text in (
    (good[:100], 'no archive'),
    (b'', 'no archive'),
    (archive({'train.bin': bytes(3074)}), 'no archive of test.bin'),
    (archive({'train.bin': bytes(3073)}), 'other than 3074 bytes'),
    (archive({'train.bin': b''}), 'other than 3074 bytes'),
  ):
    file.write_bytes(contents)
    assert text in refuse('cifar100', folder, root)


def test_downloads_are_checked(tmp_path, monkeypatch):
  def fetch(url, timeout):
    assert url.startswith('https://storage.googleapis.com/cvdf-datasets/mnist')
    return io.BytesIO(b'a page that says sorry')

  monkeypatch.setattr(urllib.request, 'urlopen', fetch)
  with pytest.raises(
    InputError, match=r'22 bytes of another content.*--source'
  ):
    writing.prepare('mnist', data_dir=str(tmp_path))

  def fail(url, timeout):
    raise urllib.error.URLError('no network')

  monkeypatch.setattr(urllib.request, 'urlopen', fail)
  with pytest.raises(InputError, match=r'no network.*--source'):
    writing.prepare('mnist', data_dir=str(tmp_path))
  with pytest.raises(InputError, match=r"'imagenet2012'.*tfds build"):
    writing.prepare('imagenet2012', data_dir=str(tmp_path))


def test_the_command(tmp_path, capsys):
  """It needs no TensorFlow, and its errors are one line."""
  distribute(tmp_path / 'files', 'mnist')
  flags = 'prepare', 'mnist', f'--data_dir={tmp_path}/tfds', '--source'
  assert command.main([*flags, str(tmp_path / 'nowhere')]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1
  code = (
    'import sys\n'
    'from labelleak.data import __main__ as command\n'
    'command.main(sys.argv[1:])\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  process = subprocess.run(
    [sys.executable, '-c', code, *flags, str(tmp_path / 'files')],
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )
  assert process.returncode == 0, process.stderr
  assert 'is prepared in' in process.stdout
  assert len(data.load('mnist', data_dir=f'{tmp_path}/tfds').y) == 6


def test_the_remedy_names_the_command(tmp_path):
  with pytest.raises(InputError, match=r'labelleak.data prepare cifar100'):
    data.load('cifar100', data_dir=str(tmp_path))
  with pytest.raises(InputError, match=r'tfds build imagenet2012'):
    data.load('imagenet2012', data_dir=str(tmp_path))
