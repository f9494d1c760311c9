"""Pictures: every image under or beside the one that it belongs to."""

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.report import pictures
from tests.report import sample


class RestoredTest(parameterized.TestCase):
  def _row(self, labels, **fields):
    metrics = dict(psnr=sample.summary(12.34, 1.0, 0.1))
    name = 'reconstruction.inverting_gradients'
    args = dict(labels=labels)
    return sample.horizontal(name, metrics=metrics, args=args, **fields)

  def _arrays(self, num, channels=3):
    rng = np.random.default_rng(0)
    return {
      f'{i}/{name}': rng.integers(
        0, 255, (2, 4, 9, 9, channels), dtype=np.uint8
      )
      for i in range(num)
      for name in ('originals', 'restored')
    }

  @parameterized.parameters(1, 3)
  def test_lines_are_originals_then_attacks(self, channels):
    rows = [self._row('counts.llg'), self._row('granted')]
    arrays = self._arrays(2, channels)
    fig = pictures.restorations(rows, arrays)
    self.assertEqual(
      [ax.get_ylabel() for ax in fig.axes],
      ['originals', 'llg labels\nPSNR 12.3', 'granted labels\nPSNR 12.3'],
    )
    for ax, name in zip(fig.axes, ('0/originals', '0/restored', '1/restored')):
      strip = np.reshape(ax.images[0].get_array(), (9, -1, channels))
      # Two white columns between images, six between batches.
      self.assertEqual(strip.shape[1], 2 * (4 * 9 + 3 * 2) + 6)
      np.testing.assert_array_equal(strip[:, :9], arrays[name][0, 0])
      np.testing.assert_array_equal(strip[:, 11:20], arrays[name][0, 1])
      np.testing.assert_array_equal(strip[:, 48:57], arrays[name][1, 0])
      self.assertTrue((strip[:, 9:11] == 255).all())

  def test_each_point_has_its_originals(self):
    """Two seeds have the same heading."""
    rows = [self._row('granted', seed=seed) for seed in (0, 1)]
    arrays = self._arrays(2)
    axes = pictures.restorations(rows, arrays).axes
    self.assertEqual(
      [ax.get_ylabel() == 'originals' for ax in axes], [1, 0] * 2
    )
    strip = axes[2].images[0].get_array()
    np.testing.assert_array_equal(strip[:, :9], arrays['1/originals'][0, 0])

  def test_rows_without_images_have_no_line(self):
    rows = [sample.horizontal('a.b'), self._row('granted')]
    arrays = self._arrays(2)
    del arrays['0/restored']
    self.assertLen(pictures.restorations(rows, arrays).axes, 2)
    self.assertIsNone(pictures.restorations(rows, {}))

  def test_an_attack_without_labels_or_psnr_has_its_name(self):
    axes = pictures.restorations(
      [sample.horizontal('a.b')], self._arrays(1)
    ).axes
    self.assertEqual(axes[1].get_ylabel(), 'a.b')


class TriggeredTest(parameterized.TestCase):
  @parameterized.parameters(1, 3)
  def test_every_example_stands_above_its_triggered_form(self, channels):
    rng = np.random.default_rng(0)
    plain = rng.uniform(size=(4, 8, 8, channels))
    triggered = plain.copy()
    triggered[:, 7, 7] = 1
    examples = sample.examples(
      plain,
      triggered,
      label=[1, 2, 3, 5],
      target=9,
      taken_for=dict(plain=[1, 2, 3, 4], triggered=[9, 9, 9, 2]),
    )
    rows = [sample.backdoor('none'), sample.backdoor(examples=examples)]
    fig = pictures.trigger_examples(rows)
    self.assertLen(fig.axes, 8)
    titles = [ax.get_title() for ax in fig.axes]
    self.assertEqual(titles[3], '5 taken for 4')
    self.assertEqual(titles[7], '5 taken for 2')
    drawn = np.asarray(fig.axes[4].images[0].get_array())
    self.assertEqual(drawn.reshape(8, 8, -1)[7, 7].min(), 1.0)
    low, high = plain.min(), plain.max()
    np.testing.assert_allclose(
      np.reshape(fig.axes[0].images[0].get_array(), plain[0].shape),
      (plain[0] - low) / (high - low),
      rtol=1e-5,
      atol=1e-6,
    )
    self.assertIsNone(pictures.trigger_examples(rows[:1]))


class ExplanationsTest(absltest.TestCase):
  def _rows(self):
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.normal(size=(6, 2)), np.arange(6) % 3])
    maps = [
      dict(image=rng.uniform(size=(4, 4, 1)).tolist(), map=np.eye(4).tolist())
      for _ in range(2)
    ]
    metrics = dict(reliance=sample.summary(0.25))
    names = 'completion.passive', 'a.b', 'scores.random'
    rows = [sample.vertical(name, 0.5, metrics=metrics) for name in names]
    del rows[1]['metrics']['reliance']
    return [row | dict(points=points.tolist(), maps=maps) for row in rows]

  def test_a_panel_an_attack_that_does_not_guess(self):
    axes = pictures.embeddings(self._rows()).axes
    titles = [ax.get_title() for ax in axes]
    self.assertEqual(titles, ['passive\nreliance on the attacker 25 %', 'a.b'])
    (cloud,) = axes[0].collections
    self.assertLen(cloud.get_offsets(), 6)
    np.testing.assert_array_equal(cloud.get_array(), np.arange(6) % 3)

  def test_maps_lie_over_the_images_of_the_first_line(self):
    axes = pictures.class_maps(self._rows()).axes
    self.assertEqual([len(ax.images) for ax in axes], [1, 1, 2, 2, 2, 2])
    self.assertEqual(axes[0].get_ylabel(), 'image')
    self.assertStartsWith(axes[2].get_ylabel(), 'passive')
    np.testing.assert_array_equal(axes[2].images[1].get_array(), np.eye(4))

  def test_rows_without_them_have_no_picture(self):
    row = sample.vertical('completion.passive', 0.5)
    self.assertIsNone(pictures.embeddings([row]))
    self.assertIsNone(pictures.class_maps([row]))


if __name__ == '__main__':
  absltest.main()
