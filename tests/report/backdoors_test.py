"""Plots of replacement attacks show each row where it belongs."""

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import report
from labelleak.report import backdoors, ranking, tables


def _row(attack='backdoor.backdoor', rate=0.7, main=0.9, **fields):
  summary = lambda mean: dict(mean=mean, std=0.05, stderr=0.02)
  gamma = fields.pop('gamma', None)
  setting = dict(
    split='splits.rows',
    top='sum',
    attacker=0,
    num_classes=10,
    batch_size=64,
    trained=True,
    aggregate='ideal',
    code='none',
    penalty='none',
    defense='none',
    data='digits',
    model='mlp.mlp2',
  )
  setting |= fields.pop('setting', {})
  row = dict(
    config='backdoor',
    point={},
    attack=attack,
    attack_args={} if gamma is None else dict(gamma=gamma),
    known=[],
    setting=setting,
    data='digits',
    model='mlp.mlp2',
    defense='none',
    trials=10,
    seed=0,
    metrics=dict(
      backdoor_rate=summary(rate),
      backdoor_count=summary(rate),
      main_accuracy=summary(main),
      norm_shift=summary(1.234),
    ),
    paper=None,
    seconds=1.0,
    device='cpu',
    commit='abc',
  )
  return row | fields


def _swept():
  rows = [_row(gamma=g, rate=r) for g, r in ((100, 0.9), (1, 0.3), (10, 0.8))]
  return [*rows, _row('none', rate=0.01)]


class GammaTest(absltest.TestCase):
  def test_lines_run_from_the_smallest_gamma(self):
    fig = backdoors.by_gamma(_swept())
    left, right = fig.axes
    line = left.lines[0]
    drawn = lambda line: np.array(line.get_ydata(), float)
    np.testing.assert_array_equal(line.get_xdata(), [1, 10, 100])
    np.testing.assert_allclose(drawn(line), [30, 80, 90])
    np.testing.assert_allclose(drawn(right.lines[0]), [90, 90, 90])
    np.testing.assert_allclose(drawn(left.lines[-1]), [1, 1])

  def test_points_are_lines_of_their_own(self):
    rows = [
      _row(gamma=g, point=dict(form=form))
      for form in ('a', 'b')
      for g in (1, 10)
    ]
    fig = backdoors.by_gamma(rows)
    shown = {t.get_text() for t in fig.legends[0].get_texts()}
    self.assertLen(shown, 2)

  def test_one_gamma_is_no_sweep(self):
    self.assertIsNone(backdoors.by_gamma([_row(gamma=10), _row('none')]))


class PicturesTest(parameterized.TestCase):
  @parameterized.parameters(1, 3)
  def test_every_example_stands_above_its_triggered_form(self, channels):
    rng = np.random.default_rng(0)
    plain = rng.uniform(size=(4, 8, 8, channels))
    triggered = plain.copy()
    triggered[:, 7, 7] = 1
    taken = dict(plain=[1, 2, 3, 4], triggered=[9, 9, 9, 2])
    examples = dict(
      label=[1, 2, 3, 5],
      target=9,
      plain=plain.tolist(),
      triggered=triggered.tolist(),
      taken_for=taken,
    )
    fig = backdoors.pictures(_row(examples=examples))
    self.assertLen(fig.axes, 8)
    titles = [ax.get_title() for ax in fig.axes]
    self.assertEqual(titles[3], '5 taken for 4')
    self.assertEqual(titles[7], '5 taken for 2')
    drawn = np.asarray(fig.axes[4].images[0].get_array())
    self.assertEqual(drawn.reshape(8, 8, -1)[7, 7].min(), 1.0)


class TablesTest(absltest.TestCase):
  def test_attacks_that_train_their_own_model_share_a_heading(self):
    rows = [_row(main=0.9), _row('none', main=0.95)]
    self.assertLen(tables.by_point(rows), 1)
    text = tables.points(rows)
    for part in ('90.00', '95.00', '70.00', '1.234'):
      self.assertIn(part, text)

  def test_a_defense_is_ranked_against_the_training_not_attacked(self):
    coded = dict(setting=dict(code='coae'))
    rows = [
      _row(main=0.9),
      _row('none', main=0.95, rate=0.0),
      _row(main=0.85, rate=0.1, **coded),
      _row('none', main=0.86, rate=0.0, **coded),
    ]
    (found,) = ranking.comparisons(rows)
    self.assertEqual(ranking.ideal(found), 0.95)
    self.assertEqual(found.attacks, ['backdoor.backdoor'])
    best = ranking.judge(found)[0]
    self.assertEqual(best.point.defense, 'coae')

  def test_a_run_leaves_its_plots(self):
    rows = _swept()
    rows[0]['examples'] = dict(
      label=[1],
      target=2,
      plain=np.zeros((1, 4, 4, 1)).tolist(),
      triggered=np.ones((1, 4, 4, 1)).tolist(),
      taken_for=dict(plain=[1], triggered=[2]),
    )
    workdir = self.create_tempdir().full_path
    report.finish(workdir, rows)
    for name in ('gamma.png', 'triggered.png', 'accuracy.png', 'table.md'):
      with open(f'{workdir}/{name}', 'rb') as file:
        self.assertNotEmpty(file.read(), name)


if __name__ == '__main__':
  absltest.main()
