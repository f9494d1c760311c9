"""No number comes of a view that is not finite, or of what is no answer."""

from absl.testing import absltest, parameterized
import jax.numpy as jnp

from labelleak import experiments, runs
from labelleak.base import Attack, InputError
from tests.experiments import samples


def wrong_counts(*, kind: str) -> Attack:
  """Breaks the contract of counts in some trials; is not of `base.attack`."""

  def infer(key, view, known):
    counts = jnp.zeros(known.num_classes).at[0].set(known.num_examples)
    wrong = dict(
      sum=counts.at[1].add(1),
      negative=counts.at[1].add(2).at[2].add(-2),
      nan=counts.at[0].set(jnp.nan),
      none=counts,
    )[kind]
    trial_is_odd = view.grads['head']['bias'][0] > 0
    return jnp.where(trial_is_odd, wrong, counts)

  return Attack(infer)


def wrong_scores(*, kind: str) -> Attack:
  """Breaks the contract of scores in its values or its shape."""

  def infer(key, view, known):
    scores = jnp.zeros((known.batch_size, known.num_classes))
    return dict(
      nan=scores.at[3, 1].set(jnp.nan),
      miss=scores.at[3].set(jnp.nan),
      rows=scores[:, 0],
      classes=scores[:, :-1],
    )[kind]

  return Attack(infer)


def _attack(function, kind):
  return (dict(name=f'{__name__}.{function}', kind=kind),)


class HorizontalTest(parameterized.TestCase):
  @parameterized.parameters('sum', 'negative', 'nan')
  def test_what_is_no_counts_is_refused_by_name(self, kind):
    config = samples.horizontal(attacks=_attack('wrong_counts', kind))
    message = rf'wrong_counts\(kind={kind}\) answered . of 6 trials'
    with self.assertRaisesRegex(InputError, message):
      experiments.run(config)

  def test_counts_in_floats_will_do(self):
    config = samples.horizontal(attacks=_attack('wrong_counts', 'none'))
    self.assertLen(experiments.run(config), 2)

  @parameterized.parameters(1, 4)
  def test_a_client_that_diverges_gives_no_rate(self, local_steps):
    config = samples.horizontal(
      lr=1e30, local_steps=local_steps, rounds=3, trials=2
    )
    config.attacks += (
      dict(name='over_time.mean_update', attack='counts.llbg'),
    )
    workdir = self.create_tempdir().full_path
    with self.assertRaisesRegex(InputError, 'view of 2 of 2 trials is not fin'):
      experiments.run(config, workdir)
    self.assertEmpty(runs.read_rows(workdir))

  @parameterized.parameters(0.0, -1.0, float('nan'), float('inf'))
  def test_a_learning_rate_is_finite_and_positive(self, lr):
    with self.assertRaisesRegex(InputError, f'lr={lr}'):
      experiments.run(samples.horizontal(lr=lr))


class VerticalTest(parameterized.TestCase):
  @parameterized.parameters(
    ('nan', 'answered 2 of 2 trials'),
    ('rows', r'returned shape \(32,\), not scores \(32, 10\)'),
    ('classes', r'returned shape \(32, 9\), not scores \(32, 10\)'),
  )
  def test_what_is_no_scores_is_refused_by_name(self, kind, message):
    config = samples.vertical(attacks=_attack('wrong_scores', kind))
    with self.assertRaisesRegex(InputError, f'wrong_scores.*{message}'):
      experiments.run(config)

  def test_a_row_without_an_answer_is_a_miss(self):
    config = samples.vertical(attacks=_attack('wrong_scores', 'miss'))
    self.assertLen(experiments.run(config), 2)

  def test_an_attack_over_a_training_is_held_to_it(self):
    config = samples.vertical(
      experiment='vfl.privacy_utility',
      attacks=_attack('wrong_scores', 'nan'),
      train__steps=1,
      train__batch_size=32,
    )
    with self.assertRaisesRegex(InputError, 'wrong_scores.*answered 2 of 2'):
      experiments.run(config)


if __name__ == '__main__':
  absltest.main()
