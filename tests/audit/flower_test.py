"""Real Flower on loopback: what is captured there, and what it gives away."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from absl.testing import absltest
import jax
import numpy as np
import pytest

from labelleak import attacks, base, metrics, vfl
from labelleak.audit import assessment, command

APPS = pathlib.Path(__file__).resolve().parents[2] / 'examples' / 'flower'
TOLD = (
  *('--examples', '200', '--batch', '32'),
  *('--lr', '.01', '--momentum', '.9'),
)


def _run(case, app):
  """Runs an app of two clients as processes; returns the folder it fills."""
  for name in ('flwr', 'torch'):
    if importlib.util.find_spec(name) is None:
      raise unittest.SkipTest(f"no {name}; pip install torch '.[flower]'")
  temporary = case.enterClassContext(tempfile.TemporaryDirectory())
  folder = pathlib.Path(temporary, 'run')
  argv = [sys.executable, APPS / 'federation.py', APPS / app, folder]
  done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
  if done.returncode:
    logs = [log.read_text() for log in sorted(folder.glob('logs/*'))]
    raise AssertionError('\n'.join([done.stdout, done.stderr, *logs]))
  return folder


@pytest.mark.slow
class HorizontalTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = _run(cls, 'horizontal')

  def test_the_report_of_a_first_round_holds_the_truth(self):
    truths = sorted(self.folder.glob('clients/*.json'))
    self.assertLen(truths, 2)
    reports = [self._audit(truth) for truth in truths]
    inside = [
      estimate.low <= estimate.truth <= estimate.high
      for report in reports
      for estimate in report.classes
    ]
    self.assertEqual([report.level for report in reports], [0.9, 0.9])
    self.assertGreaterEqual(np.mean(inside), 0.85, reports)
    for report, truth in zip(reports, truths):
      self.assertEmpty(report.warnings)
      counts = [estimate.truth for estimate in report.classes]
      self.assertEqual(counts, json.loads(truth.read_text()))
      accuracy = {score.name: score.accuracy for score in report.scores}
      self.assertGreaterEqual(accuracy.pop('calibrated'), 0.93)
      self.assertLess(max(accuracy.values()), 0.9)

  def _audit(self, truth):
    """Runs the command on what the server stored of a client's first round."""
    server = self.folder / 'server' / '1'
    out = self.folder / f'report-{truth.stem}.json'
    files = {
      '--before': server / 'server.flwr',
      '--after': server / f'{truth.stem}.flwr',
      '--truth': truth,
      '--json': out,
    }
    argv = [str(word) for pair in files.items() for word in pair]
    code = command.main(['audit', *argv, *TOLD, '--no-remedies'])
    self.assertEqual(code, 0)
    return assessment.from_json(out.read_text())


@pytest.mark.slow
class VerticalTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = _run(cls, 'vertical')

  def test_one_label_opens_a_log_of_cut_gradients(self):
    labels = np.load(self.folder / 'server' / 'labels.npy')
    logs = sorted(self.folder.glob('clients/*.npz'))
    self.assertLen(logs, 2)
    for file in logs:
      log = dict(np.load(file))
      self.assertEqual(log['cut_grads'].shape, log['h'].shape)
      self.assertLen(np.unique(log['row']), len(log['row']))  # one epoch
      for step in np.unique(log['step']):
        lines = log['step'] == step
        y = np.eye(2, dtype=np.float32)[labels[log['row'][lines]]]
        view = vfl.View(
          x=log['x'][lines],
          h=log['h'][lines],
          variables=None,
          key=None,
          param_grads=None,
          cut_grads=log['cut_grads'][lines],
        )
        accuracy = metrics.label_accuracy(_name_rows(view, y), y)
        self.assertGreaterEqual(accuracy, 0.99)
        self.assertLess(y.mean(0).max(), 0.7)  # of who says the larger class


def _name_rows(view, y):
  """Names all rows by their cut gradients and by one positive example."""
  one = y[:, 1].argmax()
  labelled = base.Labelled(view.x[one, None], y[one, None])
  known = vfl.Known(num_classes=2, batch_size=len(y), labelled=labelled)
  return attacks.load('scores.cosine').infer(jax.random.key(0), view, known)


if __name__ == '__main__':
  absltest.main()
