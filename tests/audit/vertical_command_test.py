"""`labelleak audit-vertical`: answers, exit codes, pages, refusals."""

import contextlib
import dataclasses
import html.parser
import io
import json
import pathlib
import re

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.audit import (
  assessment,
  attempts,
  options,
  page,
  summary,
)
from labelleak.audit.assessment import Attempt, LogSource, VerticalAssessment
from tests.audit import commands, parties, samples

LOG = '--log', 'log.npz', '--classes', '10'
GUIDE = 'docs/guides/audit_vertical.md'
ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*argv):
  return commands.run('audit-vertical', *argv)


class _InFolder(commands.InFolder):
  def setUp(self):
    super().setUp()
    arrays = parties.log([12, 8])
    np.savez('log.npz', **arrays)
    np.savez('nan.npz', **arrays | {'cut_grads': arrays['cut_grads'] * np.nan})
    y = parties.labels()
    np.save('labels.npy', y)
    np.save('floats.npy', y / 2)
    np.save('table.npy', y[:, None])
    write = lambda name, value: pathlib.Path(name).write_text(json.dumps(value))
    write('labels.json', y.tolist())
    write('rows.json', {str(i): int(label) for i, label in enumerate(y)})
    write('few.json', {'0': 1})
    write('words.json', ['a'])
    write('names.json', {'a': 1})
    write('negative.json', [-3, 1])


class AnswerTest(_InFolder):
  def test_all_forms_say_the_same(self):
    argv = '--labels', 'labels.npy', '--json', 'a.json', '--html', 'a.html'
    code, out, err = _run(*LOG, *argv)
    self.assertEqual((code, err), (0, ''))
    result = assessment.from_json(pathlib.Path('a.json').read_text())
    self.assertEqual(result.leaked, 1.0)
    self.assertEqual(result.source.files, ('log.npz',))
    text = pathlib.Path('a.html').read_text()
    for shown in (out, text):
      self.assertIn('names 100% of the labels of 20 rows', _flatten(shown))

  @parameterized.parameters('labels.json', 'rows.json')
  def test_labels_come_in_several_forms(self, name):
    code, _, err = _run(*LOG, '--labels', name, '--json', 'a.json')
    self.assertEqual((code, err), (0, ''))
    result = assessment.from_json(pathlib.Path('a.json').read_text())
    self.assertEqual(sum(result.truth), 20)
    self.assertEqual(result.attempts[-1].accuracy, 1.0)

  def test_labels_of_minus_one_and_one_are_two_classes(self):
    np.savez('two.npz', **parties.log([20], num_classes=2, loss='sigmoid'))
    np.save('signs.npy', 2 * parties.labels(2) - 1)
    argv = '--log', 'two.npz', '--classes', '2', '--labels', 'signs.npy'
    self.assertEqual(_run(*argv, '--json', 'a.json')[0], 0)
    result = json.loads(pathlib.Path('a.json').read_text())
    self.assertEqual(result['attempts'][-1]['accuracy'], 1.0)
    told = {a['field']: a['value'] for a in result['assumed']}
    self.assertEqual((told['loss'], told['classes']), ('sigmoid', 2))

  @parameterized.parameters(
    (('.3',), 3),
    (('1',), 0),
    (('.3', '--labels', 'labels.npy'), 3),
    (('.3', '--top', 'model'), 0),  # groups without names claim nothing
  )
  def test_fails_above_a_share(self, argv, code):
    self.assertEqual(_run(*LOG, '--fail-above', *argv)[0], code)


class RefusalTest(_InFolder):
  @parameterized.parameters(
    (('--log', 'log.npz'), '--classes'),
    (('--classes', '10'), '--log'),
    ((*LOG[:2], '--classes', '1'), '--classes=1'),
    ((*LOG[:2], '--classes', 'ten'), "invalid int value: 'ten'"),
    ((*LOG[:2], '--classes', '9', '--top', 'sum'), 'width 10'),
    (('--log', 'absent.npz', *LOG[2:]), 'absent.npz'),
    (('--log', 'nan.npz', *LOG[2:]), 'not finite'),
    (('--log', 'log.pt', *LOG[2:]), 'np.savez'),
    (('--log', 'labels.json', *LOG[2:]), 'none of'),
    ((*LOG, '--steps', '0'), '--steps=0'),
    ((*LOG, '--granted', '-1'), '--granted=-1'),
    ((*LOG, '--granted', '1'), '--labels'),
    ((*LOG, '--sealed'), 'param_grads/'),
    ((*LOG, '--loss', 'hinge'), "'hinge'"),
    ((*LOG, '--reduction', 'max'), "'max'"),
    ((*LOG, '--activation', 'gelu'), "'gelu'"),
    ((*LOG, '--bottom', '{x'), 'JSON'),
    ((*LOG, '--bottom', '{"width": 3}'), 'lacks a name'),
    ((*LOG, '--fail-above', '2'), '--fail-above=2'),
    ((*LOG, '--seed', '-1'), '--seed=-1'),
    ((*LOG, '--labels', 'absent.npy'), 'absent.npy'),
    ((*LOG, '--labels', 'floats.npy'), 'whole numbers'),
    ((*LOG, '--labels', 'table.npy'), 'whole numbers'),
    ((*LOG, '--labels', 'few.json'), 'none for 19 of 20'),
    ((*LOG, '--labels', 'words.json'), 'words.json'),
    ((*LOG, '--labels', 'names.json'), 'names.json'),
    ((*LOG, '--labels', 'negative.json'), 'negative'),
    ((*LOG, '--labels', 'log.npz'), 'log.npz'),
    ((*LOG, '--html', 'absent/page.html'), 'absent/page.html'),
    ((*LOG, '--examples', '3'), '--examples'),
  )
  def test_one_line_says_what_is_wrong(self, argv, words):
    code, _, err = _run(*argv)
    self.assertEqual(code, 2)
    self.assertLen(err.splitlines(), 1)
    self.assertIn(words, err)


class PageTest(parameterized.TestCase):
  @parameterized.parameters(2, 10, 300)
  def test_shows_what_the_summary_shows(self, num_classes):
    result = samples.vertical(num_classes)
    text = summary.render(result)
    self.assertLessEqual(max(map(len, text.splitlines())), 100)
    flat, shown = _flatten(text), _flatten(_read(page.render(result)))
    for sentence in (
      summary.headline(result),
      *summary.describe_source(result),
      *result.warnings,
      *result.limits,
      attempts.describe_labels(result),
      *(attempts.describe_grants(a) for a in result.attempts if a.granted),
    ):
      self.assertIn(sentence, flat)
      self.assertIn(sentence, shown)
    for share in ('95.0%', '90.0%', '91.0%', '40.0%', '70.0%'):
      self.assertIn(share, flat)
      self.assertIn(share, shown)

  def test_without_truth_or_claim_it_says_so(self):
    groups = Attempt('groups', (), (15, 5), named=False)
    result = samples.vertical(2, leaked=None, truth=None, attempts=(groups,))
    for text in (summary.render(result), _read(page.render(result))):
      self.assertIn('No attack claims to name', _flatten(text))
      self.assertIn('groups have no names', _flatten(text))
      self.assertNotIn('in truth)', text)

  def test_the_guide_lists_every_field_and_flag(self):
    guide = (ROOT / GUIDE).read_text()
    for kind in VerticalAssessment, LogSource, Attempt:
      for field in dataclasses.fields(kind):
        self.assertIn(f'`{field.name}`', guide, kind.__name__)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), self.assertRaises(SystemExit):
      options.parse(['audit-vertical', '--help'])
    accepted = set(re.findall(r'--[a-z][a-z-]+', shown.getvalue()))
    flags = set(re.findall(r'--[a-z][a-z-]+', guide))
    self.assertEqual(flags | {'--help'}, accepted)


class GuideTest(_InFolder):
  def test_its_example_says_what_it_says(self):
    guide = (ROOT / GUIDE).read_text()
    block, *_ = re.findall(r'```python\n(.*?)```', guide, re.DOTALL)
    exec(compile(block, GUIDE, 'exec'), {})
    commands = re.findall(
      r'```bash\nlabelleak (.*?)\n```\n\n```text\n(.*?)\n\.\.\.',
      guide,
      re.DOTALL,
    )
    self.assertLen(commands, 2)
    for line, output in commands:
      code, out, err = _run(*line.split()[1:])
      self.assertEqual((code, err), (0, ''))
      self.assertStartsWith(out, output)


class _Reader(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.text = ''

  def handle_data(self, data):
    self.text += data


def _read(text):
  reader = _Reader()
  reader.feed(text)
  return reader.text


def _flatten(text):
  return ' '.join(text.split())


if __name__ == '__main__':
  absltest.main()
