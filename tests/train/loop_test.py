"""The loop: chunks, resuming, refusals and the bar."""

import io
import pathlib
from typing import NamedTuple
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import base, runs, train
from labelleak.train import checkpoints, loop


class Interrupted(Exception):
  pass


class NoisyState(NamedTuple):
  params: dict
  opt_state: tuple
  key: chex.PRNGKey
  best: jax.Array


TX = optax.adam(0.1)


def _noisy_start():
  params = {'w': jnp.arange(4.0), 'half': jnp.ones(3, jnp.bfloat16)}
  return NoisyState(params, TX.init(params), jax.random.key(7), jnp.inf)


def _noisy_step(state, batch):
  """Adam on a quadratic, with noise from a key that moves on."""
  key, noise_key = jax.random.split(state.key)
  noise = jax.random.normal(noise_key, (4,))

  def loss_fn(params):
    return ((params['w'] - batch + noise) ** 2).sum() + (
      params['half'] ** 2
    ).sum().astype(jnp.float32)

  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  updates, opt_state = TX.update(grads, state.opt_state)
  params = optax.apply_updates(state.params, updates)
  best = jnp.minimum(state.best, loss)
  return NoisyState(params, opt_state, key, best), {'loss': loss}


def _noisy_batches(numbers):
  return np.sin(numbers)[:, None] * np.ones((1, 4), np.float32)


def _bits(state):
  return jax.tree.map(
    np.asarray, state._replace(key=jax.random.key_data(state.key))
  )


class NumbersTest(absltest.TestCase):
  def test_chunks_number_all_steps_from_1(self):
    """From wherever a training goes on, up to the next whole chunk."""
    self.assertEqual(loop._numbers(0, 7, 3).tolist(), [1, 2, 3])
    self.assertEqual(loop._numbers(4, 7, 3).tolist(), [5, 6])
    self.assertEqual(loop._numbers(6, 7, 3).tolist(), [7])
    self.assertEqual(loop._numbers(7, 7, 3).tolist(), [])


class FitTest(parameterized.TestCase):
  def test_gradient_descent_follows_its_closed_form(self):
    # w <- w - lr * a (w - m): w_n - m = (1 - lr a)^n (w_0 - m).
    curvature, optimum = jnp.array([1.0, 2.0, 5.0]), jnp.array([3.0, -1.0, 0.5])

    def step(w, batch):
      loss = 0.5 * (curvature * (w - optimum) ** 2).sum()
      return w - 0.1 * curvature * (w - optimum), {'loss': loss}

    fit = lambda steps, chunk: train.fit(
      step, jnp.zeros(3), lambda numbers: numbers, steps=steps, chunk=chunk
    )
    shrunk = (1 - 0.1 * curvature) ** 7 * -optimum
    np.testing.assert_allclose(fit(7, 3) - optimum, shrunk, rtol=1e-5)
    np.testing.assert_allclose(fit(300, 50), optimum, rtol=1e-5)

  @parameterized.parameters(1, 4, 10, 100)
  def test_every_step_gets_its_batch_once(self, chunk):
    step = lambda seen, number: (seen.at[number].add(1), {'loss': 0.0})
    seen = train.fit(
      step, jnp.zeros(12, int), lambda numbers: numbers, steps=10, chunk=chunk
    )
    np.testing.assert_array_equal(seen, [0] + [1] * 10 + [0])

  def test_the_callback_sees_steps_done_and_mean_metrics(self):
    step = lambda state, number: (state, {'loss': number.astype(float)})
    calls = []
    train.fit(
      step,
      jnp.zeros(()),
      lambda numbers: numbers,
      steps=7,
      chunk=3,
      callback=lambda *call: calls.append(call),
    )
    self.assertEqual(
      calls, [(3, {'loss': 2.0}), (6, {'loss': 5.0}), (7, {'loss': 7.0})]
    )

  @parameterized.parameters(4, 8, 11)
  def test_resumed_equals_uninterrupted_bit_for_bit(self, at):
    whole = train.fit(
      _noisy_step, _noisy_start(), _noisy_batches, steps=11, chunk=4
    )
    workdir = self.create_tempdir().full_path
    calls = []

    def interrupt(done, metrics):
      calls.append(done)
      if done == at:
        raise Interrupted

    resume = lambda callback: train.fit(
      _noisy_step,
      _noisy_start(),
      _noisy_batches,
      steps=11,
      chunk=4,
      workdir=workdir,
      callback=callback,
    )
    with self.assertRaises(Interrupted):
      resume(interrupt)
    rest = []
    resumed = resume(lambda done, metrics: rest.append(done))
    self.assertEqual(calls + rest, [4, 8, 11])  # nothing ran twice
    chex.assert_trees_all_equal(_bits(resumed), _bits(whole))
    chex.assert_trees_all_equal_dtypes(_bits(resumed), _bits(whole))

  def test_a_longer_run_continues_a_shorter_one(self):
    workdir = self.create_tempdir().full_path
    run = lambda steps, **options: train.fit(
      _noisy_step, _noisy_start(), _noisy_batches, steps=steps, **options
    )
    run(6, chunk=4, workdir=workdir)
    ends = []
    longer = run(
      11,
      chunk=4,
      workdir=workdir,
      callback=lambda done, metrics: ends.append(done),
    )
    self.assertEqual(ends, [8, 11])  # back on multiples of the chunk
    chex.assert_trees_all_close(_bits(longer), _bits(run(11)), rtol=1e-5)

  def test_a_longer_run_in_the_workdir_is_refused(self):
    workdir = self.create_tempdir().full_path
    run = lambda steps: train.fit(
      _noisy_step, _noisy_start(), _noisy_batches, steps=steps, workdir=workdir
    )
    run(8)
    with self.assertRaisesRegex(base.InputError, r'step 8, beyond steps=5; '):
      run(5)

  def _train(self, workdir, *, rate=0.5, start=0.0, **options):
    """Returns where a training began, and its end."""
    ends = []
    end = train.fit(
      lambda w, batch: (w + rate * (batch - w), {'loss': 0.0}),
      jnp.full(2, start),
      lambda numbers: numbers.astype(np.float32),
      steps=8,
      chunk=4,
      workdir=workdir,
      callback=lambda done, metrics: ends.append(done),
      **options,
    )
    return (ends[0] - 4 if ends else 8), end

  @parameterized.parameters(
    dict(rate=0.25), dict(start=1.0), dict(made_by='other data or order')
  )
  def test_a_state_is_found_by_what_made_it(self, **other):
    workdir = self.create_tempdir().full_path
    self.assertEqual(self._train(workdir)[0], 0)
    self.assertEqual(self._train(workdir)[0], 8)  # it is there
    began, end = self._train(workdir, **other)
    self.assertEqual(began, 0)
    np.testing.assert_array_equal(end, self._train(None, **other)[1])
    with mock.patch.object(runs, 'code', return_value=['other code']):
      self.assertEqual(self._train(workdir)[0], 0)
    self.assertEqual(self._train(workdir)[0], 8)  # and still there

  def test_a_state_is_kept_when_that_is_due(self):
    workdir = self.create_tempdir().full_path
    for _ in range(2):
      self.assertEqual(self._train(workdir, every=100.0)[0], 0)
    with mock.patch.object(checkpoints, '_WORTH', 0.0):  # at the end alone
      self.assertEqual(self._train(workdir, every=100.0)[0], 0)
    self.assertEqual(self._train(workdir, every=100.0)[0], 8)

  def test_a_damaged_state_is_refused_in_a_line(self):
    workdir = self.create_tempdir().full_path
    self._train(workdir)
    for path in pathlib.Path(workdir).rglob('*'):
      if path.is_file():
        path.write_bytes(b'{')
    with self.assertRaisesRegex(base.InputError, 'remove it') as caught:
      self._train(workdir)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters(1, 5, 6, 10)
  def test_nan_stops_with_its_step_and_is_not_saved(self, bad):
    def step(state, number):
      return state + 1, {'loss': jnp.where(number == bad, jnp.nan, 1.0)}

    workdir = self.create_tempdir().full_path
    run = lambda steps: train.fit(
      step,
      jnp.zeros(()),
      lambda numbers: numbers,
      steps=steps,
      chunk=5,
      workdir=workdir,
    )
    message = rf'loss is nan at step {bad}; lower lr'
    with self.assertRaisesRegex(FloatingPointError, message):
      run(10)
    self.assertEqual(run((bad - 1) // 5 * 5), (bad - 1) // 5 * 5)

  def test_the_bar_shows_loss_accuracy_and_time_left(self):
    step = lambda state, number: (state, {'loss': 0.25, 'accuracy': 0.75})
    run = lambda progress: train.fit(
      step,
      jnp.zeros(()),
      lambda numbers: numbers,
      steps=4,
      chunk=2,
      progress=progress,
    )
    with mock.patch('sys.stderr', new_callable=io.StringIO) as shown:
      run(True)
    self.assertRegex(shown.getvalue(), r'4/4 \[.*<.*accuracy=0\.75, loss=0\.25')
    with mock.patch('sys.stderr', new_callable=io.StringIO) as hidden:
      run(None)  # not a terminal
    self.assertEmpty(hidden.getvalue())


if __name__ == '__main__':
  absltest.main()
