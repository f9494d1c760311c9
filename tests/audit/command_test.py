"""The command: its answer, its exit codes, what it writes and refuses."""

import json
import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.audit import assessment
from tests.audit import commands
from tests.messages import clients

FILES = '--before', 'server.npz', '--after', 'client.npz'
ROUND = *FILES, '--examples', '32', '--lr', '.1'
QUICK = '--no-remedies'
HEAVY = {
  'dm_pix',
  'dp_accounting',
  'matplotlib',
  'orbax',
  'sklearn',
  'tensorflow_datasets',
}


def _run(*argv):
  return commands.run('audit', *argv)


class _InFolder(commands.InFolder):
  def setUp(self):
    super().setUp()
    before, after, _ = clients.models()
    np.savez('server.npz', **before)
    np.savez('client.npz', **after)
    write = lambda name, text: pathlib.Path(name).write_text(text)
    write('truth.json', json.dumps(clients.COUNTS.tolist()))
    write('short.json', '[32]')
    write('words.json', '["a"]')
    write('client.toml', 'lr = 0.1\nexamples = 32\nepochs = 1\n')
    write('unknown.toml', 'lr = 0.1\nexamples = 32\nepoch = 1\n')
    write('broken.toml', 'lr = = 0.1\n')
    write('wrong.toml', 'lr = 0.1\nexamples = 32\nepochs = "two"\n')


class AnswerTest(_InFolder):
  def test_one_step_of_sgd_is_counted(self):
    code, out, err = _run(
      *ROUND, QUICK, '--truth', 'truth.json', '--json', 'out.json'
    )
    self.assertEqual((code, err), (0, ''))
    text = pathlib.Path('out.json').read_text()
    result = assessment.from_json(text)
    self.assertEqual(assessment.to_json(result), text)
    accuracy = {score.name: score.accuracy for score in result.scores}
    self.assertGreaterEqual(accuracy['calibrated'], 0.9)
    self.assertGreater(accuracy['calibrated'], accuracy['classes alone'])
    self.assertGreater(accuracy['classes alone'], accuracy['guessing'])
    for estimate in result.classes:
      self.assertBetween(estimate.count, estimate.low, estimate.high)
    self.assertLessEqual(max(map(len, out.splitlines())), 100)
    self.assertIn('fc2.bias', out)

  def test_assumptions_say_who_made_them(self):
    _run('--client', 'client.toml', *FILES, QUICK, '--json', 'out.json')
    result = assessment.from_json(pathlib.Path('out.json').read_text())
    told = {a.field: a.value for a in result.assumed if a.told}
    self.assertEqual(told, dict(lr=0.1, examples=32, epochs=1))
    assumed = {a.field: a.value for a in result.assumed if not a.told}
    self.assertEqual(assumed['optimizer'], dict(name='sgd'))
    self.assertEqual(assumed['classes'], 10)

  def test_a_flag_wins_over_the_file(self):
    argv = '--client', 'client.toml', '--examples', '64', '--momentum', '.9'
    _run(*argv, *FILES, QUICK, '--json', 'out.json')
    result = json.loads(pathlib.Path('out.json').read_text())
    told = {a['field']: a['value'] for a in result['assumed'] if a['told']}
    self.assertEqual(told['examples'], 64)
    self.assertEqual(told['optimizer'], dict(name='sgd', momentum=0.9))

  def test_a_range_of_rates_says_how_much_it_matters(self):
    code, out, _ = _run(
      *FILES, QUICK, '--examples', '32', '--lr', '.05..2', '--json', 'out.json'
    )
    self.assertEqual(code, 0)
    result = assessment.from_json(pathlib.Path('out.json').read_text())
    self.assertLen(result.learning_rates, 3)
    self.assertEqual(result.learning_rates[1].agreement, 1.0)
    self.assertIn('learning rate matters', out)

  def test_a_rate_that_is_not_told_is_read_off(self):
    code, _, _ = _run(
      *FILES, QUICK, '--examples', '32', '--truth', 'truth.json', '--json', 'o'
    )
    self.assertEqual(code, 0)
    result = assessment.from_json(pathlib.Path('o').read_text())
    self.assertGreaterEqual(result.scores[-1].accuracy, 0.8)

  def test_a_number_of_examples_that_is_not_told_is_inferred(self):
    code, out, _ = _run(
      *(*FILES, QUICK, '--examples', '20..50', '--lr', '.1', '--json', 'o')
    )
    self.assertEqual(code, 0)
    result = assessment.from_json(pathlib.Path('o').read_text())
    self.assertIn(result.num_examples, range(20, 51))
    low, high = re.search(r'(\d+) to (\d+) hold 90%', result.limits[0]).groups()
    self.assertBetween(32, int(low), int(high))
    self.assertIn('likeliest', ' '.join(out.split()))

  @parameterized.parameters(('.3', 3), ('1', 0))
  def test_fails_above_a_share(self, limit, code):
    self.assertEqual(_run(*ROUND, QUICK, '--fail-above', limit)[0], code)


class RefusalTest(_InFolder):
  @parameterized.parameters(
    (('--examples', '3'), '--before and --after'),
    (FILES, '--examples'),
    ((*FILES, '--examples', '0'), '--examples=0'),
    ((*FILES, '--examples', 'x'), '--examples=x must'),
    ((*FILES, '--examples', '9..3', '--lr', '.1'), 'rising range'),
    ((*FILES, '--examples', '1..5000', '--lr', '.1'), 'at most 1000'),
    ((*FILES, '--examples', '8..40'), 'known.client with its lr'),
    ((*ROUND, '--epochs', '0'), 'epochs=0'),
    ((*ROUND, '--lr', '-1'), '--lr=-1'),
    ((*ROUND, '--lr', '.1..01'), 'falls'),
    ((*ROUND, '--lr', 'fast'), '--lr=nan'),
    ((*ROUND, '--optimizer', 'sdg'), "'sdg'"),
    ((*ROUND, '--optimizer', 'adam', '--momentum', '.9'), 'momentum'),
    ((*ROUND, '--noise-multiplier', '1'), 'clip_per_example'),
    ((*ROUND, '--classes', '11'), '--classes 11'),
    ((*ROUND, '--kernel', 'fc9'), 'fc9'),
    ((*ROUND, '--fail-above', '2'), '--fail-above=2'),
    ((*ROUND, '--truth', 'short.json'), 'sum to 32'),
    ((*ROUND, '--truth', 'words.json'), 'words.json'),
    ((*ROUND, '--truth', 'absent.json'), 'absent.json'),
    ((*ROUND, '--client', 'unknown.toml'), 'epoch;'),
    ((*ROUND, '--client', 'broken.toml'), 'TOML'),
    ((*ROUND, '--client', 'wrong.toml'), "'two'"),
    ((*ROUND, '--client', 'absent.toml'), 'absent.toml'),
    ((*ROUND, '--html', 'absent/page.html', QUICK), 'absent/page.html'),
    ((*ROUND, '--speed', '3'), '--speed'),
    (('--before', 'client.npz', '--examples', '3'), '--after'),
    (('--update', 'absent.npz', '--examples', '3'), 'absent.npz'),
    ((*ROUND, '--examples', '100000000'), 'posterior'),
  )
  def test_one_line_says_what_is_wrong(self, argv, part):
    code, _, err = _run(*argv)
    self.assertEqual(code, 2)
    self.assertLen(err.splitlines(), 1)
    self.assertIn(part, err)


class PrintTest(absltest.TestCase):
  def test_a_pipe_that_ends_early_is_no_error(self):
    code = 'from labelleak.audit import outputs as o; o.print_text("x" * 10**6)'
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
      [sys.executable, '-c', code], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    self.assertEqual((done.returncode, done.stderr), (0, b''))


class ProgramsTest(absltest.TestCase):
  def test_they_are_kept_at_home_unless_a_place_is_set(self):
    code = (
      'import sys, jax; from labelleak.compilation import keep_programs;'
      " jax.config.update('jax_compilation_cache_dir', sys.argv[1] or None);"
      ' keep_programs(); print(jax.config.jax_compilation_cache_dir)'
    )
    home = dict(os.environ, HOME='/home/nobody')
    for place, kept in (('', '/home/nobody/.cache/labelleak'), ('/a', '/a')):
      argv = [sys.executable, '-c', code, place]
      said = subprocess.check_output(argv, env=home, text=True)
      self.assertEqual(said.strip(), kept)


class ImportTest(absltest.TestCase):
  def test_what_an_audit_needs_is_light(self):
    code = (
      'import sys; from labelleak import hfl; from labelleak.audit import'
      " command; hfl.Known(num_classes=3, batch_size=2, defense=(('clip', 1),"
      ' )); print(*{name.partition(".")[0] for name in sys.modules})'
    )
    done = subprocess.run(
      [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    self.assertIn('jax', done.stdout.split())
    self.assertEmpty(HEAVY & {*done.stdout.split()})


if __name__ == '__main__':
  absltest.main()
