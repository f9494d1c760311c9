"""An audit of simulated rounds: that of the command, beside the truth."""

import contextlib
import functools
import io
import pathlib
import sys
import tempfile
from unittest import mock

from absl import flags
from absl.testing import absltest, parameterized
from ml_collections import config_flags
from ml_collections.config_flags import config_path
import numpy as np

from configs import audit
from labelleak import experiments, hfl, runs
from labelleak.attacks import counts
from labelleak.audit import assessment, command, horizontal
from labelleak.base import InputError

ROOT = pathlib.Path(__file__).resolve().parents[3]
CALIBRATED = (dict(name='counts.calibrated'),)
NOISE = (dict(name='gaussian', stddev=0.5),)


def _config(**fields):
  config = audit.get_config('runlocal')
  for path, value in fields.items():
    config_path.set_value(path.replace('__', '.'), config, value)
  return config


def _run(doubt=False, **fields):
  """Returns rows, assessment, page, values and what the auditor was given.

  Contradictions are looked for with `doubt` alone, as that takes most time.
  """
  given = []
  doubts = contextlib.nullcontext()
  if not doubt:
    doubts = mock.patch.object(counts, 'diagnose', lambda view, known: ())
  assess = horizontal.assess

  def spy(*args, **options):
    given.append(args)
    return assess(*args, **options)

  with tempfile.TemporaryDirectory() as workdir:
    with doubts, mock.patch.object(horizontal, 'assess', spy):
      rows = experiments.run(_config(**fields), workdir)
    path = pathlib.Path(workdir)
    (_, capture, setting), *_ = given
    return dict(
      rows={row['attack']['name']: row for row in rows},
      result=assessment.from_json((path / 'audit.json').read_text()),
      page=(path / 'audit.html').read_text(),
      values=runs.read_arrays(workdir),
      capture=capture,
      setting=setting,
    )


_run_once = functools.cache(_run)


class AuditTest(parameterized.TestCase):
  def test_the_page_is_of_the_first_trial_beside_its_truth(self):
    run = _run_once()
    result, values = run['result'], run['values']
    truth = [estimate.truth for estimate in result.classes]
    self.assertEqual(sum(truth), 64)
    for estimate in result.classes:
      self.assertBetween(estimate.present, 0.0, 1.0)
    self.assertIn('llbg', ' '.join(result.source.notes))
    accuracy = {score.name: score.accuracy for score in result.scores}
    names = [row.rpartition('.')[2] for row in run['rows']]
    self.assertEqual(names[-1], 'random')
    for i, name in enumerate(names[:-1]):
      score = accuracy['calibrated' if name == 'calibrated' else name.upper()]
      first = values[f'{i}/count_accuracy'][0]
      self.assertAlmostEqual(score, float(first), places=5, msg=name)
    self.assertIn('<td>in truth</td>', run['page'].replace('th>', 'td>'))
    self.assertFalse([name for name in values if 'kernel' in name])

  def test_coverage_is_of_the_posterior_alone(self):
    run = _run_once()
    for name, row in run['rows'].items():
      has = {'coverage', 'interval_width'} & {*row['metrics']}
      self.assertLen(has, 2 * (name == 'counts.calibrated'))
    held = [
      estimate.low <= estimate.truth <= estimate.high
      for estimate in run['result'].classes
    ]
    (coverage,) = [v for k, v in run['values'].items() if 'coverage' in k]
    self.assertAlmostEqual(np.mean(held), float(coverage[0]), places=5)

  def test_the_command_says_the_same_of_the_same_models(self):
    run = _run_once()
    capture, result = run['capture'], run['result']
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder)
      file = lambda name: str(path / name)
      np.savez(file('before.npz'), **capture.server)
      after = {k: v - capture.update[k] for k, v in capture.server.items()}
      np.savez(file('after.npz'), **after)
      with contextlib.redirect_stdout(io.StringIO()):
        code = command.main(
          [
            *('audit', '--before', file('before.npz')),
            *('--after', file('after.npz'), '--examples', '64', '--batch', '8'),
            *('--lr', '.01', '--no-remedies', '--json', file('out.json')),
          ]
        )
      self.assertEqual(code, 0)
      other = assessment.from_json((path / 'out.json').read_text())
    for ours, theirs in zip(result.classes, other.classes, strict=True):
      self.assertEqual((ours.count, ours.low), (theirs.count, theirs.low))
      self.assertEqual(ours.high, theirs.high)
    self.assertAlmostEqual(result.leaked, other.leaked, places=4)

  def test_who_is_told_less_is_warned(self):
    fields = dict(client__optimizer__momentum=0.9, attacks=())
    plain = _run(True, known=('lr', 'steps', 'defense'), **fields)
    self.assertRegex(plain['result'].warnings[0], 'momentum .9')
    slices = hfl.Client(lr=0.01, batch_size=8)
    self.assertEqual(plain['setting'].client, slices)
    listed = {a.field for a in plain['result'].assumed if a.told}
    self.assertContainsSubset({'lr', 'examples', 'clients'}, listed)
    self.assertNotIn('optimizer', listed)

  def test_a_defense_is_told_and_named(self):
    run = _run(defense=NOISE, attacks=CALIBRATED)
    plain = _run_once()
    result = run['result']
    (assumed,) = [a for a in result.assumed if a.field == 'defense']
    self.assertTrue(assumed.told)
    self.assertStartsWith(assumed.value[0], 'gaussian 0.17')  # a step's
    self.assertIn('gaussian(stddev=0.5)', run['page'])
    self.assertTrue(any('a defense acts' in line for line in result.limits))
    self.assertLess(result.leaked, plain['result'].leaked - 0.05)
    wide = lambda run: run['rows']['counts.calibrated']['metrics'][
      'interval_width'
    ]['mean']
    self.assertGreater(wide(run), wide(plain) + 1)

  def test_of_several_clients_the_mean_is_audited(self):
    run = _run(clients=3, attacks=CALIBRATED)
    self.assertEqual(run['result'].num_examples, 3 * 64)
    metrics = run['rows']['counts.calibrated']['metrics']
    self.assertIn('client_accuracy', metrics)

  @parameterized.parameters(
    (dict(client=None, lr=0.1, local_steps=1, known=()), 'client=None is none'),
    (dict(model=dict(name='mlp.mlp', head_bias=False), attacks=()), 'no bias'),
    (dict(lr=0.1), 'lr=0.1 contradicts client'),
    (dict(rounds=2, shifting=True, attacks=()), 'an audit is of one'),
    (dict(audit=dict(remedies='no')), "config.audit.remedies='no' must be"),
    (dict(audit=dict(remedy=True)), "config.audit lacks 'remedies'"),
  )
  def test_what_cannot_be_audited_is_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.prepare(_config(**fields))
    self.assertLen(str(caught.exception).splitlines(), 1)

  def test_flags_set_fields_of_the_client(self):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
      'config', lock_config=True, flag_values=values
    )
    argv = [
      'launch.py',
      f'--config={ROOT}/configs/audit.py',
      '--config.client.optimizer.momentum=.9',
      '--config.client.clip_per_example=1',
      '--config.batch_size=32',
    ]
    with mock.patch.object(sys, 'argv', argv):  # where it looks for fields
      config, _ = experiments.parse(values, argv)
    self.assertEqual(config.client.optimizer.momentum, 0.9)
    self.assertEqual(config.client.clip_per_example, 1.0)
    self.assertEqual(config.batch_size, 32)


if __name__ == '__main__':
  absltest.main()
