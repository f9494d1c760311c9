"""The CSV files of published numbers: their shape, and digits as printed."""

import configparser
import csv
import itertools
import json
import pathlib
import re
from typing import NamedTuple

from absl.testing import parameterized
import numpy as np

from labelleak import defenses, registry
from labelleak.metrics import significance
from labelleak.report import published, tables
from tests.report import sample

_FOLDER = pathlib.Path(published.__file__).parent
_SHARED = pathlib.Path(__file__).parents[3] / 'shared/reference'
_LABELS = 'table', 'row', 'column'
_FACTS = 'unit', 'source', 'attack', 'args', 'metric', 'setting'
_HEADER = [*_LABELS, 'mean', 'std', *_FACTS, 'note']
_PAPERS = 'bli', 'coae', 'fu', 'llbg', 'vflair'


def _lines(name):
  with open(_FOLDER / f'{name}.csv', newline='') as f:
    return list(csv.DictReader(f, strict=True))


def _printed(table):
  """(mean, std) as text by (row, column) of a table, in order."""
  return {
    (line['row'], line['column']): (line['mean'], line['std'])
    for line in _lines(table.split()[0])
    if line['mean'] and line['table'] == table
  }


def _by_row(table):
  """Texts of each printed row of a table: means, deviations where given."""
  rows = itertools.groupby(_printed(table).items(), lambda item: item[0][0])
  return {
    row: [text for _, pair in group for text in pair if text]
    for row, group in rows
  }


def _reference(name, start):
  """Fields of the lines of numbers that follow `start`, header left out."""
  path = _SHARED / name
  block = path.read_text().split(start)[1].split('```')[1]
  return list(csv.reader(block.strip().splitlines()[2:]))


class Record(NamedTuple):
  """One line of VFLAIR's records."""

  defense: str
  mp10: float
  bli: float
  bli_sd: float
  dli: float
  mp2: float
  ns: float
  ds: float
  t_dcs: float


def _records():
  many, two, total = (
    published.table(f'vflair {name}').cells
    for name in ('10 classes', '2 classes', 'T-DCS')
  )
  rows = dict.fromkeys(row for row, _ in many)
  return [
    Record(
      row,
      many[row, 'main'].mean,
      many[row, 'BLI'].mean,
      many[row, 'BLI'].std,
      many[row, 'DLI'].mean,
      two[row, 'main'].mean,
      two[row, 'NS, folded'].mean,
      two[row, 'DS'].mean,
      total[row, 'T-DCS'].mean,
    )
    for row in rows
  ]


class FilesTest(parameterized.TestCase):
  def test_one_file_a_paper(self):
    names = {path.stem for path in _FOLDER.glob('*.csv')}
    self.assertEqual(names, {*_PAPERS, 'tables'})

  def test_they_are_installed_with_the_package(self):
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[2] / 'setup.cfg')
    data = setup['options.package_data']
    self.assertEqual(data['labelleak.report.published'], '*.csv')

  @parameterized.parameters(*_PAPERS)
  def test_lines_hold_to_the_header(self, name):
    with open(_FOLDER / f'{name}.csv', newline='') as f:
      header, *lines = csv.reader(f, strict=True)
    self.assertEqual(header, _HEADER)
    for line in lines:
      self.assertLen(line, len(_HEADER), line)
      self.assertEqual(line, [text.strip() for text in line])
    for line in _lines(name):
      self.assertIn(line['unit'], ('', '%', 'dB', 'nats'))
      for field in ('args', 'setting'):
        self.assertIsInstance(json.loads(line[field] or '{}'), dict)

  @parameterized.parameters(*_PAPERS)
  def test_numbers_are_finite_and_labelled_once(self, name):
    numbers = [line for line in _lines(name) if line['mean']]
    labels = [tuple(line[k] for k in _LABELS) for line in numbers]
    self.assertTrue(all(map(all, labels)))
    self.assertCountEqual(labels, set(labels))
    for line in numbers:
      for text in filter(None, (line['mean'], line['std'])):
        self.assertTrue(np.isfinite(float(text)), line)

  @parameterized.parameters(*_PAPERS)
  def test_facts_stand_above_the_numbers_that_they_hold_for(self, name):
    lines = _lines(name)
    for i, fact in enumerate(lines):
      if fact['mean']:
        continue
      self.assertEqual(fact['std'], '')
      self.assertTrue(any(fact[k] for k in (*_FACTS, 'note')), fact)
      labels = {k: fact[k] for k in _LABELS if fact[k]}
      numbers = [
        n
        for n, line in enumerate(lines)
        if line['mean'] and labels.items() <= line.items()
      ]
      self.assertNotEmpty(numbers, fact)
      self.assertGreater(numbers[0], i, fact)

  def test_every_table_is_listed_once(self):
    listed = [line['table'] for line in _lines('tables')]
    self.assertEqual(list(_lines('tables')[0]), ['table', 'title', 'beside'])
    numbers = {
      line['table'] for n in _PAPERS for line in _lines(n) if line['mean']
    }
    self.assertCountEqual(listed, numbers)
    titles = [published.table(name).title for name in listed]
    self.assertCountEqual(titles, set(titles))

  def test_defenses_are_structures(self):
    for name in _PAPERS:
      for line in _lines(name):
        setting = json.loads(line['setting'] or '{}')
        for spec in (*setting.get('defense', []), setting.get('model')):
          self.assertIn('name', spec or dict(name=''))
        self.assertNoCommonElements(setting, ('code', 'penalty'))
        for text in re.findall(r'"([^"]*)"', line['setting']):
          self.assertNotRegex(text, r'[(+=]')

  def test_names_are_those_of_the_package(self):
    """Each is found, and spelt as rows spell it."""
    tables_ = [published.table(line['table']) for line in _lines('tables')]
    cells = [cell for t in tables_ for cell in t.cells.values()]
    settings = [cell.setting for cell in cells]
    stated = lambda fact: [s[fact] for s in settings if fact in s]
    names = dict(
      attacks=[c.attack['name'] for c in cells if c.attack]
      + [name for t in tables_ for name in t.beside],
      models=[model['name'] for model in stated('model')],
      data=stated('split'),
      he=stated('aggregate'),
    )
    for package, chosen in names.items():
      self.assertNotEmpty(chosen, package)
      for name in {*chosen} - {'none'}:
        registry.find(package, name)  # raises where there is none
    for chain in stated('defense'):
      self.assertEqual(list(defenses.canonical(chain)), chain)


class ReaderTest(parameterized.TestCase):
  def test_every_cell_is_a_rate(self):
    cells = [c for t in published.TABLES for c in t.cells.values()]
    self.assertGreater(len(cells), 700)
    for cell in cells:
      if cell.metric in ('entropy', 'distinct', 'psnr'):
        continue
      low = -1 if cell.metric == 'relative_accuracy' else 0
      self.assertBetween(cell.mean, low, 1)
      if cell.std is not None:
        self.assertBetween(cell.std, 0, 1)

  def test_facts_of_file_table_row_and_column_add_up(self):
    cells = published.table('llbg Table 12').cells
    cell = cells['sigma=0.1', 'LLBG']
    self.assertEqual(
      cell,
      published.Cell(
        source='llbg Table 12',
        setting=dict(
          clients=1,
          local_steps=10,
          partition='unbalanced',
          batch_size=128,
          data='cifar100',
          num_classes=100,
          trained=False,
          model=dict(name='vgg.vgg19'),
          defense=[
            dict(name='clip', max_norm=1.0, at='step'),
            dict(name='gaussian', stddev=0.1, at='step'),
          ],
        ),
        attack=dict(name='counts.llbg'),
        metric='count_accuracy',
        mean=0.7519,
        std=0.0343,
      ),
    )
    cell = cells['sigma=0.1', 'rel. accuracy']
    self.assertEqual(cell[2:], (None, 'relative_accuracy', -0.696, None))

  def test_the_later_line_wins(self):
    images = published.table('llbg Table 10 images').cells
    cell = images['LLBG', 'psnr']
    self.assertEqual(cell.source, 'llbg Table 10')
    name = 'reconstruction.inverting_gradients'
    self.assertEqual(cell.attack, dict(name=name, labels='counts.llbg'))
    self.assertEqual(cell.setting['local_steps'], 1)  # 10 in the file's first
    self.assertEqual(cell.mean, 19.317)
    texts = published.table('fu Table 2').cells[
      'Yahoo Answers', 'active, model'
    ]
    self.assertEqual(texts.source, 'fu Table 4')
    self.assertEqual(texts.attack['name'], 'completion.texts.active')

  def test_what_no_row_measures_is_matched_to_none(self):
    for name in ('llbg Table 7', 'vflair T-DCS'):
      table = published.table(name)
      self.assertNotIn(table, published.TABLES)
      self.assertEqual({c.metric for c in table.cells.values()}, {None})
    self.assertLen(published.TABLES, len(_lines('tables')) - 2)

  def test_scores_follow_from_their_own_columns(self):
    """BLI and DLI go with the MP of 10 classes, NS and DS with that of 2."""
    records = _records()
    bare = records[0]

    def total(record, mp_of_two):
      gone = getattr(record, mp_of_two), getattr(bare, mp_of_two)
      many = significance.dcs(
        np.array([record.bli, record.dli]), record.mp10, bare.mp10
      )
      two = significance.dcs(np.array([record.ns, record.ds]), *gone)
      return significance.t_dcs([*many, *two])

    off = {r: abs(total(r, 'mp2') - r.t_dcs) for r in records}
    (worst,) = [r for r, error in off.items() if error > 5e-4]
    # The one record that its own columns, rounded means of seeds, do not give.
    self.assertEqual(worst.defense, 'LaplaceDP 0.1')
    self.assertLess(off[worst], 2.5e-3)
    wrong = [abs(total(r, 'mp10') - r.t_dcs) > 5e-4 for r in records]
    self.assertGreater(sum(wrong), 10)


_CLIP = dict(name='clip', max_norm=0.1)
_CODE = 'coae'


class MatchTest(parameterized.TestCase):
  @parameterized.parameters(
    ('counts.llg', {}, {}, 0.8157),
    ('counts.ebi', {}, dict(batch_size=1024), 0.3735),
    ('counts.llbg', {}, dict(partition='iid', batch_size=100), 1.0),
    ('counts.llbg', {}, dict(model=dict(name='mlp.mlp', activation='tanh')),
     0.9948),
    ('counts.llbg', {}, dict(defense=[dict(name='compress', drop=0.9)]),
     0.8262),
    ('counts.llbg', dict(confidence='aux'), {}, None),
    ('counts.calibrated', {}, {}, None),
    ('counts.llg', {}, dict(model=dict(name='vgg.vgg19', x=1)), None),
    ('counts.llg', {}, dict(batch_size=64), None),
    ('counts.llg', {}, dict(local_steps=1), None),
    ('counts.llg', {}, dict(num_classes=10), None),
    ('counts.llg', {}, dict(trained=True), None),
  )  # fmt: skip
  def test_only_the_published_setting_matches(self, name, args, facts, mean):
    paper = sample.horizontal(name, args=args, setting=facts)['paper']
    self.assertEqual(paper and paper['count_accuracy']['mean'], mean)

  def test_a_code_is_not_undefended(self):
    cells = published.table('bli MNIST record').cells
    cell = cells['mnist, B=1024', 'inversion']
    plain = sample.vertical('inversion.batch', 0.9)
    self.assertTrue(published.holds(cell, plain))
    code = [dict(name=_CODE, confusion=0.5)]
    row = sample.vertical('inversion.batch', 0.1, defense=code)
    self.assertFalse(published.holds(cell, row))
    self.assertEqual(row['paper']['label_accuracy']['mean'], 0.1043)

  def test_a_top_that_is_not_stated_is_the_sum(self):
    row = sample.vertical('inversion.batch', 0.9)
    del row['setting']['extra']['top']
    self.assertIsNotNone(published.match(row))
    row['setting']['extra']['top'] = dict(name='mlp.bn_mlp', widths=[4])
    self.assertIsNone(published.match(row))

  @parameterized.parameters(
    ([dict(name='mid', weight=100)], 0.1160, 0.8894),
    ([dict(name='mid', weight=100.0)], 0.1160, 0.8894),
    ([dict(name='distance_correlation', weight=0.3)], 0.3459, 0.8730),
    ([dict(name='sparsify', drop=0.995)], 0.1572, 0.9030),
    ([dict(name='grad_perturb', epsilon=10.0)], 0.8658, 0.9699),
    ([dict(name=_CODE, confusion=0.0), dict(name='discretize_first', bins=12)],
     0.0891, 0.9489),
    ([dict(name='laplace', scale=0.1)], None, None),  # without its clip
    ([dict(name='clip_batch', max_norm=0.2), dict(name='laplace', scale=0.1)],
     0.1012, 0.8671),
  )  # fmt: skip
  def test_records_know_their_defense(self, defense, attack, main):
    row = sample.vertical('inversion.batch', 0.5, 0.9, defense)
    paper = row['paper'] or {}
    cells = [paper.get(m) for m in ('label_accuracy', 'main_accuracy')]
    self.assertEqual([c and c['mean'] for c in cells], [attack, main])

  def test_what_is_of_the_model_is_asked_of_those_who_measured_it(self):
    noise = [dict(s, at='step') for s in (_CLIP, sample.gaussian(0.01))]
    setting = dict(defense=noise)
    paper = sample.horizontal(setting=setting)['paper']
    self.assertEqual(paper['count_accuracy']['mean'], 0.3317)
    self.assertNotIn('relative_accuracy', paper)
    metrics = dict(
      count_accuracy=sample.summary(0.3),
      relative_accuracy=sample.summary(-0.6),
    )
    row = sample.horizontal(
      'counts.calibrated', metrics=metrics, setting=setting
    )
    self.assertEqual(list(row['paper']), ['relative_accuracy'])
    self.assertEqual(row['paper']['relative_accuracy']['mean'], -0.668)
    self.assertEqual(tables.paper_cell(row), '')

  def test_noise_on_the_update_is_not_noise_at_each_step(self):
    setting = dict(defense=[_CLIP, sample.gaussian(0.01)])
    self.assertIsNone(sample.horizontal(setting=setting)['paper'])

  def test_several_observed_steps_are_another_setting_than_one(self):
    setting = dict(observed=dict(steps=3, epochs=2))
    row = sample.vertical('inversion.batch', 0.9, setting=setting)
    self.assertIsNone(row['paper'])
    row = sample.vertical('inversion.batch', 0.9)
    self.assertIsNotNone(row['paper'])

  @parameterized.parameters(
    (dict(data='mnist x2'), dict(), False),
    (dict(data='digits'), dict(data='mnist'), True),
    (dict(data='mnist x2'), dict(data='mnist'), False),
    (dict(model=dict(name='a')), dict(model=dict(name='mlp.mlp2')), True),
    (dict(), dict(model=dict(name='mlp.mlp2')), False),
    (dict(), dict(model='mlp.mlp2'), False),
  )
  def test_what_stands_for_the_published_is_a_substitute(self, own, other, is_):
    setting = dict(own, stands_for=other)
    row = sample.vertical('inversion.batch', 0.9, setting=setting)
    self.assertEqual(published.is_substitute(row), is_)
    if other:
      self.assertEqual(row['paper']['label_accuracy']['substitute'], is_)

  def test_reconstructions_meet_their_cells(self):
    match = lambda **args: published.match(sample.reconstruction(**args))
    paper = match()
    self.assertEqual(paper['mse']['mean'], 0.014)
    self.assertEqual(paper['psnr']['mean'], 19.317)
    self.assertEqual(paper['cw_ssim']['mean'], 0.711)
    self.assertNotIn('ssim', paper)  # theirs is not the SSIM that they cite
    self.assertEqual(match(labels='counts.llg')['lpips']['mean'], 0.302)
    self.assertIsNone(match(steps=2400))  # fewer iterations


class ReferenceTest(parameterized.TestCase):
  """Against the transcriptions of the papers that are shared with us."""

  def setUp(self):
    super().setUp()
    if not _SHARED.exists():
      self.skipTest(f'{_SHARED} is absent')

  @parameterized.parameters(1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13)
  def test_llbg(self, number):
    section = f'\nTable {number} '
    lines = _reference('hfl.md', section)
    name = f'llbg Table {number}' + (' images' if number == 10 else '')
    want = [[text.removeprefix('+') for text in line[1:]] for line in lines]
    self.assertEqual(list(_by_row(name).values()), want)

  def test_llbg_confidences(self):
    ((*want,),) = _reference('hfl.md', '\nTable 7 ')
    rows = _by_row('llbg Table 7')
    self.assertEqual([text for row in rows.values() for text in row], want)
    self.assertEqual(next(iter(rows)), 'VGG19')

  @parameterized.parameters(
    (9, 2, ('untrained', 'trained')),
    (14, 1, ('untrained', 'trained', 'untrained, no bias', 'trained, no bias')),
  )
  def test_llbg_with_a_line_an_attack(self, number, start, rows):
    printed = _printed(f'llbg Table {number}')
    want = {}
    for name, *fields in _reference('hfl.md', f'\nTable {number} '):
      gamma = fields[0]
      column = f'gamma={gamma}' if name == 'LLBG_gamma' else name
      numbers = fields[start - 1 :]
      for row, pair in zip(rows, zip(numbers[::2], numbers[1::2])):
        if any(pair):
          want[row, column] = pair
    self.assertEqual(printed, want)

  def test_bli_table_2(self):
    lines = _reference('bli_vflair.md', '### 7.1')
    want = {
      (f'{data.lower()}, B={size}', 'inversion'): (f'0{mean}', '')
      for attack, data, size, mean, *_ in lines
      if attack == 'BLI' and data in ('CIFAR10', 'CIFAR100')
    }
    self.assertLen(want, 6)
    self.assertEqual(_printed('bli Table 2'), want)

  def test_bli_table_3(self):
    lines = {
      name: pairs for name, *pairs in _reference('bli_vflair.md', '### 7.2')
    }
    printed = _printed('bli Table 3')
    for attack in ('DLI', 'BLI'):
      want = [
        pair for row in 'abc' for pair in lines[f'{attack}-{row}'] if pair
      ]
      ours = [
        f'{printed[label, attack][0]}/{main}'.replace('0.', '.')
        for (label, column), (main, _) in printed.items()
        if column == f'{attack} main'
      ]
      self.assertCountEqual(ours, want)
    cells = published.table('bli Table 3').cells
    codes = {
      spec['confusion']
      for cell in cells.values()
      for spec in cell.setting['defense']
      if spec['name'] == 'coae'
    }
    self.assertEqual(codes, {0.0, 0.5, 1.0})

  def test_vflair(self):
    lines = _reference('bli_vflair.md', '### 7.3')
    self.assertLen(lines, 38)
    for (defense, strength, *numbers), record in zip(
      lines, _records(), strict=True
    ):
      if strength != 'None':
        defense += f' {float(strength):g}'
      self.assertEqual(tuple(record), (defense, *map(float, numbers)))
    bare = _printed('vflair 10 classes')
    (joint,) = _printed('bli record').values()
    (attack,) = _printed('bli MNIST record').values()
    self.assertEqual(
      [bare['None', 'main'], bare['None', 'BLI']], [joint, attack]
    )

  def test_fu_tables_2_and_4(self):
    attacks = {line[0]: line[6:] for line in _reference('fu_vfl.md', '### 6.1')}
    models = {line[0]: line[2:4] for line in _reference('fu_vfl.md', '### 6.3')}
    names = {'Yahoo': 'Yahoo Answers'}
    want = {names.get(k, k): attacks[k] + models[k] for k in attacks}
    self.assertEqual(_by_row('fu Table 2'), want)

  def test_fu_table_3(self):
    lines = _reference('fu_vfl.md', '### 6.2')
    want = {f'{line[0]} labels': line[1:] for line in lines}
    self.assertEqual(_by_row('fu Table 3'), want)

  def test_fu_table_6(self):
    undefended, *rows = _by_row('fu Table 6').values()
    self.assertEqual(undefended, ['1.0000'])
    lines = _reference('fu_vfl.md', '### 6.4')
    self.assertEqual(rows, [line[3:] for line in lines])

  def test_fu_supplement(self):
    lines = _reference('fu_vfl.md', '### 6.7')
    want = {f'{line[0]}, {line[2]} layers': line[4:7] for line in lines}
    self.assertEqual(_by_row('fu supplement Figure 2'), want)

  @parameterized.parameters(
    ('shipped', '### 3.3', (1, 2, 3, 4, 5, 6, 7)),
    ('recipe', '[D] Recipe', (0, 1, 3, 4, 5, 6)),
  )
  def test_codes(self, name, start, columns):
    number = lambda text: float(re.sub(r' \(.*\)', '', text))
    want = [
      [number(line[i]) for i in columns]
      for line in _reference('bli_vflair.md', start)
    ]
    ours = [
      [*map(float, re.findall(r'=([\d.]+)', label)), *map(float, texts)]
      for label, texts in _by_row(f'coae {name}').items()
    ]
    self.assertEqual(ours, want)
