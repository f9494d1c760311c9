"""Rows of steps, against a loop that lists all of them from the first."""

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.train import order


class OrderTest(parameterized.TestCase):
  @parameterized.parameters(3, 5, 10)
  def test_whole_batches_leave_a_rest(self, batch_size):
    rows = []
    for number in range(8):
      shuffled = np.random.default_rng((4, 7, number)).permutation(10)
      whole = 10 // batch_size * batch_size
      rows += shuffled[:whole].reshape(-1, batch_size).tolist()
    for numbers in ([1, 2, 3, 4], [7], [5, 2, 8]):
      found = order.whole_batches(10, batch_size, np.array(numbers), (4, 7))
      expected = [rows[number - 1] for number in numbers]
      np.testing.assert_array_equal(found, expected)

  @parameterized.parameters(3, 4, 10, 25)
  def test_a_stream_leaves_none(self, batch_size):
    epochs = [np.random.default_rng((4, n)).permutation(10) for n in range(30)]
    rows = np.concatenate(epochs)[: 12 * batch_size].reshape(12, batch_size)
    for first, last in ((1, 1), (1, 12), (5, 8), (12, 12)):
      numbers = np.arange(first, last + 1)
      found = order.stream(10, batch_size, numbers, 4)
      np.testing.assert_array_equal(found, rows[first - 1 : last])


if __name__ == '__main__':
  absltest.main()
