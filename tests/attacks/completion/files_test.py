"""Completion's configs on small samples in the layouts of hand-fetched files.

Each runs twice, the second time with other test rows: whatever is of training
rows must come out the same, bit for bit. No test row is in a training, in a
pool or in a scaler.
"""

import csv
import pathlib

from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest

from configs import completion
from labelleak import data, experiments
from labelleak.base import InputError
from labelleak.experiments.vfl.build import build

_CLASSES = [
  'airplane',
  'automobile',
  'bird',
  'cat',
  'deer',
  'dog',
  'frog',
  'horse',
  'ship',
  'truck',
]
_PASSIVE = dict(name='completion.passive', batch_size=8, epochs=1, iterations=2)


def _image(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def _noise(rng, size):
  return rng.integers(0, 256, (size, size, 3), np.uint8)


def _cinic10(root, test_seed):
  for part, num, seed in (('train', 4, 0), ('valid', 3, 1), ('test', 2, None)):
    rng = np.random.default_rng(test_seed if seed is None else seed)
    for name in _CLASSES:
      for i in range(num):
        _image(root / 'CINIC-10' / part / name / f'{i}.png', _noise(rng, 32))


def _tiny_imagenet(root, test_seed):
  root = root / 'tiny-imagenet-200'
  wnids = [f'n0000000{k}' for k in range(7)]
  rng = np.random.default_rng(0)
  for wnid in wnids:
    for i in range(8):
      _image(root / 'train' / wnid / 'images' / f'{i}.JPEG', _noise(rng, 64))
  rng = np.random.default_rng(test_seed)
  lines = []
  for i in range(9):
    _image(root / 'val' / 'images' / f'{i}.JPEG', _noise(rng, 64))
    lines.append(f'{i}.JPEG\t{rng.choice(wnids)}\t0\t0\t9\t9\n')
  (root / 'val' / 'val_annotations.txt').write_text(''.join(lines))
  (root / 'wnids.txt').write_text('\n'.join(wnids))


def _criteo(root, test_seed):
  """150 rows of alternating labels, the last fifth are the test rows."""
  lines = []
  for num, seed in ((120, 0), (30, test_seed)):
    rng = np.random.default_rng(seed)
    for _ in range(num):
      columns = rng.integers(0, 30, 39).astype(str)
      lines.append('\t'.join([str(len(lines) % 2), *columns]) + '\n')
  (root / 'criteo').mkdir()
  (root / 'criteo' / 'train.txt').write_text(''.join(lines))


def _yahoo(root, test_seed):
  folder = root / 'yahoo_answers_csv'
  folder.mkdir()
  words = np.array(
    [
      'why',
      'what',
      'who',
      'is',
      'the',
      'sun',
      'moon',
      'sea',
      'of',
      'red',
      'blue',
    ]
  )
  for file, num, seed in (('train', 12, 0), ('test', 3, test_seed)):
    rng = np.random.default_rng(seed)
    with open(folder / f'{file}.csv', 'w', newline='') as out:
      writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator='\n')
      for i in range(10 * num):
        texts = [' '.join(rng.choice(words, 6)) for _ in range(3)]
        writer.writerow([1 + i % 10, *texts])


def _histopathology(root, test_seed):
  """Patches of one color each, by which the test split is told apart."""
  folder = root / 'breast-histopathology-images'
  color = lambda i: np.full((50, 50, 3), (i % 200, i // 200, 7), np.uint8)
  files = []
  for patient in range(3):
    for label in (0, 1):
      for _ in range(40):
        i = len(files)
        name = f'{patient}/{label}/{i:04}_class{label}.png'
        files.append(folder / name)
        _image(files[-1], color(i))
  if test_seed:
    name = 'breast_histopathology'
    held_out = data.load(name, path=str(folder), split='test', normalise=False)
    x = held_out.take(np.arange(len(held_out.y)))[:, :, 0, 0]
    pixels = np.round(255 * x).astype(int).reshape(-1, 3)
    rng = np.random.default_rng(test_seed)
    for i in pixels[:, 0] + 200 * pixels[:, 1]:
      _image(files[i], _noise(rng, 50) // 2)


_SAMPLES = dict(
  cinic10=_cinic10,
  tiny_imagenet=_tiny_imagenet,
  criteo=_criteo,
  yahoo=_yahoo,
  histopathology=_histopathology,
)
_OPTIONS = dict(criteo=dict(rows=150), yahoo=dict(per_class=12, buckets=64))


class SamplesTest(parameterized.TestCase):
  def _config(self, name, test_seed):
    root = pathlib.Path(self.create_tempdir().full_path)
    _SAMPLES[name](root, test_seed)
    config = completion.get_config(f'data={name},runlocal')
    config.data_dir = str(root)
    config.dataset.update(_OPTIONS.get(name, {}))
    config.aux.per_class = 5
    config.batch_size = config.train.batch_size = 16
    config.train.steps, config.trials = 6, 1
    config.attacks = (_PASSIVE,)
    return config

  @pytest.mark.slow
  def test_bert_reads_texts(self):
    """The config of the paper's text attacks, on a BERT from a file."""
    root = pathlib.Path(self.create_tempdir().full_path)
    _yahoo(root, 0)
    config = completion.get_config('data=yahoo,bert,runlocal')
    config.data_dir, config.aux.per_class = str(root), 4
    config.batch_size = config.train.batch_size = 16
    config.dataset.per_class = 12
    config.train.steps, config.trials = 4, 1
    rows = experiments.run(config)
    names = [row['attack']['name'] for row in rows]
    wanted = [
      'completion.texts.passive',
      'completion.texts.active',
      'completion.texts.semi_supervised',
    ]
    self.assertEqual(names[:3], wanted)
    self.assertIn('test_accuracy', rows[0]['metrics'])
    config.weights = str(root / 'absent.safetensors')
    with self.assertRaisesRegex(InputError, 'absent.safetensors'):
      experiments.run(config)

  @parameterized.parameters(*_SAMPLES)
  @pytest.mark.slow
  def test_test_rows_stay_out_of_training(self, name):
    found, x = [], []
    for test_seed in (0, 1):
      config = self._config(name, test_seed)
      if name in ('cinic10', 'tiny_imagenet', 'histopathology'):
        config.model = dict(name='mlp.mlp2', width=8)
      found.append(experiments.run(config)[0])
      joint = build(config)
      self.assertEqual(config.train.tested, 'test')
      sources = joint.source, joint.tested
      x.append([source.take(np.arange(8)) for source in sources])
    np.testing.assert_array_equal(x[0][0], x[1][0])
    self.assertFalse(np.array_equal(x[0][1], x[1][1]))
    metrics = [row['metrics'] for row in found]
    of_training = [m for m in metrics[0] if not m.startswith(('test', 'main'))]
    of_training.remove('best_test_accuracy')
    self.assertContainsSubset({'label_accuracy', 'best_accuracy'}, of_training)
    for metric in of_training:
      self.assertEqual(metrics[0][metric], metrics[1][metric])

  @parameterized.parameters('cinic10', 'tiny_imagenet', 'histopathology')
  @pytest.mark.slow
  def test_the_published_models_run(self, name):
    config = self._config(name, 0)
    config.model.width = 4
    config.attacks = (_PASSIVE, dict(_PASSIVE, name='completion.active'))
    rows = experiments.run(config)
    self.assertLen(rows, 3)
    for row in rows:
      self.assertBetween(row['metrics']['test_accuracy']['mean'], 0, 1)


@pytest.mark.slow
def test_mnist_runs(shared):
  config = completion.get_config('data=mnist,runlocal')
  config.data_dir, config.trials = str(shared / 'tfds'), 1
  config.dataset.split, config.train.tested = 'train[:600]', 'test[:200]'
  config.attacks = config.attacks[:2]
  rows = experiments.run(config)
  assert [row['setting']['data'] for row in rows] == ['mnist'] * 3
  for row in rows:
    assert row['setting']['extra']['labelled'] == 40
    assert 0 < row['metrics']['label_accuracy']['mean'] < 1
