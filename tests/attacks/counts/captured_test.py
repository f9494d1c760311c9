"""Leaving out counts that an update cannot be of changes no belief."""

from absl.testing import absltest, parameterized
import jax
import numpy as np
from scipy import special

from labelleak import hfl
from labelleak.attacks.counts import captured, head_update

_SGD = dict(name='sgd', momentum=0.9)


def _capture(num_classes, client, num, scale=1.0):
  """A client's bias update, of labels in some of the classes, [K]."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 20, num)
  momentum = client.optimizer.get('momentum', 0.0)
  moved, velocity = np.zeros(num_classes), np.zeros(num_classes)
  for start in range(0, num, client.batch_size):
    batch = labels[start : start + client.batch_size]
    gradient = np.full(num_classes, 1 / num_classes)
    gradient -= np.bincount(batch, minlength=num_classes) / len(batch)
    velocity = momentum * velocity + gradient
    moved += velocity
  head = {'bias': np.float32(scale * moved)}
  return hfl.View(grads={'head': head}), np.bincount(labels, minlength=50)


class CapturedTest(parameterized.TestCase):
  @parameterized.product(
    optimizer=(dict(name='sgd'), _SGD), scale=(1.0, 0.2), free=(False, True)
  )
  def test_beliefs_are_those_of_all_counts(self, optimizer, scale, free):
    client = hfl.Client(lr=0.01, batch_size=32, optimizer=optimizer)
    view, _ = _capture(2100, client, 140, scale)
    defense = None if free else ()
    known = hfl.Known(2100, 140, client=client, defense=defense)
    most = captured._most(view, known)
    self.assertLess(most, 140)
    reaches = (head_update.TYPICAL_REACH,)
    infer = lambda most: jax.jit(
      lambda view: head_update.infer_told(
        view, known, reaches=reaches, most=most
      )
    )(view)
    ours, theirs = infer(most), infer(None)
    self.assertEqual(ours.probs.shape, theirs.probs.shape)
    np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-4)
    np.testing.assert_allclose(ours.evidence, theirs.evidence, rtol=1e-4)

  @parameterized.parameters(
    dict(expected=0.5),  # of a class, by the server's head
    dict(expected=0.4, batch_size=32),
    dict(epochs=20, lr=0.1, batch_size=32, length=2.0),  # by where steps led
  )
  def test_labels_that_the_softmax_hides_are_counted(
    self, expected=None, length=5.6, **client
  ):
    k, num, h = 2100, 200, np.full(8, length / 8**0.5)
    client = hfl.Client(**{'lr': 1e-3, **client})
    labels = np.concatenate([np.zeros(100, int), np.arange(1, 101)])
    labels = np.random.default_rng(0).permutation(labels)
    server = np.zeros(k)
    if expected:
      server[0] = np.log(expected * (k - 1) / (1 - expected))
    bias, factor = server.copy(), np.zeros(k)  # the kernel is h factor^T
    size = client.batch_size or num
    for start in list(range(0, num, size)) * client.epochs:
      batch = labels[start : start + size]
      probs = special.softmax(bias + h @ h * factor)
      gradient = probs - np.bincount(batch, minlength=k) / len(batch)
      bias, factor = bias - client.lr * gradient, factor - client.lr * gradient
    moved = (server - bias) / client.lr
    head = dict(bias=np.float32(moved), kernel=np.float32(np.outer(h, moved)))
    before = dict(bias=np.float32(server), kernel=np.zeros((8, k), np.float32))
    view = hfl.View(
      grads={'head': head}, variables={'params': {'head': before}}
    )
    known = hfl.Known(k, num, client=client, defense=())
    ours = captured.infer_counts(view, known)
    theirs = jax.jit(lambda view: head_update.infer_counts(view, known))(view)
    np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-3)
    np.testing.assert_allclose(ours.evidence, theirs.evidence, rtol=1e-4)

  def test_it_counts(self):
    client = hfl.Client(lr=0.01, batch_size=32)
    view, truth = _capture(2100, client, 140)
    known = hfl.Known(2100, 140, client=client, defense=())
    found = captured.infer_counts(view, known).probs.argmax(1)
    np.testing.assert_array_equal(found[:50], truth)
    self.assertEqual(found[50:].sum(), 0)

  @parameterized.parameters(
    dict(num_classes=2000),  # of which a model may be sure
    dict(defense=(('clip', 1.0),)),
    dict(client=hfl.Client(lr=0.01, batch_size=32, clip_per_example=1.0)),
    dict(client=hfl.Client(lr=0.01, batch_size=32, loss='sigmoid')),
    dict(client=hfl.Client(lr=0.01, batch_size=32, optimizer={'name': 'adam'})),
    dict(client=None, steps=5),
  )
  def test_all_counts_stay_where_an_update_says_little(self, **changed):
    client = hfl.Client(lr=0.01, batch_size=32)
    values = dict(num_classes=2100, batch_size=140, client=client, defense=())
    known = hfl.Known(**{**values, **changed})
    view, _ = _capture(known.num_classes, client, 140)
    self.assertIsNone(captured._most(view, known))


if __name__ == '__main__':
  absltest.main()
