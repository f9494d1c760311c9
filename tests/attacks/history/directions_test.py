"""Directions of cut gradients over a training, by labelled rows and without."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, experiments, metrics, vfl
from labelleak.base import InputError, Labelled, Pool
from tests.experiments import samples

N, B, D, K = 60, 20, 6, 4


def _world(noise=0.1, epochs=3, decay=1.0, seed=0):
  """Returns features, labels and views of a training; row 59 is in none."""
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(N, 5)).astype(np.float32), np.arange(N) % K
  views = []
  for epoch in range(epochs):
    means = rng.normal(size=(K, D))
    order = np.append(rng.permutation(N - 1), -1)
    for index in np.split(order, N // B):
      length = decay**epoch * rng.uniform(0.5, 2.0, size=(B, 1))
      cut = means[y[index]] + noise * (epoch + 1) * rng.normal(size=(B, D))
      cut = np.where(index[:, None] < 0, 100.0, length * cut)
      view = vfl.View(*(None,) * 5, jnp.asarray(cut, jnp.float32), index)
      views.append(view)
  return x, y, views


def _read(name, views, *, x=None, y=None, rows=range(K), **options):
  attack = attacks.load(f'history.{name}', **options)
  grants = {}
  if x is not None:
    rows = np.asarray(rows, int)
    grants = dict(
      labelled=Labelled(x[rows], np.eye(K, dtype=np.float32)[y[rows]]),
      pool=Pool(lambda index: x[index], N),
    )
  known = vfl.Known(K, B, num_rows=N, **grants)
  memory = attack.init(known)
  for view in views:
    memory = attack.observe(memory, view)
  return np.asarray(attack.infer(jax.random.key(0), memory, known))


class DirectionsTest(parameterized.TestCase):
  @parameterized.product(refine=(True, False), visits=(None, 1, 2))
  def test_rows_are_called_what_their_direction_is(self, refine, visits):
    x, y, views = _world()
    scores = _read('directions', views, x=x, y=y, refine=refine, visits=visits)
    self.assertEqual(scores.shape, (N, K))
    np.testing.assert_array_equal(scores[:-1].argmax(1), y[:-1])
    np.testing.assert_array_equal(scores[-1], 0)  # no step held it

  def test_all_epochs_say_more_than_the_last(self):
    x, y, views = _world(noise=0.35)
    right = lambda **options: (
      _read('directions', views, x=x, y=y, **options)[:-1].argmax(1) == y[:-1]
    ).mean()
    self.assertGreater(right(), right(visits=1, refine=False) + 0.1)

  def test_short_gradients_weigh_less(self):
    """An epoch of noise, a thousandth in length, changes little."""
    x, y, views = _world(noise=0.0, epochs=1)
    rng = np.random.default_rng(1)
    noise = [
      v._replace(cut_grads=jnp.asarray(1e-3 * rng.normal(size=(B, D))))
      for v in views
    ]
    clean = _read('directions', views, x=x, y=y)
    found = _read('directions', [*views, *noise], x=x, y=y)
    np.testing.assert_array_equal(found[:-1].argmax(1), y[:-1])
    np.testing.assert_allclose(found, clean, atol=0.15)

  def test_scale_of_all_gradients_changes_nothing(self):
    x, y, views = _world()
    scaled = [v._replace(cut_grads=7 * v.cut_grads) for v in views]
    np.testing.assert_allclose(
      _read('directions', views, x=x, y=y),
      _read('directions', scaled, x=x, y=y),
      atol=1e-5,
    )

  def test_a_class_without_a_row_is_refused(self):
    x, y, views = _world()
    with self.assertRaisesRegex(InputError, 'has none of class 3'):
      _read('directions', views, x=x, y=y, rows=range(3))

  def test_what_says_nothing_of_rows_is_refused(self):
    x, y, views = _world()
    with self.assertRaisesRegex(InputError, 'no step was observed'):
      _read('directions', [], x=x, y=y)
    with self.assertRaisesRegex(InputError, 'names none; give it index'):
      _read('direction_groups', [views[0]._replace(index=None)])
    with self.assertRaisesRegex(InputError, 'link is sealed'):
      _read('direction_groups', [views[0]._replace(cut_grads=None)])
    with self.assertRaisesRegex(InputError, 'visits=0'):
      attacks.load('history.directions', visits=0)
    with self.assertRaisesRegex(InputError, 'needs num_rows'):
      attacks.load('history.direction_groups').init(vfl.Known(K, B))

  def test_groups_are_classes_without_names(self):
    _, y, views = _world()
    scores = _read('direction_groups', views)[:-1]
    renamed = metrics.permuted_label_accuracy(
      jnp.asarray(scores), jnp.eye(K)[y[:-1]]
    )
    self.assertEqual(float(renamed), 1.0)

  def test_a_trained_top_hides_nothing(self):
    """Of width 12 below a top, against features alone; others are refused."""
    config = samples.vertical(experiment='vfl.whole_training')
    config.aggregate = dict(name='plaintext')
    config.cut_width, config.top = 12, dict(name='mlp.mlp2')
    config.optimizer = dict(name='adam', lr=1e-3)
    config.train.epochs, config.after, config.trials = 1, (1,), 1
    config.known = ('pool', 'labelled')
    config.attacks = (
      dict(name='history.directions'),
      dict(name='history.clusters'),
    )
    rows = {r['attack']['name']: r['metrics'] for r in experiments.run(config)}
    right = rows['history.directions']['label_accuracy']['mean']
    alone = rows['history.clusters']['permuted_label_accuracy']['mean']
    self.assertGreater(right, 0.9)
    self.assertGreater(right, alone + 0.1)
    config.attacks = (dict(name='history.gaussian_process', known=('pool',)),)
    with self.assertRaisesRegex(InputError, 'reads logits that are added'):
      experiments.run(config)


if __name__ == '__main__':
  absltest.main()
