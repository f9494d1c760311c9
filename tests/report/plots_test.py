"""Bars, lines over what was swept, confusion: each row where it belongs."""

from unittest import mock

from absl.testing import absltest, parameterized
from matplotlib import figure
import numpy as np

from labelleak.report import panels, plots
from tests.report import sample


def _trained(step, classes):
  return sample.horizontal(
    'linear.full',
    point={'train.steps': step, 'classes': classes},
    setting=dict(step=step, num_classes=classes, trained=step > 0),
    matrix=np.eye(classes).tolist(),
  )


class BarsTest(parameterized.TestCase):
  def test_a_panel_a_point_with_published_diamonds(self):
    rows = [
      sample.horizontal('counts.llbg', 0.9),
      sample.horizontal('counts.random', 0.2),
      sample.horizontal('counts.llbg', 0.8, point={'a': 1}, trials=3),
    ]
    first, second = plots.accuracy_bars(rows).axes
    names = [text.get_text() for text in first.get_yticklabels()]
    self.assertEqual(names, ['llbg', 'random'])
    widths = [bar.get_width() for bar in first.patches]
    np.testing.assert_allclose(widths, [90, 20])
    (line,) = [x for x in first.lines if x.get_label() == 'published']
    np.testing.assert_allclose(line.get_xydata(), [[99.62, 0]])
    self.assertEndsWith(second.get_title('left'), '3 trials')

  def test_all_panels_leave_as_much_room_as_the_most_bars_need(self):
    rows = [
      sample.horizontal(f'counts.{name}', point={'bars': bars})
      for bars in (1, 3)
      for name in ('llbg', 'llg', 'random')[:bars]
    ]
    few, many = plots.accuracy_bars(rows).axes
    self.assertEqual(few.get_ylim(), many.get_ylim())
    bottom, top = many.get_ylim()  # downwards
    edges = [(bar.get_y(), bar.get_height()) for bar in many.patches]
    self.assertLen(edges, 3)
    first = min(y + min(height, 0) for y, height in edges)
    last = max(y + max(height, 0) for y, height in edges)
    self.assertAlmostEqual(first - top, bottom - last)
    self.assertBetween(first - top, 0, 0.5)

  def test_rows_without_the_first_metric_have_no_bar(self):
    other = sample.horizontal('a.b', metrics=dict(mine=sample.summary(0.5)))
    (ax,) = plots.accuracy_bars([sample.horizontal(), other]).axes
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, [90])


class LegendTest(parameterized.TestCase):
  @parameterized.parameters(
    (8, 6.0, 6), (9, 6.0, 5), (40, 6.0, 2), (400, 6.0, 1), (8, 0.9, 1)
  )
  def test_as_many_columns_as_fit(self, letters, inches, columns):
    """A letter takes 0.05 inches, and the line before a text 0.6."""
    fig = figure.Figure((inches, 4))
    ax = fig.subplots()
    for label in ('a', letters * 'b', 'c', 'd'):
      ax.plot([0, 1], label=label)
    ax.plot([1, 0], label='a')
    with mock.patch.object(fig, 'legend') as legend:
      panels.legend(fig)
    _, labels = legend.call_args.args
    self.assertEqual(list(labels), ['a', letters * 'b', 'c', 'd'])
    self.assertEqual(legend.call_args.kwargs['ncols'], columns)


class OverTest(parameterized.TestCase):
  def test_what_was_not_swept_has_no_plot(self):
    rows = [_trained(step, 2) for step in (0, 10)]
    self.assertIsNotNone(plots.field_sweep(rows, 'step'))
    for field in ('num_classes', 'batch_size', 'depth', 'share', 'parties'):
      self.assertIsNone(plots.field_sweep(rows, field))

  def test_panels_say_what_sets_them_apart(self):
    rows = [_trained(step, k) for step in (0, 10) for k in (2, 4)]
    titles = [
      ax.get_title('left') for ax in plots.field_sweep(rows, 'step').axes
    ]
    self.assertLen(titles, 2)
    for title, k in zip(titles, (2, 4)):
      self.assertEndsWith(title, f'num_classes={k}')

  @parameterized.parameters(
    ('depth', dict(top='mlp.bn_mlp'), dict(top='mlp.linear'), 'linear'),
    ('share', dict(split='a'), dict(split='b'), 'linear'),
    ('parties', dict(split='a', share=0.5), dict(split='b', share=0.1), 'log'),
  )
  def test_what_moves_with_a_swept_fact_is_one_line(self, field, a, b, scale):
    rows = []
    for value, facts in ((2, a), (4, b)):
      model = dict(name=f'mlp{value}' if field == 'depth' else 'mlp')
      setting = dict(facts, model=model, **{field: value})
      rows.append(sample.horizontal(setting=setting, point={field: value}))
    (ax,) = plots.field_sweep(rows, field).axes
    self.assertEqual(ax.get_xticks().tolist(), [2, 4])
    self.assertEqual(ax.get_xscale(), scale)
    self.assertEqual(ax.get_title('left').startswith('mlp'), field != 'depth')
    (line,) = ax.containers
    np.testing.assert_allclose(line.lines[0].get_xydata(), [[2, 90], [4, 90]])

  def test_points_are_in_order_and_diamonds_where_published(self):
    sizes = (512, 128, 7, 256)
    rows = [
      sample.horizontal('counts.llg', b / 1e3, setting=dict(batch_size=b))
      for b in sizes
    ]
    (ax,) = plots.field_sweep(rows, 'batch_size').axes
    line = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(
      line, [[7, 0.7], [128, 12.8], [256, 25.6], [512, 51.2]]
    )
    (papers,) = [x for x in ax.lines if x.get_label() == 'published']
    np.testing.assert_allclose(
      papers.get_xydata(), [[128, 81.57], [256, 69.03], [512, 49.07]]
    )

  def test_a_fact_that_is_none_is_one_that_is_absent(self):
    rows = [
      sample.horizontal(setting=dict(batch_size=b, **extra))
      for b, extra in ((128, dict(cap=None)), (1024, {}))
    ]
    (ax,) = plots.field_sweep(rows, 'batch_size').axes
    self.assertEqual(ax.get_xticks().tolist(), [128, 1024])


class GammaTest(absltest.TestCase):
  def _rows(self):
    rates = ((100, 0.9), (1, 0.3), (10, 0.8))
    rows = [sample.backdoor(gamma=g, rate=r) for g, r in rates]
    return [*rows, sample.backdoor('none', rate=0.01)]

  def test_lines_run_from_the_smallest_gamma(self):
    left, right = plots.gamma_sweep(self._rows()).axes
    drawn = lambda line: np.array(line.get_ydata(), float)
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [1, 10, 100])
    np.testing.assert_allclose(drawn(left.lines[0]), [30, 80, 90])
    np.testing.assert_allclose(drawn(right.lines[0]), [90, 90, 90])
    np.testing.assert_allclose(drawn(left.lines[-1]), [1, 1])

  def test_points_are_lines_of_their_own(self):
    rows = [
      sample.backdoor(gamma=g, point=dict(form=form))
      for form in ('a', 'b')
      for g in (1, 10)
    ]
    fig = plots.gamma_sweep(rows)
    texts = {t.get_text() for t in fig.legends[0].get_texts()}
    want = {f'backdoor.backdoor, form={form}' for form in ('a', 'b')}
    self.assertEqual(texts, want)

  def test_one_gamma_is_no_sweep(self):
    rows = [sample.backdoor(gamma=10), sample.backdoor('none')]
    self.assertIsNone(plots.gamma_sweep(rows))


class EpochTest(absltest.TestCase):
  def _row(self, name, shares, defense=()):
    metrics = {f'after_{e}': sample.summary(v, 0.01) for e, v in shares.items()}
    metrics['label_accuracy'] = sample.summary(shares[max(shares)])
    row = sample.vertical(name, shares[max(shares)], defense=defense)
    return row | dict(metrics=metrics)

  def test_a_panel_an_attack_over_time_and_a_line_a_defense(self):
    noisy = [sample.gaussian(0.01)]
    rows = [
      self._row('history.a', {10: 0.9, 1: 0.5, 2: 0.7}),
      self._row('history.a', {1: 0.3, 2: 0.4, 10: 0.6}, noisy),
      self._row('history.b', {1: 0.2, 2: 0.2, 10: 0.3}),
      self._row('history.c', {1: 0.2, 2: 0.2, 10: 0.2}),
      self._row('scores.random', {1: 0.1, 2: 0.1, 10: 0.11}),
    ]
    fig = plots.epoch_curves(rows)
    left, right = fig.axes
    self.assertEqual(
      [a.get_title('left') for a in fig.axes], ['history.a', 'history.b']
    )
    drawn = lambda ax: [n for n in ax.lines if len(n.get_xdata()) == 3]
    plain, noise = (n for n in drawn(left) if n.get_marker() == 'o')
    guess = left.lines[-1]
    np.testing.assert_allclose(plain.get_xydata(), [[1, 50], [2, 70], [10, 90]])
    np.testing.assert_allclose(noise.get_ydata(), [30, 40, 60])
    np.testing.assert_allclose(guess.get_ydata(), 11)
    self.assertEqual(right.lines[0].get_color(), plain.get_color())
    texts = [t.get_text() for t in fig.legends[0].get_texts()]
    self.assertEqual(texts, ['none', 'gaussian(stddev=0.01)'])

  def test_a_panel_a_kind_of_link_if_there_are_several(self):
    sealed, clear = (
      [
        self._row('history.a', {1: 0.5, 10: top}),
        self._row('history.a', {1: 1.0, 10: 1.0}, [sample.gaussian(0.01)]),
      ]
      for top in (0.7, 0.9)
    )
    for row in sealed:
      extra = dict(row['setting']['extra'], aggregate=dict(name='ideal'))
      row['setting'] = dict(row['setting'], extra=extra)
    fig = plots.epoch_curves([*sealed, *clear])
    for ax, link, top in zip(fig.axes, ('in the clear', 'sealed'), (90, 70)):
      self.assertEqual(ax.get_title('left'), f'history.a, {link}')
      moving, still = (n for n in ax.lines if n.get_marker() == 'o')
      np.testing.assert_allclose(moving.get_ydata(), [50, top])
      np.testing.assert_allclose(still.get_ydata(), 100)

  def test_one_epoch_is_no_curve(self):
    self.assertIsNone(plots.epoch_curves([self._row('history.a', {1: 0.5})]))


class ConfusionTest(absltest.TestCase):
  def test_matrices_say_what_sets_their_points_apart(self):
    rows = [_trained(0, k) for k in (2, 4)]
    axes = plots.confusion(rows).axes
    labels = [ax.get_ylabel() for ax in axes if 'label' in ax.get_ylabel()]
    self.assertEqual(labels, ['num_classes=2\nlabel', 'num_classes=4\nlabel'])

  def test_rows_without_a_matrix_have_no_panel(self):
    rows = [_trained(0, 2), _trained(0, 2), _trained(0, 4)]
    rows.append(sample.horizontal(point={'a': 1}))
    images = [ax for ax in plots.confusion(rows).axes if ax.get_images()]
    self.assertLen(images, 3)
    self.assertIsNone(plots.confusion(rows[3:]))


if __name__ == '__main__':
  absltest.main()
