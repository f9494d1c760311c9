"""The reader of vertical configs: epochs become steps."""

from absl.testing import absltest, parameterized

from configs import common
from labelleak.base import InputError
from labelleak.experiments.vfl.build import build


class TrainingTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(epochs=2), None, 44),  # of 1347 rows
    (dict(epochs=3), 2, 15),  # of 269 rows
    (dict(steps=7), None, 7),
    ({}, None, 0),
  )
  def test_epochs_are_whole_ones_of_the_rows(self, options, classes, steps):
    config = common.vfl('test')
    config.classes = classes
    common.train(config, batch_size=64, **options)
    self.assertEqual(build(config).training.steps, steps)

  def test_one_of_both(self):
    config = common.vfl('test')
    common.train(config, batch_size=64, epochs=2, steps=7)
    message = 'train.steps=7 and train.epochs=2 both'
    with self.assertRaisesRegex(InputError, message):
      build(config)


if __name__ == '__main__':
  absltest.main()
