"""The vertical protocol against the joint model's own gradient."""

import functools

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import defenses, he, models, vfl
from labelleak.base import Batch, InputError, Tampering
from labelleak.defenses import Defense, bottleneck, label_codes, noise

B, K = 37, 5  # B is no size of any model: a leaf with it is per-sample


def _batch(parties=2, size=B, mask=None, seed=0):
  rng = np.random.default_rng(seed)
  xs = tuple(
    rng.normal(size=(size, 6 + p)).astype(np.float32) for p in range(parties)
  )
  y = np.eye(K, dtype=np.float32)[rng.integers(K, size=size)]
  mask = np.ones(size, np.float32) if mask is None else mask
  return Batch(xs, y, np.arange(size), mask)


def _party(name='mlp.mlp2', tx=None, width=K, **hyper):
  model = models.load(name, num_classes=width, **hyper)
  return vfl.party(model, tx or optax.sgd(0.1))


def _top():
  return _party('mlp.bn_mlp', widths=(8,))


def _protocol(parties=2, top=None, aggregate=None, txs=(), each=_party):
  links = [vfl.link(*txs, aggregate=aggregate) for _ in range(parties)]
  return vfl.protocol([each() for _ in range(parties)], top, links)


def _defended(*txs):
  links = [vfl.link(*txs), vfl.link()]
  return vfl.protocol([_party(), _party()], None, links)


def _joint_grads(state, batch, each, top):
  """Gradient of the joint loss by the parameters of all parties and the top."""

  def loss(params, top_params):
    hs = [
      each.apply({**v, 'params': p}, x, train=True, key=jax.random.key(0))[0]
      for v, p, x in zip(state.variables, params, batch.xs)
    ]
    logits = sum(hs)
    if top:
      full = {**state.top, 'params': top_params}
      logits, _ = top.apply(
        full, jnp.concatenate(hs, -1), train=True, key=jax.random.key(0)
      )
    losses = optax.softmax_cross_entropy(logits, batch.y) * batch.mask
    return losses.sum() / batch.mask.sum()

  params = tuple(v['params'] for v in state.variables)
  return jax.grad(loss, (0, 1))(params, state.top.get('params', {}))


class CodeTest(parameterized.TestCase):
  def test_a_renaming_changes_messages_and_not_predictions(self):
    code = label_codes.permutation(num_classes=K, seed=1).labels
    batch, links = _batch(), [vfl.link(), vfl.link()]
    parties = [_party(), _party()]
    coded = vfl.protocol(parties, None, links, code=code)
    state = coded.init(jax.random.key(0), batch.xs)
    new, (views, metrics) = coded.step(state, batch)
    fake = code.encode(None, batch.y)
    self.assertGreater(np.abs(fake - batch.y).max(), 0)
    s = jax.nn.softmax(sum(view.h for view in views))
    expected = (s - fake) / B
    np.testing.assert_allclose(views[0].cut_grads, expected, atol=1e-7)
    plain = vfl.protocol(parties, None, links)
    same, _ = plain.step(state, batch._replace(y=fake))
    chex.assert_trees_all_equal(new, same)
    p = coded.predict(state, batch.xs)
    np.testing.assert_array_equal(
      p, s[:, np.argmax(code.encode(None, np.eye(K)), -1)]
    )
    hits = (p.argmax(-1) == batch.y.argmax(-1)).mean()
    self.assertAlmostEqual(float(metrics['accuracy']), float(hits), places=6)

  def test_a_row_keeps_its_random_label(self):
    make = label_codes.randomized_response
    code = make(num_classes=K, epsilon=0.5).labels
    seen = optax.GradientTransformationExtraArgs(
      lambda params: jnp.zeros((B, K)),
      lambda updates, state, params=None, *, labels, **extra: (updates, labels),
    )
    links = [vfl.link(seen), vfl.link()]
    protocol = vfl.protocol([_party(), _party()], None, links, code=code)
    batch = _batch()
    state, _ = protocol.step(protocol.init(jax.random.key(0), batch.xs), batch)
    first = jax.tree.leaves(state.link_states[0])[0]
    turned = jax.tree.map(lambda a: a[::-1], batch)
    state, _ = protocol.step(state, turned)
    second = jax.tree.leaves(state.link_states[0])[0]
    np.testing.assert_array_equal(first, second[::-1])
    self.assertFalse(np.array_equal(first, batch.y))


class PenaltyTest(parameterized.TestCase):
  def test_it_adds_its_gradient(self):
    penalty = lambda hs, y, mask: 3.0 * (hs[0] * y).sum()
    batch, links = _batch(), [vfl.link(), vfl.link()]
    parties = [_party(), _party()]
    with_it = vfl.protocol(parties, None, links, penalty=penalty)
    plain = vfl.protocol(parties, None, links)
    state = plain.init(jax.random.key(0), batch.xs)
    _, (views, _) = with_it.step(state, batch)
    _, (clean, _) = plain.step(state, batch)
    found = views[0].cut_grads - clean[0].cut_grads
    np.testing.assert_allclose(found, 3 * batch.y, atol=1e-6)
    np.testing.assert_array_equal(views[1].cut_grads, clean[1].cut_grads)

  def test_what_a_top_sows_enters_the_loss(self):
    batch = _batch()

    def step(weight):
      mid = bottleneck.mid(num_classes=K, weight=weight).top
      top = vfl.party(mid, optax.sgd(0.1))
      protocol = _protocol(top=top)
      state = protocol.init(jax.random.key(0), batch.xs)
      return state, protocol.step(state, batch)

    _, (_, (_, plain)) = step(0.0)
    _, (new, (_, metrics)) = step(2.0)
    kl = float(new.top['penalty']['kl']) / 2
    self.assertGreater(kl, 0)
    difference = float(metrics['loss'] - plain['loss'])
    self.assertAlmostEqual(difference, 2 * kl, delta=1e-4 * kl)


class _Noisy(nn.Module):
  """Batch norm and dropout: a pass depends on its batch and on its key."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(16)(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(K)(nn.Dropout(0.5, deterministic=not train)(x))


class ProtocolTest(parameterized.TestCase):
  @parameterized.product(
    parties=(2, 3), with_top=(False, True), seal=(False, True)
  )
  def test_gradients_are_those_of_the_joint_loss(self, parties, with_top, seal):
    top = _top() if with_top else None
    aggregate = he.ideal() if seal else he.plaintext()
    protocol = _protocol(parties, top, aggregate)
    batch = _batch(parties)
    state = protocol.init(jax.random.key(0), batch.xs)
    new, (views, _) = jax.jit(protocol.step)(state, batch)
    expected, top_expected = _joint_grads(state, batch, _party(), top)
    found = tuple(view.param_grads for view in views)
    chex.assert_trees_all_close(found, expected, atol=1e-6)
    moved = jax.tree.map(
      lambda a, b: (a - b) / 0.1, state.top.get('params'), new.top.get('params')
    )
    if with_top:
      chex.assert_trees_all_close(moved, top_expected, atol=1e-5)

  def test_a_cut_gradient_is_softmax_minus_label_over_b(self):
    protocol, batch = _protocol(), _batch()
    state = protocol.init(jax.random.key(1), batch.xs)
    _, (views, _) = protocol.step(state, batch)
    s = jax.nn.softmax(sum(view.h for view in views))
    for view in views:
      np.testing.assert_allclose(view.cut_grads, (s - batch.y) / B, atol=1e-7)

  def test_a_sealed_view_has_no_gradient_of_an_example(self):
    batch = _batch()
    for top in (None, _top()):
      protocol = _protocol(top=top, aggregate=he.ideal())
      state = protocol.init(jax.random.key(0), batch.xs)
      _, (views, _) = jax.eval_shape(protocol.step, state, batch)
      for view in views:
        self.assertIsNone(view.cut_grads)
        self.assertEqual(view.index.dtype, jnp.int32)  # which rows, no more
        rest = jax.tree.leaves(view._replace(x=None, h=None, index=None))
        self.assertTrue(all(B not in leaf.shape for leaf in rest))
    _, (views, _) = jax.eval_shape(_protocol().step, state, batch)
    self.assertEqual(views[0].cut_grads.shape, (B, K))  # the check can fail

  def test_scan_trains_and_stacks_views(self):
    protocol = _protocol(aggregate=he.ideal())
    batches = [_batch(seed=s) for s in range(4)]
    state = protocol.init(jax.random.key(0), batches[0].xs)
    stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
    scanned, (views, metrics) = jax.lax.scan(protocol.step, state, stacked)
    for i, batch in enumerate(batches):
      state, (each, now) = jax.jit(protocol.step)(state, batch)
      same = functools.partial(chex.assert_trees_all_close, atol=1e-5)
      same(
        jax.tree.map(lambda a, n=i: a[n], views[0].param_grads),
        (each[0].param_grads),
      )
      same(jax.tree.map(lambda a, n=i: a[n], metrics), now)
    chex.assert_trees_all_close(scanned.variables, state.variables, atol=1e-5)
    self.assertEqual(int(scanned.count), 4)

  @parameterized.parameters(1, 5)
  def test_a_sealed_row_is_refused_with_any_padding(self, size):
    pad = lambda a: np.concatenate([a[:1]] * size)
    batch = jax.tree.map(pad, _batch(size=1))
    batch = batch._replace(mask=np.eye(size, dtype=np.float32)[-1])
    for sealed in (True, False):
      aggregate = he.ideal() if sealed else he.plaintext()
      protocol = _protocol(aggregate=aggregate)
      state = protocol.init(jax.random.key(0), batch.xs)
      if not sealed:
        protocol.step(state, batch)
        continue
      says = f'sealed batch of 1 row and {size - 1} of padding'
      with self.assertRaisesRegex(InputError, says):
        protocol.step(state, batch)
      pair = jax.tree.map(lambda a: np.stack([a, a]), batch)
      with self.assertRaisesRegex(InputError, says):
        vfl.fit(protocol, state, lambda numbers: pair, steps=2)  # noqa: B023

  def test_what_a_trace_cannot_count_it_hides(self):
    links = vfl.link(aggregate=he.ideal()), vfl.link()
    protocol = vfl.protocol((_party(), _party()), None, links)
    batch = _batch()
    state = protocol.init(jax.random.key(0), batch.xs)
    step = jax.jit(protocol.step)
    for rows, hidden in ((1, True), (2, False), (B, False)):
      mask = (np.arange(B) < rows).astype(np.float32)
      _, (views, _) = step(state, batch._replace(mask=mask))
      for view, nan in zip(views, (hidden, False)):
        for leaf in jax.tree.leaves(view.param_grads):
          self.assertEqual(np.isnan(leaf).all(), nan)

  def test_padding_is_a_shorter_batch(self):
    short = _batch(size=20)
    pad = lambda a: np.concatenate(
      [a, np.zeros((B - 20, *a.shape[1:]), a.dtype)]
    )
    padded = jax.tree.map(pad, short)
    protocol = _protocol()
    state = protocol.init(jax.random.key(0), short.xs)
    one, (_, metrics) = protocol.step(state, short)
    two, (views, padded_metrics) = protocol.step(state, padded)
    chex.assert_trees_all_close(one.variables, two.variables, atol=1e-6)
    chex.assert_trees_all_close(metrics, padded_metrics, rtol=1e-6)
    np.testing.assert_array_equal(views[0].cut_grads[20:], 0)

  def test_links_act_in_order_and_keep_their_state(self):
    half = optax.scale(0.5)
    add = optax.stateless(lambda u, _: jax.tree.map(lambda a: a + 1.0, u))
    links = [vfl.link(half, add), vfl.link(optax.trace(decay=0.9))]
    protocol = vfl.protocol([_party(), _party()], None, links)
    batch = _batch()
    state = protocol.init(jax.random.key(0), batch.xs)
    plain = _protocol()
    start = plain.init(jax.random.key(0), batch.xs)
    _, (clean, _) = plain.step(start, batch)
    new, (views, _) = protocol.step(state, batch)
    np.testing.assert_allclose(
      views[0].cut_grads, clean[0].cut_grads / 2 + 1, rtol=1e-6
    )
    trace = jax.tree.leaves(new.link_states[1])[0]
    np.testing.assert_allclose(trace, clean[1].cut_grads, rtol=1e-6)

  def test_transforms_of_a_link_draw_their_own_noise(self):
    normal = noise.gaussian(stddev=1.0)
    double = noise.laplace(scale=1.0)  # variance 2
    zeros = jnp.zeros((500, 20))
    for chained, variance in (
      ((normal, normal), 2),
      ((normal, double), 3),
      ((defenses.chain(normal, normal), normal), 3),
      ((normal, defenses.chain(normal, normal), double), 5),
      ((normal, Defense(gradient=optax.scale(-1.0)), normal), 2),
    ):
      tx = vfl.link(*(each.gradient for each in chained)).tx
      noises = tx.update(zeros, tx.init(zeros), key=jax.random.key(0))[0]
      # A variance of 10,000 draws, whose fourth moments are at most Laplace's.
      np.testing.assert_allclose(jnp.var(noises), variance, rtol=0.08)

  def test_a_transform_alone_gets_the_key_of_its_link(self):
    tx, zeros = noise.gaussian(stddev=1.0).gradient, jnp.zeros((3, 2))
    sent = lambda tx: tx.update(zeros, tx.init(zeros), key=jax.random.key(0))[0]
    np.testing.assert_array_equal(sent(vfl.link(tx).tx), sent(tx))

  def test_everybody_draws_with_a_key_of_their_own(self):
    seen = set()  # some are asked twice

    def keep(role, key):
      seen.add((role, tuple(jax.random.key_data(key).tolist())))

    def keeping(role):
      def update(updates, state, params=None, *, key, **extra):
        keep(role, key)
        return updates, state

      init = optax.identity().init
      return optax.GradientTransformationExtraArgs(init, update)

    def link(p):
      def send(key, h, *, mask, notes):
        keep(f'send {p}', key)
        return h

      tampering = Tampering(send=send, tamper=keeping(f'tamper {p}'))
      return vfl.link(keeping(f'link {p}'), tampering=tampering)

    parties, links = zip(*((_party(), link(p)) for p in range(3)))
    protocol, batch = vfl.protocol(parties, None, links), _batch(parties=3)
    state = protocol.init(jax.random.key(0), batch.xs)
    for _ in range(2):
      state, (views, _) = protocol.step(state, batch)
      for p, view in enumerate(views):
        keep(f'party {p}', view.key)
    self.assertLen({role for role, _ in seen}, 4 * 3)
    self.assertLen({key for _, key in seen}, 2 * 4 * 3)  # two steps
    self.assertLen(seen, 2 * 4 * 3)

  def test_a_link_gets_what_defenses_need(self):
    seen = {}

    def update(updates, state, params=None, **extra):
      seen.update(extra, params=params)
      return updates, state

    tx = optax.GradientTransformationExtraArgs(optax.identity().init, update)
    protocol, batch = _protocol(txs=(tx,)), _batch()
    protocol.step(protocol.init(jax.random.key(0), batch.xs), batch)
    expected = {'key', 'labels', 'index', 'mask', 'epoch', 'relabel'}
    self.assertContainsSubset(expected, seen)
    self.assertEqual(seen['params'].shape, (B, K))  # the embedding

  @parameterized.parameters(False, True)
  def test_relabel_is_the_cut_gradient_of_other_labels(self, with_top):
    other = np.roll(_batch().y, 1, -1)

    def update(updates, state, params=None, *, relabel, **extra):
      return relabel(other), state

    tx = optax.GradientTransformationExtraArgs(optax.identity().init, update)
    top, batch = (_top() if with_top else None), _batch()
    protocol, plain = _protocol(txs=(tx,), top=top), _protocol(top=top)
    state = protocol.init(jax.random.key(0), batch.xs)
    _, (found, _) = protocol.step(state, batch)
    start = plain.init(jax.random.key(0), batch.xs)
    _, (expected, _) = plain.step(start, batch._replace(y=other))
    for view, same in zip(found, expected):
      np.testing.assert_allclose(view.cut_grads, same.cut_grads, atol=1e-7)

  def test_epochs_are_counted(self):
    seen = optax.GradientTransformationExtraArgs(
      lambda params: jnp.zeros((), jnp.int32),
      lambda updates, state, params=None, *, epoch, **extra: (updates, epoch),
    )
    for steps, expected in ((None, [0, 0, 0, 0]), (2, [0, 0, 1, 1])):
      links = [vfl.link(seen), vfl.link()]
      protocol = vfl.protocol(
        [_party(), _party()], None, links, steps_per_epoch=steps
      )
      state = protocol.init(jax.random.key(0), _batch().xs)
      epochs = []
      for _ in range(4):
        state, _ = protocol.step(state, _batch())
        epochs.append(int(jax.tree.leaves(state.link_states[0])[0]))
      self.assertEqual(epochs, expected)

  def test_a_defended_link_leaves_the_others_alone(self):
    zero = optax.set_to_zero()
    protocol, plain = _defended(zero), _protocol()
    batch = _batch()
    state = protocol.init(jax.random.key(0), batch.xs)
    new, (views, _) = protocol.step(state, batch)
    start = plain.init(jax.random.key(0), batch.xs)
    clean, (expected, _) = plain.step(start, batch)
    self.assertEqual(float(jnp.abs(views[0].cut_grads).max()), 0.0)
    chex.assert_trees_all_equal(views[1], expected[1])
    chex.assert_trees_all_equal(new.variables[1], clean.variables[1])

  def test_known_bottom_repeats_the_pass_behind_the_view(self):
    party = vfl.party(_Noisy(), optax.sgd(0.1))
    xs = tuple(jax.random.normal(jax.random.key(p), (6, 8)) for p in range(2))
    batch = Batch(xs, np.eye(K)[np.arange(6) % K], np.arange(6), np.ones(6))
    links = [vfl.link(), vfl.link()]
    protocol = vfl.protocol([party, party], None, links)
    state = protocol.init(jax.random.key(0), xs)
    new, (views, _) = jax.jit(protocol.step)(state, batch)
    view = views[0]
    again = jax.jit(vfl.bottom(party))(view.variables, view.x, view.key)
    np.testing.assert_allclose(again, view.h, atol=1e-5)
    other = vfl.bottom(party)(view.variables, view.x, jax.random.key(9))
    self.assertGreater(float(jnp.abs(other - view.h).max()), 1e-3)
    stats = lambda s: jax.tree.leaves(s.variables[0]['batch_stats'])
    self.assertFalse(np.allclose(stats(state)[0], stats(new)[0]))

  def test_predict_is_the_softmax_of_the_sum(self):
    protocol, batch = _protocol(3), _batch(3)
    state = protocol.init(jax.random.key(0), batch.xs)
    p = protocol.predict(state, batch.xs)
    _, (views, _) = protocol.step(state, batch)
    expected = jax.nn.softmax(sum(view.h for view in views))
    np.testing.assert_allclose(p, expected, atol=1e-6)

  def test_parties_draw_their_own_weights_and_keys(self):
    batch = _batch()._replace(xs=(np.ones((B, 6), np.float32),) * 2)
    protocol = _protocol()
    state = protocol.init(jax.random.key(0), batch.xs)
    one, two = (jax.tree.leaves(v)[-1] for v in state.variables)
    self.assertFalse(np.allclose(one, two))
    state, (views, _) = protocol.step(state, batch)
    _, (later, _) = protocol.step(state, batch)
    keys = [jax.random.key_data(v.key).tobytes() for v in (*views, *later)]
    self.assertLen(set(keys), 4)


class InputErrorTest(absltest.TestCase):
  def test_too_few_parties_or_links(self):
    with self.assertRaisesRegex(InputError, 'at least two parties'):
      vfl.protocol([_party()], None, [vfl.link()])
    with self.assertRaisesRegex(InputError, 'one link for each'):
      vfl.protocol([_party(), _party()], None, [vfl.link()])

  def test_embeddings_that_cannot_be_added(self):
    parties = [_party(), _party(width=K + 1)]
    protocol = vfl.protocol(parties, None, [vfl.link(), vfl.link()])
    batch = _batch()
    state = protocol.init(jax.random.key(0), batch.xs)
    with self.assertRaisesRegex(InputError, 'cannot be added'):
      protocol.step(state, batch)

  def test_logits_that_are_not_classes(self):
    parties = [_party(width=K + 1)] * 2
    protocol = vfl.protocol(parties, None, [vfl.link(), vfl.link()])
    batch = _batch()
    state = protocol.init(jax.random.key(0), batch.xs)
    with self.assertRaisesRegex(InputError, 'return as many'):
      protocol.step(state, batch)

  def test_a_sealed_batch_of_one_row_is_refused(self):
    batch = _batch(size=1)
    protocol = _protocol(aggregate=he.ideal())
    state = protocol.init(jax.random.key(0), batch.xs)
    with self.assertRaisesRegex(InputError, 'at least 2 rows'):
      jax.eval_shape(protocol.step, state, batch)
    jax.eval_shape(_protocol().step, state, batch)  # in the clear it is read


if __name__ == '__main__':
  absltest.main()
