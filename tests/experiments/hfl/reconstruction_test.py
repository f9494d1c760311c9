"""Runs that restore images: rows, upper bounds, pictures, published cells."""

import json
import pathlib

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest

from configs import common, reconstruction
from labelleak import experiments, runs
from labelleak.base import InputError
from labelleak.report import facts, published

_INVERT = 'reconstruction.inverting_gradients'


def _config(*labels, steps=30, **fields):
  config = common.hfl('reconstruction')
  config.experiment = 'hfl.reconstruction'
  config.lpips = None
  config.shown = 2
  config.model = dict(name='mlp.mlp', width=32, activation='tanh')
  config.batch_size = 4
  config.local_steps = 1
  config.trials = 3
  bound = dict(known=(*common.SERVER, 'labels'))
  config.attacks = tuple(
    dict(name=_INVERT, labels=source, steps=steps)
    | (bound if source == 'granted' else {})
    for source in labels
  )
  for name, value in fields.items():
    config[name] = value
  return config


class RunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path)

  def test_what_a_run_leaves(self):
    config = _config('counts.llg', 'counts.llbg', 'granted')
    rows = experiments.run(config, str(self.path))
    self.assertEqual(rows, runs.read_rows(self.path))
    llg, llbg, bound, random = rows
    self.assertEqual(random['attack'], dict(name='reconstruction.random'))
    names = ['count_accuracy', 'mse', 'psnr', 'ssim', 'cw_ssim', 'objective']
    for row in rows:
      self.assertEqual(list(row['metrics']), names)
    # The bound says that it was given the labels, and attacks were not.
    self.assertIn('labels', bound['known'])
    self.assertEndsWith(facts.attack(bound, rows), '+labels')
    for row in (llg, llbg, random):
      self.assertNotIn('labels', row['known'])
    self.assertEqual(bound['metrics']['count_accuracy']['mean'], 1.0)
    self.assertLess(
      llbg['metrics']['mse']['mean'], random['metrics']['mse']['mean']
    )
    arrays = runs.read_arrays(self.path)
    for i in range(len(rows)):
      images = arrays[f'{i}/restored']
      self.assertEqual((images.shape, images.dtype), ((2, 4, 8, 8, 1), 'uint8'))
      self.assertEqual(arrays[f'{i}/mse'].shape, (3,))
      np.testing.assert_array_equal(
        arrays[f'{i}/originals'], arrays['0/originals']
      )
    self.assertTrue((self.path / 'images.png').stat().st_size > 1000)
    table = (self.path / 'table.md').read_text()
    self.assertIn('psnr', table)
    psnr = random['metrics']['psnr']
    self.assertIn(f'{psnr["mean"]:.2f} ± {psnr["std"]:.2f}', table)

  @pytest.mark.slow
  def test_rows_differ_by_their_labels_alone(self):
    """Where an attack names the labels that were granted, so is its image."""
    config = _config('counts.llbg', 'granted')
    experiments.run(config, str(self.path))
    arrays = runs.read_arrays(self.path)
    right = arrays['0/count_accuracy'] == 1
    self.assertTrue(right.any())
    for metric in ('mse', 'ssim', 'objective'):
      ours, bound = (arrays[f'{i}/{metric}'] for i in (0, 1))
      np.testing.assert_array_equal(ours[right], bound[right])

  @pytest.mark.slow
  def test_more_steps_and_right_labels_pay(self):
    found = {}
    for steps in (1, 150):
      rows = experiments.run(_config('granted', steps=steps))
      found[steps] = rows[0]['metrics']
    for metric, sign in (('mse', 1), ('objective', 1), ('psnr', -1)):
      first, last = (sign * found[s][metric]['mean'] for s in (1, 150))
      self.assertLess(last, first, metric)

  @pytest.mark.slow
  def test_a_resumed_run_has_its_pictures(self):
    sweep = (('batch_size', (4, 8)),)
    config = _config('counts.llbg', steps=2, sweep=sweep)
    experiments.run(config, str(self.path))
    for name in ('images.png', 'table.md'):
      (self.path / name).unlink()
    experiments.run(config, str(self.path))
    self.assertTrue((self.path / 'images.png').exists())

  def test_what_cannot_run_is_refused(self):
    for fields, message in (
      (dict(dataset=dict(name='breast_cancer')), 'no images'),
      (dict(attacks=(dict(name='counts.llbg'),)), 'restores no images'),
      (dict(known=('lr',)), "needs 'model'"),
      (dict(lpips='nowhere.npz'), 'AlexNet needs 31 pixels'),
      (dict(clients=2, local_steps=2), 'no single batch'),
    ):
      with self.assertRaisesRegex(InputError, message):
        experiments.run(_config('counts.llbg', **fields))
    granted = dict(name=_INVERT, labels='granted', steps=1)
    with self.assertRaisesRegex(InputError, "needs 'labels', which is not"):
      experiments.run(_config(attacks=(granted,)))
    extracted = dict(granted, labels='counts.llbg')
    known = (*common.SERVER, 'labels')
    with self.assertRaisesRegex(InputError, "'labels'.*upper bounds alone"):
      experiments.run(_config(attacks=(dict(extracted, known=known),)))
    data = dict(name='synthetic')
    with self.assertRaisesRegex(InputError, 'nowhere.npz.*is no file'):
      experiments.run(_config(dataset=data, lpips='nowhere.npz'))

  @pytest.mark.slow
  def test_federated_averaging_and_several_clients(self):
    steps = experiments.run(_config('granted', local_steps=2, steps=60))
    clients = experiments.run(_config('granted', clients=2, steps=60))
    for rows in (steps, clients):
      bound, random = rows
      self.assertLess(
        bound['metrics']['mse']['mean'], random['metrics']['mse']['mean']
      )

  def test_trained_models_and_defenses(self):
    train = dict(steps=20, batch_size=32, lr=1e-2)
    defense = (dict(name='gaussian', stddev=1e-3),)
    rows = experiments.run(
      _config('granted', steps=3, train=train, defense=defense)
    )
    self.assertTrue(rows[0]['setting']['trained'])
    self.assertEqual(rows[0]['setting']['defense'], list(defense))

  @pytest.mark.slow
  def test_devices_agree(self):
    self.assertGreater(len(jax.devices()), 1)
    found = {
      per_device: experiments.run(
        _config('granted', steps=5, per_device=per_device, trials=5)
      )[0]['metrics']
      for per_device in (1, 2)
    }
    for metric in ('mse', 'objective'):
      np.testing.assert_allclose(
        found[1][metric]['mean'], found[2][metric]['mean'], rtol=1e-3
      )


class ConfigTest(absltest.TestCase):
  def test_config_is_published_with_paper(self):
    """Every published source of labels is asked for, at 24,000 iterations."""
    config = reconstruction.get_config('paper')
    json.loads(config.to_json())
    asked = [dict(spec) for spec in config.attacks]
    table = published.table('llbg Table 10 images')
    for cell in table.cells.values():
      self.assertIn(cell.attack, asked)
      self.assertEqual(config.batch_size, cell.setting['batch_size'])
      self.assertEqual(config.local_steps, cell.setting['local_steps'])
