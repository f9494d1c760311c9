"""What figures show, in the units of their axes: the same as recorded.

Layout is Matplotlib's and is left out. `python -m
tests.report.fixed_figures_test` records anew, which only a change that is meant
to change a figure may do.
"""

import json
import pathlib

from absl.testing import parameterized
import numpy as np

from labelleak.report import pictures, plots, ranking, tradeoff
from tests.report import sample

FILE = pathlib.Path(__file__).with_name('fixed_figures.json')


def _tradeoff():
  """Two attacks and guessing, under two families of defenses."""
  rows = []
  for mean, main, defense in (
    (0.95, 0.97, []),
    (0.8, 0.96, [sample.gaussian(0.001)]),
    (0.4, 0.9, [sample.gaussian(0.01)]),
    (0.5, 0.93, [dict(name='sparsify', drop=0.9)]),
  ):
    spread = dict(label_accuracy=sample.summary(mean, 0.03, 0.01))
    for name in 'linear.full', 'scores.random':
      rows.append(
        sample.vertical(name, mean, main, defense, metrics=dict(spread))
      )
  return tradeoff.draw(ranking.comparisons(rows))


def _bars():
  """Bars of two points, one with a published number."""
  return plots.accuracy_bars(
    [
      sample.horizontal('counts.llbg', 0.995),
      sample.horizontal('counts.ebi', 0.7),
      sample.horizontal('counts.random', 0.2),
      sample.horizontal('counts.llbg', 0.8, point={'a': 1}, trials=3),
    ]
  )


def _sweep():
  """Batch sizes of two attacks, of which one is published."""
  return plots.field_sweep(
    [
      sample.horizontal(name, mean - size / 5000, setting=dict(batch_size=size))
      for size in (256, 128, 1024)
      for name, mean in (('counts.llbg', 0.9), ('counts.ebi', 0.6))
    ],
    'batch_size',
  )


def _gammas():
  """Two gammas, and a training that nobody attacked."""
  rows = [
    sample.backdoor(rate=0.2 * gamma, main=1 - gamma / 20, gamma=gamma)
    for gamma in (4, 1)
  ]
  return plots.gamma_sweep([*rows, sample.backdoor('none', 0.1, 0.95)])


def _restored():
  """Two attacks on images that are wider than high, of two points."""
  rows = [
    sample.reconstruction(),
    sample.reconstruction('granted'),
    sample.reconstruction('granted', seed=1),
  ]
  images = np.arange(16, dtype=np.uint8).reshape(1, 2, 2, 4, 1)
  names = 'originals', 'restored'
  return pictures.restorations(
    rows, {f'{i}/{name}': images for i in range(3) for name in names}
  )


def _triggers():
  """Two examples and their triggered forms."""
  plain = np.arange(16.0).reshape(2, 2, 2, 2)[..., :1] - 3
  examples = sample.examples(
    plain, plain + 4, [1, 2], 3, dict(plain=[1, 0], triggered=[3, 3])
  )
  return pictures.trigger_examples([sample.backdoor(examples=examples)])


FIGURES = dict(
  tradeoff=_tradeoff,
  bars=_bars,
  sweep=_sweep,
  gammas=_gammas,
  restored=_restored,
  triggers=_triggers,
)


def _numbers(values):
  return np.round(np.asarray(values, float), 4).tolist()


def describe(fig):
  """Lists what stands where, a panel an item."""
  return [dict(inches=_numbers(fig.get_size_inches()))] + [
    dict(
      title=ax.get_title('left') + ax.get_title(),
      labels=[ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()],
      limits=_numbers([ax.get_xlim(), ax.get_ylim()]),
      lines=[
        [line.get_label(), line.get_color(), _numbers(line.get_xydata())]
        for line in ax.get_lines()
        if len(line.get_xydata())
      ],
      errors=[
        _numbers(path.vertices)
        for collection in ax.collections
        for path in collection.get_paths()
        if len(path.vertices) == 2  # of error bars, and no contours
      ],
      bars=[
        _numbers([*bar.get_xy(), bar.get_width(), bar.get_height()])
        for bar in ax.patches
      ],
      texts=[
        [text.get_text(), _numbers(getattr(text, 'xy', text.get_position()))]
        for text in ax.texts
        if 'DCS' not in text.get_text()  # on contours
      ],
      images=[_numbers(image.get_array()) for image in ax.images],
    )
    for ax in fig.axes
    if ax.get_visible()
  ]


class FixedFiguresTest(parameterized.TestCase):
  @parameterized.parameters(*FIGURES)
  def test_shows(self, name):
    found = json.loads(json.dumps(describe(FIGURES[name]())))
    recorded = json.loads(FILE.read_text())[name]
    self.assertEqual(found, recorded)


if __name__ == '__main__':
  recorded = {name: describe(draw()) for name, draw in FIGURES.items()}
  FILE.write_text(json.dumps(recorded, indent=1) + '\n')
