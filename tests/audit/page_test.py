"""The page: complete, without requests, and readable in a browser."""

import contextlib
import dataclasses
import html.parser
import io
import pathlib
import re
import shutil
import subprocess

from absl.testing import absltest, parameterized
import numpy as np
import PIL.Image
import pytest

from labelleak.audit import assessment, options, page, summary
from labelleak.audit.assessment import (
  Assessment,
  Assumption,
  Estimate,
  Remedy,
  Score,
  Source,
)
from tests.audit import samples

BROWSER = shutil.which('chromium')
VOID = {'meta', 'br', 'hr', 'img', 'link', 'input'}


def _assessment(num_classes=10):
  """Makes one that has all parts."""
  score = lambda name, share: Score(
    name, (2.0,) * num_classes, share, share, accuracy=share / 2
  )
  return Assessment(
    version='0.1.0',
    source=Source(
      files=('<server> & "co".npz', 'client.npz'),
      names=dict(kernel='fc.weight', bias='fc.bias'),
      shapes=dict(kernel=(64, num_classes), bias=(num_classes,)),
      tensors=6,
      norm=0.25,
      notes=('fc.weight was transposed.',),
    ),
    assumed=(
      Assumption('lr', [0.001, 0.01], told=True),
      Assumption('optimizer', dict(name='sgd', momentum=0.9), told=True),
      Assumption('batch_size', None, told=False),
      Assumption('shuffle', False, told=False),
    ),
    num_classes=num_classes,
    num_examples=2 * num_classes,
    leaked=0.93,
    level=0.9,
    classes=tuple(
      Estimate(2.0, 1, 4, 0.99, truth=i % 5) for i in range(num_classes)
    ),
    scores=(
      score('guessing', 0.5),
      score('classes alone', 0.6),
      score('calibrated', 0.93),
    ),
    learning_rates=(score('lr = 0.001', 0.7), score('lr = 0.01', 1.0)),
    remedies=(
      Remedy('as it is', 0.95, 0.5),
      Remedy('a remedy with a long name that wraps on a telephone', 0.6, 0.5),
    ),
    warnings=('The scale contradicts <plain> SGD.',),
    limits=('Nothing else was attacked.',),
  )


class _Reader(html.parser.HTMLParser):
  """Collects tags, attributes and text, and which tags stay open."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], set(), [], ''

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += attrs
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, tag

  def handle_data(self, data):
    self.text += data


def _read(text):
  reader = _Reader()
  reader.feed(text)
  reader.close()
  return reader


class PageTest(parameterized.TestCase):
  @parameterized.parameters(2, 10, 300)
  def test_is_whole_and_asks_for_nothing(self, num_classes):
    text = page.render(_assessment(num_classes))
    reader = _read(text)
    self.assertEmpty(reader.open)
    self.assertNoCommonElements(
      reader.tags, {'script', 'link', 'img', 'iframe', 'object', 'a'}
    )
    self.assertNoCommonElements(
      {name for name, _ in reader.attributes}, {'src', 'href', 'onload'}
    )
    self.assertNotRegex(text, r'https?:|url\(|@import')
    self.assertContainsSubset({'svg', 'table'}, reader.tags)

  def test_what_was_read_is_text(self):
    reader = _read(page.render(_assessment()))
    self.assertIn('<server> & "co".npz', reader.text)
    self.assertIn('The scale contradicts <plain> SGD.', reader.text)
    self.assertNotIn('server', reader.tags)

  def test_shows_what_the_summary_shows(self):
    result = _assessment()
    text = _read(page.render(result)).text
    for sentence in (
      *summary.describe_source(result),
      *result.warnings,
      *result.limits,
      *(remedy.name for remedy in result.remedies),
    ):
      self.assertIn(sentence, text)
      words = ' '.join(summary.render(result).split())
      self.assertIn(sentence, words)

  def test_bars_are_drawn_to_the_largest_number(self):
    estimates = Estimate(3.0, 1, 6, 0.9, truth=2), Estimate(0.0, 0, 8, 0.1, 4)
    result = dataclasses.replace(_assessment(2), classes=estimates)
    drawn = page._show_classes(result)
    for line in (
      '<line x1="12.50" x2="75.00" y1="6" y2="6">',
      '<line class="mark" x1="25.00" x2="25.00" y1="0" y2="12">',
      '<line x1="0.00" x2="100.00" y1="6" y2="6">',
    ):
      self.assertIn(line, drawn)
    widths = re.findall(r'class="bar" width="([\d.]+)"', drawn)
    self.assertEqual(widths, ['37.50', '0.00'])

  def test_warnings_go_first(self):
    text = _read(page.render(_assessment())).text
    self.assertLess(text.index('Warnings'), text.index('Labels'))
    none = dataclasses.replace(_assessment(), warnings=(), remedies=())
    text = _read(page.render(none)).text
    self.assertNotIn('Warnings', text)
    self.assertNotIn('What would help', text)

  def test_json_gives_back_what_it_was_made_of(self):
    result = _assessment()
    back = assessment.from_json(assessment.to_json(result))
    self.assertEqual(back, result)
    with self.assertRaisesRegex(ValueError, 'schema_version=9'):
      assessment.from_json('{"schema_version": 9}')

  def test_the_guide_lists_every_field_of_the_json(self):
    root = pathlib.Path(__file__).resolve().parents[2]
    guide = (root / 'docs/guides/audit_horizontal.md').read_text()
    kinds = Assessment, Source, Assumption, Estimate, Score, Remedy
    for kind in kinds:
      for field in dataclasses.fields(kind):
        self.assertIn(f'`{field.name}`', guide, kind.__name__)

  def test_the_guide_lists_every_flag(self):
    root = pathlib.Path(__file__).resolve().parents[2]
    guide = (root / 'docs/guides/audit_horizontal.md').read_text()
    of_command = re.sub(
      '## Simulate my setting.*?(?=## )', '', guide, flags=re.DOTALL
    )
    flags = set(re.findall(r'--[a-z][a-z-]+', of_command))
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), self.assertRaises(SystemExit):
      options.parse(['audit', '--help'])
    accepted = set(re.findall(r'--[a-z][a-z-]+', shown.getvalue()))
    self.assertEmpty(flags - accepted)
    negated = {flag for flag in accepted if flag.startswith('--no-')}
    self.assertEmpty(accepted - negated - flags - {'--help', '--remedies'})

  def test_the_guide_runs(self):
    root = pathlib.Path(__file__).resolve().parents[2]
    guide = (root / 'docs/guides/audit_horizontal.md').read_text()
    names = {}
    blocks = re.findall(r'```python\n(.*?)```', guide, re.DOTALL)
    self.assertLen(blocks, 3)
    for block in blocks:
      exec(compile(block, 'audit_horizontal.md', 'exec'), names)
    self.assertFalse(names['verdict'].allowed)
    overlap = np.minimum(names['counts'], names['truth']).sum() / 1024
    self.assertGreater(overlap, 0.8)
    recovered = names['view'].grads['head']
    for leaf, value in names['observed'].view.grads['head'].items():
      np.testing.assert_allclose(recovered[leaf], value, rtol=1e-4, atol=1e-6)

  def test_many_classes_are_cut_and_said_to_be(self):
    text = summary.render(_assessment(300))
    self.assertIn('280 further classes', text)
    self.assertLessEqual(max(map(len, text.splitlines())), 100)


@pytest.mark.skipif(BROWSER is None, reason='chromium is not installed')
class BrowserTest(parameterized.TestCase):
  @parameterized.product(
    width=(1280, 500),  # the narrowest window of headless mode
    make=(_assessment, samples.vertical),
  )
  def test_opens_without_error_and_within_its_width(self, width, make):
    folder = pathlib.Path(self.create_tempdir().full_path)
    file, picture = folder / 'page.html', folder / 'page.png'
    file.write_text(page.render(make()))
    done = subprocess.run(
      [
        BROWSER,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--hide-scrollbars',
        '--enable-logging=stderr',
        f'--user-data-dir={folder / "profile"}',
        f'--window-size={width},2600',
        f'--screenshot={picture}',
        file.as_uri(),
      ],
      check=True,
      capture_output=True,
      text=True,
      timeout=120,
    )
    self.assertIsNone(re.search('CONSOLE', done.stderr), done.stderr)
    pixels = np.asarray(PIL.Image.open(picture).convert('RGB'))
    self.assertEqual(pixels.shape[1], width)
    self.assertGreater(len(np.unique(pixels.reshape(-1, 3), axis=0)), 20)
    for margin in (pixels[:, :8], pixels[:, -8:]):
      self.assertLen(np.unique(margin.reshape(-1, 3), axis=0), 1)


if __name__ == '__main__':
  absltest.main()
