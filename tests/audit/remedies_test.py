"""Simulated remedies against what must hold of them."""

from unittest import mock

from absl.testing import absltest
import jax
import numpy as np

from labelleak import hfl
from labelleak.audit import lattice, remedies, simulation

K, H, N = 6, 40, 48
LABELS = np.array([20, 12, 8, 5, 3, 0])


def _capture(seed=0):
  """Makes the head's update of one step whose inputs are all the same."""
  rng = np.random.default_rng(seed)
  h = np.abs(rng.normal(size=H))
  bias = 0.1 * (1 / K - LABELS / N)
  server = dict(kernel=rng.normal(size=(H, K)), bias=rng.normal(size=K))
  return h, dict(kernel=np.outer(h, bias), bias=bias), server


class SimulateTest(absltest.TestCase):
  def test_stronger_defenses_leave_less(self):
    _, update, _ = _capture()
    client = hfl.Client(lr=0.1, batch_size=16)
    results = remedies.simulate(
      jax.random.key(0), update, None, client, labels=LABELS.astype(float)
    )
    self.assertLen({remedy.name for remedy in results}, len(results))
    leaks = {remedy.name: remedy.accuracy for remedy in results}
    plain = leaks['as it is']
    self.assertGreater(plain, 0.9)
    noises = [leak for name, leak in leaks.items() if name.startswith('noise')]
    self.assertLen(noises, 3)
    self.assertLess(noises[1], noises[0])
    self.assertLess(noises[2], noises[1])
    self.assertLess(noises[2], plain - 0.15)
    private = [leak for name, leak in leaks.items() if name.startswith('DP')]
    self.assertLess(private[1], private[0])
    sums = [leak for name, leak in leaks.items() if name.startswith('secure')]
    self.assertLess(max(sums), plain - 0.05)
    for remedy in results:
      self.assertBetween(remedy.guessing, 0.4, 0.9)
      self.assertBetween(remedy.accuracy, remedy.guessing - 0.1, 1.0)

  def test_a_large_head_is_not_simulated(self):
    update = dict(bias=np.zeros(3000))
    results = remedies.simulate(
      jax.random.key(0), update, None, hfl.Client(), labels=np.ones(3000)
    )
    self.assertEmpty(results)


class ClientsTest(absltest.TestCase):
  """What is changed, about clients and about updates, by how much."""

  def test_other_ways_to_train(self):
    client = hfl.Client(lr=0.1, batch_size=10, epochs=2)
    changed = remedies._change_client(client, 30)
    sizes = [(c.batch_size, c.epochs, num) for _, c, num in changed]
    self.assertEqual(
      sizes, [(30, 2, 30), (10, 8, 30), (10, 2, 30), (10, 2, 30)]
    )
    noises = [c.noise_multiplier for _, c, _ in changed]
    self.assertEqual(noises, [0, 0, 0.5, 1.0])
    _, whole, num = remedies._change_client(hfl.Client(lr=0.1), 30)[0]
    self.assertEqual((whole.batch_size, num), (None, 120))

  def test_as_many_clients_as_memory_allows(self):
    """And those of the capture; shares of labels sum to 1."""
    rounds = simulation.Rounds(*[dict(bias=np.zeros((2, 50, 3)))] * 3)
    for num_classes, num, clients, groups in (
      (5, 40, 3, [2, 3, 10, 50]),
      (5, 40, 1, [2, 10, 50]),
      (1000, 2500, 1, [2]),  # at most 10,000,000 targets
      (1000, 2500, 4, [2, 4]),
    ):
      labels = np.zeros(num_classes)
      labels[:2] = num / 4, 3 * num / 4
      with (
        mock.patch.object(simulation, 'train', return_value=rounds) as train,
        mock.patch.object(remedies, '_score', lambda name, *_: name),
        mock.patch.object(remedies, '_defend_update', return_value=[]),
        mock.patch.object(remedies, '_change_client') as change,
      ):
        change.return_value = [('other', hfl.Client(), num)]
        names = remedies.simulate(
          jax.random.key(0),
          dict(bias=np.ones(num_classes)),
          None,
          hfl.Client(),
          labels=labels,
          clients=clients,
        )
      sums = [f'secure aggregation over {c} clients' for c in groups]
      self.assertEqual(list(names[2:]), sums)
      calls = [call.args for call in train.call_args_list]
      trained = [federation[1:] for _, federation, *_ in calls]
      self.assertIn((num, max(groups)), trained)
      shares = calls[0][-1]
      np.testing.assert_array_equal(shares[:3], [0.25, 0.75, 0])

  def test_an_update_is_clipped_to_half_and_made_as_noisy_as_is_said(self):
    rng = np.random.default_rng(0)
    shape = simulation.ROUNDS, 1
    updates = dict(
      bias=np.float32(3 * rng.normal(size=(*shape, K))),
      kernel=np.float32(rng.normal(size=(*shape, 7, K))),
    )
    rounds = simulation.Rounds(updates, np.ones((*shape, K)), None)
    scored = []
    with mock.patch.object(
      remedies, '_score', lambda name, rounds, *_: scored.append((name, rounds))
    ):
      remedies._defend_update(
        jax.random.key(1), rounds, dict(bias=np.full(K, 0.2))
      )
    clipped = np.asarray(scored[0][1].updates['bias'])
    half = simulation.ROUNDS // 2
    np.testing.assert_array_equal(clipped[:half], updates['bias'][:half])
    square = (updates['bias'] ** 2).sum(-1) + (updates['kernel'] ** 2).sum(
      (-2, -1)
    )
    limit = np.sqrt(square[:half].mean()) / 2
    factor = limit / np.sqrt(square[half:])[..., None]
    np.testing.assert_allclose(
      clipped[half:], factor * updates['bias'][half:], rtol=1e-4
    )
    size = np.sqrt(np.mean(updates['bias'] ** 2))
    for (name, noisy), share in zip(scored[1:], (0.01, 0.1, 1.0), strict=True):
      self.assertIn(f'deviation {0.2 * share:.2g} ', name)
      added = (noisy.updates['bias'] - updates['bias']) / size / share
      self.assertBetween(np.std(added), 0.8, 1.2)  # of 192 numbers

  def test_a_score_is_the_share_of_the_first_client_in_the_second_half(self):
    """Of the mean update, by who names what it is told."""
    rounds, half = simulation.ROUNDS, simulation.ROUNDS // 2
    labels = np.zeros((rounds, 2, 4))
    labels[:, 0] = 3, 1, 0, 0
    labels[:half, 0] = 0, 0, 4, 0
    last = np.zeros_like(labels)
    last[:, 0, 1] = 1
    bias = np.stack([labels[:, 0], labels[:, 1] + 2], 1)
    told = []

    def count(num, rest, mean, scales):
      told.extend([(num, rest, scales), mean])
      return np.tile([2, 2, 0, 0], (half, 1))

    with mock.patch.object(lattice, 'count', count):
      found = remedies._score(
        'name', simulation.Rounds(dict(bias=bias), labels, last), (0.5,)
      )
    self.assertEqual(found, remedies.Remedy('name', 3 / 4, 2 / 4))
    sizes, mean = told
    self.assertEqual(sizes, (4, 1, (0.5,)))
    np.testing.assert_array_equal(mean.updates, labels[:, 0] / 2 + 1)
    np.testing.assert_array_equal(mean.labels, labels[:, 0] / 2)


class DrawTest(absltest.TestCase):
  def test_inputs_scatter_about_the_mean_by_half_its_length(self):
    federation = simulation.Federation(hfl.Client(lr=0.1), 50, 2)
    h = np.float32([4.0, 0, 0, 0])
    shares = np.array([0.5, 0.5, 0.0])
    x, labels = simulation._draw(jax.random.key(0), federation, h, shares)
    self.assertEqual(x.shape, (simulation.ROUNDS, 2, 50, 4))
    self.assertEqual(labels.shape, x.shape[:3])
    np.testing.assert_allclose(x.mean((0, 1, 2)), h, atol=0.1)
    far = np.sqrt(((x - h) ** 2).sum(-1).mean())
    np.testing.assert_allclose(far, 0.5 * 4.0, rtol=0.02)
    # Who learns meets all classes; who is attacked has those inferred.
    half = simulation.ROUNDS // 2
    rare = [
      (labels[part] == 2).mean() for part in np.split(np.arange(2 * half), 2)
    ]
    self.assertGreater(rare[0], 0.05)
    self.assertLess(rare[1], 0.05)
    alone = simulation._draw(
      jax.random.key(0), federation._replace(clients=1), h, shares
    )
    np.testing.assert_array_equal(alone[0], x[:, :1])
    np.testing.assert_array_equal(alone[1], labels[:, :1])

  def test_who_learns_sees_other_classes_for_half(self):
    federation = simulation.Federation(hfl.Client(lr=0.1), 2)
    shares = np.array([0.5, 0.5, 0.0])
    with mock.patch.object(
      simulation, '_concentrate', side_effect=lambda shares: shares + 0.1
    ) as concentrate:
      simulation._draw(jax.random.key(0), federation, np.ones(2, 'f'), shares)
    (attacked,), (learning,) = (
      call.args for call in concentrate.call_args_list
    )
    np.testing.assert_array_equal(attacked, shares)
    np.testing.assert_allclose(learning, [5 / 12, 5 / 12, 1 / 6])

  def test_a_few_of_each_class_that_is_there(self):
    even = simulation._concentrate(np.full(5, 0.2))
    np.testing.assert_allclose(even, 4.05)
    two = simulation._concentrate(np.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(two, [4.05, 4.05, 0.05])

  def test_full_batches_leave_a_rest_in_an_order_that_stays(self):
    for fields, rest in (
      (dict(batch_size=8), 2),
      (dict(batch_size=5), 0),
      (dict(batch_size=100), 0),
      (dict(), 0),
      (dict(batch_size=8, shuffle=True), 0),
      (dict(batch_size=8, poisson=True), 0),
    ):
      self.assertEqual(simulation._count_rest(hfl.Client(**fields), 10), rest)

  def test_the_rest_is_the_last_of_the_examples(self):
    client = hfl.Client(lr=0.1, batch_size=4)
    federation = simulation.Federation(client, 6)
    head = dict(kernel=np.zeros((2, 3), 'f'), bias=np.zeros(3, 'f'))
    shares, key = np.full(3, 1 / 3), jax.random.key(0)
    h = np.float32([1, 0])
    rounds = simulation.train(key, federation, head, h, shares)
    _, labels = simulation._draw(key, federation, h, shares)
    one_hot = np.eye(3)[labels]  # [R, C, N, K]
    np.testing.assert_array_equal(rounds.labels, one_hot.sum(2))
    np.testing.assert_array_equal(rounds.last, one_hot[:, :, 4:].sum(2))
    # Two steps from uniform logits, the second of two examples.
    steps = [one_hot[:, :, :4].mean(2), one_hot[:, :, 4:].mean(2)]
    np.testing.assert_allclose(
      rounds.updates['bias'], 2 / 3 - sum(steps), atol=0.1
    )


class ReduceTest(absltest.TestCase):
  def test_keeps_the_logits_of_the_mean_input(self):
    h, update, server = _capture()
    head, mean = simulation.reduce(update, server)
    self.assertLess(len(mean), H)
    np.testing.assert_allclose(
      mean @ head['kernel'] + head['bias'],
      h @ server['kernel'] + server['bias'],
      rtol=1e-4,
    )
    np.testing.assert_allclose(
      np.linalg.norm(mean), np.linalg.norm(h), rtol=1e-5
    )

  def test_without_a_kernel_inputs_are_zero(self):
    _, update, _ = _capture()
    head, mean = simulation.reduce(dict(bias=update['bias']), None)
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(head['kernel'], 0)
    self.assertEqual(head['kernel'].shape[1], K)


if __name__ == '__main__':
  absltest.main()
