"""Prepared data sets: decoding, geometry, laziness and refusals."""

import io
import json
import os
import subprocess
import sys

from array_record.python import array_record_module
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from labelleak import base, data
from tests.data import samples


def write(directory, splits, *, shape, num_classes=4, config=''):
  """Prepares a data set of PNG images as tfds lays it out on disk.

  Args:
    directory: DIR/name/version, or DIR/name/config/version.
    splits: name -> pairs of an uint8 image [H, W, C] and its label.
    shape: declared, with None where images vary.
    num_classes: declared.
    config: name of the config, if any.
  """
  directory.mkdir(parents=True)
  name = (directory.parent.parent if config else directory.parent).name
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=shape, encoding_format='png'),
      'label': tfds.features.ClassLabel(num_classes=num_classes),
    }
  )
  features.save_config(directory)
  for split, examples in splits.items():
    path = directory / f'{name}-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for image, label in examples:
      png = io.BytesIO()
      Image.fromarray(image).save(png, 'png')
      writer.write(
        features.serialize_example({'image': png.getvalue(), 'label': label})
      )
    writer.close()
  template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
  info = dict(
    name=name,
    version=directory.name,
    fileFormat='array_record',
    splits=[
      dict(
        name=split,
        shardLengths=[str(len(examples))],
        numBytes='1',
        filepathTemplate=template,
      )
      for split, examples in splits.items()
    ],
    supervisedKeys=dict(
      tuple=dict(items=[dict(featureKey='image'), dict(featureKey='label')])
    ),
  )
  if config:
    info['configName'] = config
  (directory / 'dataset_info.json').write_text(json.dumps(info))


def noise(rng, *shape):
  return rng.integers(0, 256, shape, np.uint8)


def test_prepared_images_are_decoded_exactly(tmp_path):
  rng = np.random.default_rng(0)
  examples = [(noise(rng, 6, 5, 3), i % 4) for i in range(9)]
  write(tmp_path / 'mine' / '1.0.0', dict(train=examples), shape=(6, 5, 3))
  x = np.stack([image for image, _ in examples])
  source = data.load('mine', data_dir=str(tmp_path), normalise=False)
  assert (source.num_classes, source.shape) == (4, (6, 5, 3))
  np.testing.assert_array_equal(source.y, [i % 4 for i in range(9)])
  index = np.array([8, 3, 8])
  for _ in range(2):  # read, then remembered
    np.testing.assert_allclose(source.take(index), x[index] / 255, rtol=1e-6)
  source = data.load(str(tmp_path / 'mine'))  # mean and deviation .5
  np.testing.assert_allclose(
    source.take([1, 1]), x[[1, 1]] / 127.5 - 1, atol=1e-6
  )
  assert source.take(np.array([], int)).shape == (0, 6, 5, 3)


def test_grey_crops_are_the_luma_of_the_centre(tmp_path):
  image = noise(np.random.default_rng(0), 10, 8, 3)
  write(tmp_path / 'mine' / '1.0.0', dict(test=[(image, 0)]), shape=(10, 8, 3))
  options = dict(data_dir=str(tmp_path), crop=6, grey=True)
  source = data.load('mine', **options, normalise=False)
  assert (source.name, source.shape) == ('mine crop 6 grey', (6, 6, 1))
  luma = image[2:8, 1:7] @ np.array([0.299, 0.587, 0.114]) / 255
  np.testing.assert_allclose(source.take([0])[0, ..., 0], luma, atol=1 / 255)
  normal = data.load('mine', **options).take([0])
  np.testing.assert_allclose(normal, source.take([0]) * 2 - 1, atol=1e-6)
  assert 'crop=9' in samples.refusal('mine', data_dir=str(tmp_path), crop=9)


@pytest.mark.parametrize('shape', [(40, 40, 3), (40, 70, 3), (90, 64, 1)])
def test_size_of_framed_images(tmp_path, shape):
  rng = np.random.default_rng(0)
  image = noise(rng, *shape).squeeze()
  write(tmp_path / 'mine' / '1.0.0', dict(test=[(image, 0)] * 2), shape=shape)
  side = min(shape[:2])
  source = data.load('mine', data_dir=str(tmp_path), size=side, normalise=False)
  assert source.shape == (side, side, shape[2])
  # At full size only the crop remains.
  top, left = ((n - side) // 2 for n in shape[:2])
  crop = image.reshape(shape)[top : top + side, left : left + side] / 255
  np.testing.assert_allclose(source.take([1])[0], crop, rtol=1e-6)
  # Shrinking averages: a constant stays, and white noise loses its deviation.
  small = data.load('mine', data_dir=str(tmp_path), size=10, normalise=False)
  x = small.take([0])
  assert small.name == 'mine 10px' and x.shape == (1, 10, 10, shape[2])
  assert abs(x.mean() - crop.mean()) < 0.03
  assert x.std() < crop.std() / 2.5


def test_images_of_varying_size_follow_the_imagenet_protocol(tmp_path):
  rng = np.random.default_rng(0)
  shapes = [(64, 64, 3), (64, 100, 3), (130, 64, 3)]
  examples = [(noise(rng, *shape), i) for i, shape in enumerate(shapes)]
  write(tmp_path / 'mine' / '1.0.0', dict(test=examples), shape=(None, None, 3))
  assert 'size=224' in samples.refusal('mine', data_dir=str(tmp_path))
  # 56 * 256 / 224 = 64: shorter sides stay and the centre is cropped.
  source = data.load('mine', data_dir=str(tmp_path), size=56, normalise=False)
  for k, (height, width, _) in enumerate(shapes):
    top, left = (height - 56) // 2, (width - 56) // 2
    crop = examples[k][0][top : top + 56, left : left + 56]
    np.testing.assert_allclose(source.take([k])[0], crop / 255, rtol=1e-6)


def test_labels_merge_into_groups_and_rows_repeat(tmp_path):
  rng = np.random.default_rng(0)
  examples = [(noise(rng, 2, 2, 3), i) for i in range(10)]
  write(
    tmp_path / 'mine' / '1.0.0',
    dict(test=examples),
    shape=(2, 2, 3),
    num_classes=10,
  )
  source = data.load('mine', data_dir=str(tmp_path), classes=5, copies=3)
  assert (source.num_classes, source.name) == (5, 'mine/5 x3')
  np.testing.assert_array_equal(source.y, np.tile(np.arange(10) // 2, 3))
  x = source.take(np.arange(30))
  np.testing.assert_array_equal(x[:10], x[20:])
  for option in (dict(classes=1), dict(classes=11), dict(copies=0)):
    ((key, value),) = option.items()
    assert f'{key}={value}' in samples.refusal(
      'mine', data_dir=str(tmp_path), **option
    )


def test_evaluation_split_is_the_first_with_labels(tmp_path):
  image = np.zeros((2, 2, 3), np.uint8)
  directory = tmp_path / 'mine' / '1.0.0'
  hidden, labelled = [(image, -1)], [(image, 1)]  # as imagenet2012 has them
  splits = dict(train=[(image, 2)], test=hidden, validation=labelled)
  write(directory, splits, shape=(2, 2, 3))
  load = lambda split: data.load('mine', data_dir=str(tmp_path), split=split)
  assert load(None).y == [1]
  assert load('train').y == [2]
  refuse = lambda split: samples.refusal(
    'mine', data_dir=str(tmp_path), split=split
  )
  assert 'withheld' in refuse('test')
  for split in ('dev', 'train[:x]'):
    text = refuse(split)
    assert f'no split {split!r}' in text and 'validation' in text


def test_versions_configs_and_the_environment(tmp_path, monkeypatch):
  image = np.zeros((2, 2, 3), np.uint8)
  for version, label in (('2.0.0', 2), ('10.0.0', 3)):
    splits = dict(test=[(image, label)])
    for config in ('', 'a', 'b'):
      path = tmp_path / ('two' if config else 'mine') / config / version
      write(path, splits, shape=(2, 2, 3), config=config)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert data.load('mine').y == [3]
  assert data.load('mine:2.0.0').y == [2]
  source = data.load('two/b')
  assert (source.y, source.name) == ([3], 'two/b')
  text = samples.refusal('two')
  assert 'two/a' in text and 'two/b' in text
  text = samples.refusal('mnist', data_dir=str(tmp_path / 'elsewhere'))
  assert 'elsewhere' in text and 'nothing' in text


def test_missing_data_is_one_line_with_the_remedy(tmp_path):
  write(
    tmp_path / 'mine' / '1.0.0',
    dict(test=[(np.zeros((2, 2, 3), np.uint8), 0)]),
    shape=(2, 2, 3),
  )
  text = samples.refusal('cifar100', data_dir=str(tmp_path))
  for part in ('cifar100', str(tmp_path), 'data_dir', 'TFDS_DATA_DIR', 'mine'):
    assert part in text
  assert 'did you mean mine' in samples.refusal('mime', data_dir=str(tmp_path))
  assert 'did you mean cifar10' in samples.refusal(
    'cifarr10', data_dir=str(tmp_path)
  )
  assert str(tmp_path) in samples.refusal(str(tmp_path / 'nowhere'))
  assert 'did you mean digits' in samples.refusal('digit')


def test_damaged_or_unsuited_data(tmp_path):
  image = np.zeros((2, 2, 3), np.uint8)
  directory = tmp_path / 'mine' / '1.0.0'
  write(directory, dict(test=[(image, 0)]), shape=(2, 2, 3))
  info = directory / 'dataset_info.json'
  complete = info.read_text()
  info.write_text(complete.replace('array_record', 'tfrecord'))
  assert 'array_record' in samples.refusal('mine', data_dir=str(tmp_path))
  info.write_text(complete.replace('"label"', '"image"'))
  assert 'labelled images' in samples.refusal('mine', data_dir=str(tmp_path))
  info.write_text(complete)
  next(directory.glob('*-of-00001')).unlink()
  assert 'cannot be read' in samples.refusal('mine', data_dir=str(tmp_path))


def test_labels_are_classes_of_the_data_set(tmp_path):
  image = np.zeros((2, 2, 3), np.uint8)
  for name, labels in (
    ('beyond', [0, 3, 4, 1]),
    ('far', [0, 1000]),
    ('part', [0, -1, 1]),
  ):
    examples = [(image, label) for label in labels]
    directory = tmp_path / name / '1.0.0'
    write(directory, dict(test=examples), shape=(2, 2, 3), num_classes=1001)
    features = directory / 'features.json'
    features.write_text(features.read_text().replace('1001', '4'))
    text = samples.refusal(name, data_dir=str(tmp_path))
    assert '1 labels' in text and 'outside 0..3' in text


def test_images_of_another_kind_than_declared(tmp_path):
  rng = np.random.default_rng(0)
  for name, image, text in (
    # As many pixels as declared, which a reshape would take.
    ('turned', noise(rng, 5, 6, 3), '(5, 6) pixels'),
    ('large', noise(rng, 9, 9, 3), '(9, 9) pixels'),
    ('deep', rng.integers(0, 65536, (6, 5)).astype(np.uint16), '8 bits'),
  ):
    directory = tmp_path / name / '1.0.0'
    write(directory, dict(test=[(image, 0)]), shape=(6, 5, 3))
    source = data.load(name, data_dir=str(tmp_path))
    with pytest.raises(base.InputError) as caught:
      source.take([0])
    assert text in str(caught.value)
  features = tmp_path / 'deep' / '1.0.0' / 'features.json'
  complete = features.read_text()
  for old, new in (('"uint8"', '"uint16"'), ('"3"', '"2"')):
    assert old in complete
    features.write_text(complete.replace(old, new))
    text = samples.refusal('deep', data_dir=str(tmp_path))
    assert '8 bits' in text or 'damaged' in text


def test_as_many_records_as_described(tmp_path):
  image = np.zeros((2, 2, 3), np.uint8)
  directory = tmp_path / 'mine' / '1.0.0'
  write(directory, dict(test=[(image, 0), (image, 1)]), shape=(2, 2, 3))
  info = directory / 'dataset_info.json'
  complete = info.read_text()
  for count in ('1', '3'):
    info.write_text(complete.replace('["2"]', f'["{count}"]'))
    text = samples.refusal('mine', data_dir=str(tmp_path))
    assert f'holds 2 records, not {count}' in text


def test_shared_data_sets(shared):
  load = lambda name, **options: data.load(
    name, data_dir=str(shared / 'tfds'), **options
  )
  for name, num, shape in (
    ('cifar10', 10_000, (32, 32, 3)),
    ('mnist', 10_000, (28, 28, 1)),
  ):
    source = load(name)
    assert (len(source.y), source.shape, source.name) == (num, shape, name)
    assert set(source.y) == set(range(10))
    # The constants are the data set's own: standardised up to sampling error.
    x = source.take(np.arange(0, num, 10))
    assert np.abs(x.mean((0, 1, 2))).max() < 0.05
    assert np.abs(x.std((0, 1, 2)) - 1).max() < 0.05
  train = load('mnist', split='train[:2000]')
  assert (
    samples.nearest_mean_accuracy(train, load('mnist', split='test[:1000]'))
    > 0.7
  )


def test_imagenet_sample_stands_in_for_cifar100(shared):
  path = str(shared / 'tfds' / 'imagenet_sample' / '1.0.0')
  source = data.load(path, size=32, classes=100, copies=10)
  assert source.name == 'imagenet_sample 32px/100 x10'
  assert source.shape == (32, 32, 3)
  np.testing.assert_array_equal(np.bincount(source.y), np.full(100, 100))
  x = source.take(np.arange(1000))
  assert np.abs(x.mean((0, 1, 2))).max() < 0.2
  full = data.load(path)
  assert (full.num_classes, full.name) == (1000, 'imagenet_sample')
  # The plain resize keeps the frame: a small image's mean is the large one's.
  large = full.take([3, 500])
  np.testing.assert_allclose(
    x[[3, 500]].mean((1, 2)), large.mean((1, 2)), atol=0.05
  )


def test_neither_tensorflow_nor_noise(shared):
  code = (
    'import sys\n'
    'from absl import app\n'
    'from labelleak import data\n'
    'def main(_):\n'
    f'  source = data.load("cifar10", data_dir="{shared}/tfds")\n'
    '  source.take([0, 1])\n'
    '  assert "tensorflow" not in sys.modules\n'
    'app.run(main)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
