"""Tampering: against its own formula, on sealed links and real ciphertexts."""

import functools

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import attacks, he, models, vfl
from labelleak.attacks import backdoor
from labelleak.attacks.backdoor import Notes
from labelleak.base import Batch, InputError, Tampering
from labelleak.defenses import clipping

B, K = 12, 4
PAIRS = np.full(B, -1)
PAIRS[[2, 7]] = 9, 4  # 2 takes the gradient of 9, 7 that of 4
HONEST = np.setdiff1d(np.arange(B), [2, 7, 9, 4])
NOBODY = Notes(
  pairs=np.full(B, -1), inferred=np.full(B, -1), target=np.array(1)
)
KEY = jax.random.key(0)


def _rows(seed=0, width=K, size=B):
  rng = np.random.default_rng(seed)
  return jnp.array(rng.normal(size=(size, width)), jnp.float32)


def _batch(notes=None, parties=2, seed=0):
  rng = np.random.default_rng(seed)
  xs = tuple(
    rng.normal(size=(B, 5 + p)).astype(np.float32) for p in range(parties)
  )
  y = np.eye(K, dtype=np.float32)[rng.integers(K, size=B)]
  return Batch(xs, y, np.arange(B), np.ones(B, np.float32), notes)


def _party(name='mlp.mlp2', **hyper):
  model = models.load(name, num_classes=K, **hyper)
  return vfl.party(model, optax.sgd(0.1))


def _protocol(attack, aggregate=None, tx=(), party=None):
  party = party or _party()
  link = vfl.link(*tx, aggregate=aggregate, tampering=attack)
  return vfl.protocol((party, party), None, (link, vfl.link()))


def _step(protocol, batch):
  state = protocol.init(KEY, batch.xs)
  return state, *protocol.step(state, batch)


def _tamper(attack, cut, notes, mask=None):
  mask = np.ones(B, np.float32) if mask is None else mask
  out, _ = attack.tamper.update(cut, (), cut, notes=notes, mask=mask)
  return out


def _pull(party, variables, x, cut):
  """A party's vjp, by itself."""
  forward = lambda params: party.apply(
    {**variables, 'params': params}, x, train=True, key=KEY
  )[0]
  return jax.vjp(forward, variables['params'])[1](cut)[0]


class BackdoorTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_gradients_are_copied_and_scaled(self, keep):
    attack = attacks.load('backdoor.backdoor', gamma=3.0, keep_targets=keep)
    cut = _rows()
    out = _tamper(attack, cut, Notes(PAIRS))
    expected = np.array(cut)
    expected[[2, 7]] = 3 * expected[[9, 4]]
    if not keep:
      expected[[9, 4]] = 0
    np.testing.assert_array_equal(out, expected)

  @parameterized.parameters('random', 'identity')
  def test_a_poisoned_row_steals_a_place(self, stealth):
    attack = attacks.load('backdoor.backdoor', stealth=stealth)
    h = _rows()
    sent = attack.send(KEY, h, mask=np.ones(B), notes=Notes(PAIRS))
    sent, h = np.asarray(sent), np.asarray(h)
    np.testing.assert_array_equal(sent[[9, 4]], h[[2, 7]])
    np.testing.assert_array_equal(sent[HONEST], h[HONEST])
    own = np.array_equal(sent[[2, 7]], h[[2, 7]])
    self.assertEqual(own, stealth == 'identity')

  def test_a_margin_lowers_the_target_of_stolen_places(self):
    attack = attacks.load('backdoor.backdoor', margin=3.0)
    plain = attacks.load('backdoor.backdoor')
    h, notes = _rows(), Notes(PAIRS, target=np.array(1))
    sent, without = (
      a.send(KEY, h, mask=np.ones(B), notes=notes) for a in (attack, plain)
    )
    expected = np.zeros((B, K))
    expected[[9, 4], 1] = 3.0
    np.testing.assert_allclose(without - sent, expected, atol=1e-6)

  def test_balanced_replacement_moves_no_mean(self):
    """Honest rows take back what poisoned ones are given; padding nothing."""
    attack = attacks.load('backdoor.backdoor', gamma=3.0, balanced=True)
    plain = attacks.load('backdoor.backdoor', gamma=3.0)
    cut, mask = _rows(), np.ones(B, np.float32)
    mask[HONEST[-2:]] = 0
    cut *= mask[:, None]
    out, other = (_tamper(a, cut, Notes(PAIRS), mask) for a in (attack, plain))
    honest = HONEST[:-2]
    np.testing.assert_allclose(
      out.sum(0), cut[honest].sum(0), atol=1e-5
    )  # the honest rows' own gradients alone
    same = np.setdiff1d(np.arange(B), honest)
    np.testing.assert_array_equal(out[same], other[same])
    gap = np.asarray(out - cut)[honest]
    np.testing.assert_allclose(gap, gap[:1] + 0 * gap, atol=1e-6)

  def test_random_vectors_look_like_honest_ones(self):
    size = 4000
    pairs = np.where(np.arange(size) < 1000, np.arange(size) + 1000, -1)
    h = 2.0 + 3.0 * _rows(size=size).at[:2000].mul(50.0)
    mask = np.ones(size, np.float32)
    mask[-500:] = 0
    h = h.at[-500:].set(1e6)  # padding is nobody's embedding
    attack = attacks.load('backdoor.backdoor')
    sent = attack.send(KEY, h, mask=mask, notes=Notes(pairs))[:1000]
    # Four standard errors, of the noise and of the moments that it has.
    self.assertLess(np.abs(sent.mean(0) - 2).max(), 4 * 3 / 1000**0.5 + 0.3)
    self.assertLess(np.abs(sent.std(0) - 3).max(), 0.5)

  @parameterized.parameters('plaintext', 'ideal')
  def test_without_a_pair_it_is_the_protocol(self, name):
    attack = attacks.load('backdoor.backdoor')
    aggregate = getattr(he, name)()
    batch = _batch()
    _, plain, _ = _step(_protocol(None, aggregate), batch)
    _, other, _ = _step(
      _protocol(attack, aggregate), batch._replace(notes=NOBODY)
    )
    chex.assert_trees_all_close(
      plain.variables, other.variables, atol=1e-7, rtol=1e-6
    )

  @parameterized.parameters('plaintext', 'ideal')
  def test_a_step_is_algorithm_3(self, name):
    """Against embeddings, loss and gradients written down once more."""
    attack = attacks.load('backdoor.backdoor', gamma=5.0, stealth='identity')
    batch = _batch(Notes(PAIRS))
    party = _party()
    protocol = _protocol(attack, getattr(he, name)(), party=party)
    state, new, (views, _) = _step(protocol, batch)
    hs = [
      np.array(party.apply(v, x, train=True, key=KEY)[0])
      for v, x in zip(state.variables, batch.xs)
    ]
    sent = hs[0].copy()
    sent[[9, 4]] = hs[0][[2, 7]]
    np.testing.assert_allclose(views[0].h, sent, atol=1e-6)
    cut = (jax.nn.softmax(sent + hs[1]) - batch.y) / B
    np.testing.assert_allclose(
      views[1].cut_grads, cut, atol=1e-7
    )  # the active party's own, of what was sent
    taken = np.array(cut)
    taken[[2, 7]], taken[[9, 4]] = 5 * taken[[9, 4]], 0
    expected = _pull(party, state.variables[0], batch.xs[0], taken)
    chex.assert_trees_all_close(
      views[0].param_grads, expected, atol=1e-6, rtol=1e-5
    )
    update = jax.tree.map(
      lambda a, b: a - b,
      state.variables[0]['params'],
      new.variables[0]['params'],
    )
    chex.assert_trees_all_close(
      update, jax.tree.map(lambda g: 0.1 * g, expected), atol=1e-6
    )

  def test_it_acts_behind_the_defense_and_before_the_sum(self):
    """What is sent is defended and whole; what is summed is neither."""
    attack = attacks.load('backdoor.backdoor', gamma=1e3)
    clip = clipping.clip_per_example(max_norm=1e-3).gradient
    batch = _batch(Notes(PAIRS))
    protocol = _protocol(attack, he.plaintext(), tx=(clip,))
    state, _, (views, _) = _step(protocol, batch)
    norms = np.linalg.norm(views[0].cut_grads, axis=-1)
    np.testing.assert_allclose(norms, 1e-3, rtol=1e-4)
    tampered = _tamper(attack, views[0].cut_grads, batch.notes)
    chex.assert_trees_all_close(
      views[0].param_grads,
      _pull(_party(), state.variables[0], batch.xs[0], tampered),
      rtol=1e-4,
      atol=1e-6,
    )

  def test_colluding_parties_draw_their_own_noise(self):
    attack = attacks.load('backdoor.backdoor')
    batch = _batch(Notes(PAIRS), parties=3)
    link = vfl.link(tampering=attack)
    parties = (_party(),) * 3
    protocol = vfl.protocol(parties, None, (link, link, vfl.link()))
    _, _, (views, _) = _step(protocol, batch)
    place = PAIRS >= 0
    self.assertGreater(
      np.abs(views[0].h[place] - views[1].h[place]).min(), 1e-6
    )

  @parameterized.parameters(
    (dict(gamma=0.0), 'gamma=0.0 must be positive'),
    (dict(margin=-1.0), 'margin=-1.0 must be .* at least 0'),
    (dict(stealth='none'), "stealth='none' is unknown"),
    (dict(gama=1.0), "takes no 'gama'"),
  )
  def test_bad_options_are_refused(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      attacks.load('backdoor.backdoor', **options)


class RelabelTest(parameterized.TestCase):
  @parameterized.parameters('plaintext', 'ideal')
  def test_right_labels_give_the_step_of_other_labels(self, name):
    """Equation 13: as if the active party had trained on the target."""
    mask = np.ones(B, np.float32)
    mask[-3:] = 0  # the mean is over what is no padding
    batch = _batch()._replace(mask=mask)
    y = batch.y.argmax(-1)
    chosen = np.isin(np.arange(B), [1, 5, 6])
    notes = Notes(inferred=np.where(chosen, y, -1), target=np.array(2))
    aggregate = getattr(he, name)()
    attack = attacks.load('backdoor.relabel')
    _, new, _ = _step(_protocol(attack, aggregate), batch._replace(notes=notes))
    other = np.where(chosen[:, None], np.eye(K, dtype=np.float32)[2], batch.y)
    _, expected, _ = _step(_protocol(None, aggregate), batch._replace(y=other))
    chex.assert_trees_all_close(
      new.variables[0], expected.variables[0], atol=1e-6
    )

  def test_gamma_scales_what_is_relabelled(self):
    cut, notes = _rows(), NOBODY._replace(inferred=np.arange(B) % K)
    once, thrice = (
      _tamper(attacks.load('backdoor.relabel', gamma=g), cut, notes)
      for g in (1.0, 3.0)
    )
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)

  def test_the_constant_is_that_of_the_loss(self):
    notes = NOBODY._replace(inferred=np.zeros(B, int), target=np.array(3))
    add = np.eye(K)[0] - np.eye(K)[3]
    for reduction, constant in (('mean', 1 / B), ('sum', 1.0)):
      attack = attacks.load('backdoor.relabel', reduction=reduction)
      out = _tamper(attack, jnp.zeros((B, K)), notes)
      np.testing.assert_allclose(out, np.tile(constant * add, (B, 1)))

  @parameterized.parameters(
    (dict(gamma=-1.0), 'gamma=-1.0 must be positive'),
    (dict(reduction='max'), "reduction='max' is unknown"),
  )
  def test_bad_options_are_refused(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      attacks.load('backdoor.relabel', **options)


def _changed(change):
  """An attack that does `change` to a cut."""
  update = lambda cut, state, params=None, **extra: (change(cut), state)
  init = lambda params: optax.EmptyState()
  return Tampering(tamper=optax.GradientTransformationExtraArgs(init, update))


_NOT_AFFINE = dict(
  compares=lambda c: jnp.where(c > 0, c, 0.0),
  squares=lambda c: c * c,
  divides=lambda c: c / jnp.linalg.norm(c),
  clips=lambda c: jnp.clip(c, -1e-2, 1e-2),
  signs=jnp.sign,
  rounds=jnp.round,
  sorts=lambda c: jnp.sort(c, 0),
  looks_up=lambda c: jnp.broadcast_to(c[c[:, 0].argmax()], c.shape),
  exponentiates=jnp.exp,
  casts=lambda c: c.astype(jnp.int32).astype(c.dtype),
  narrows=lambda c: c.astype(jnp.bfloat16).astype(c.dtype),
  casts_within=jax.jit(lambda c: (1e3 * c).astype(jnp.int32) * 1e-3),
)
_AFFINE = dict(
  copies=lambda c: c[::-1],
  scales=lambda c: 10.0 * c,
  adds=lambda c: c + 0.3,
  mixes=lambda c: c[:, ::-1] + 2 * c[::-1] - 0.1,
  discards=lambda c: jnp.zeros_like(c),
  branches=lambda c: jnp.where((jnp.arange(B) > 3)[:, None], 2 * c, 1.0),
  casts_its_own=lambda c: c * jnp.float32(2.5).astype(int),
)


class AffineTest(parameterized.TestCase):
  @parameterized.parameters(
    ('backdoor', {}), ('backdoor', dict(balanced=True)), ('relabel', {})
  )
  def test_the_attacks_are_affine(self, name, options):
    attack = attacks.load(f'backdoor.{name}', **options)
    notes = NOBODY._replace(pairs=PAIRS, inferred=np.arange(B) % K)
    t = functools.partial(_tamper, attack, notes=notes)
    a, b = _rows(1), _rows(2)
    left = t(a + b) + t(jnp.zeros_like(a))
    np.testing.assert_allclose(left, t(a) + t(b), atol=1e-4)

  @parameterized.product(kind=tuple(_NOT_AFFINE), jitted=(True, False))
  def test_what_is_not_is_refused_where_it_is_sealed(self, kind, jitted):
    batch = _batch()
    for aggregate, refused in ((he.plaintext(), False), (he.ideal(), True)):
      protocol = _protocol(_changed(_NOT_AFFINE[kind]), aggregate)
      state = protocol.init(KEY, batch.xs)
      step = jax.jit(protocol.step) if jitted else protocol.step
      if not refused:
        step(state, batch)
        continue
      with self.assertRaisesRegex(InputError, 'is not affine: ciphertexts'):
        step(state, batch)

  def test_real_schemes_refuse_it_too(self):
    protocol = _protocol(_changed(jnp.sign), he.ckks())
    batch = _batch()
    with self.assertRaisesRegex(InputError, 'is not affine: ciphertexts'):
      jax.eval_shape(
        protocol.step, jax.eval_shape(protocol.init, KEY, batch.xs), batch
      )

  @parameterized.parameters(*_AFFINE)
  def test_what_is_affine_is_the_same_sealed_and_clear(self, kind):
    batch = _batch()
    attack = _changed(_AFFINE[kind])
    found = [
      _step(_protocol(attack, aggregate), batch)[1].variables[0]
      for aggregate in (he.plaintext(), he.ideal())
    ]
    chex.assert_trees_all_close(*found, atol=1e-6)
    _, honest, _ = _step(_protocol(None), batch)
    gap = jax.tree.map(
      lambda a, b: jnp.abs(a - b).max(), found[0], honest.variables[0]
    )
    self.assertGreater(max(jax.tree.leaves(gap)), 1e-4)

  def test_errors_of_the_attack_are_its_own(self):
    def broken(cut):
      raise KeyError('mine')

    with self.assertRaisesRegex(KeyError, 'mine'):
      _step(_protocol(_changed(broken), he.ideal()), _batch())

  def test_it_remembers_what_it_may(self):
    """A step counter works; what is not seen cannot be remembered."""

    def update(cut, state, params=None, **extra):
      count, seen = state
      return cut * (count + 1.0), (count + 1.0, seen + jnp.abs(cut).sum())

    init = lambda params: (jnp.zeros(()), jnp.zeros(()))
    attack = Tampering(
      tamper=optax.GradientTransformationExtraArgs(init, update)
    )
    batch = _batch()
    remembered = []
    for aggregate in (he.plaintext(), he.ideal()):
      protocol = _protocol(attack, aggregate)
      _, new, _ = _step(protocol, batch)
      new, _ = protocol.step(new, batch)
      remembered.append(new.link_states[0][1])
    self.assertEqual([float(count) for count, _ in remembered], [2.0, 2.0])
    self.assertGreater(float(remembered[0][1]), 0)
    self.assertEqual(float(remembered[1][1]), 0)


@functools.cache
def _scheme(name):
  if name == 'ckks':
    return he.ckks(bound=1.0 / B)
  return he.paillier(key_bits=512, insecure_for_tests=True)


class CiphertextTest(parameterized.TestCase):
  """The same attack on ciphertexts gives what `ideal` gives."""

  @parameterized.product(
    scheme=('paillier', 'ckks'),
    attack_bottom=(('backdoor', 'mlp2'), ('relabel', 'linear')),
  )
  def test_a_step_is_that_of_sealed_within_the_bound(
    self, scheme, attack_bottom
  ):
    attack, bottom = attack_bottom
    attack = attacks.load(f'backdoor.{attack}')
    y = _batch().y.argmax(-1)
    batch = _batch(NOBODY._replace(pairs=PAIRS, inferred=y))
    hyper = dict(width=3) if bottom == 'mlp2' else {}
    party = _party(f'mlp.{bottom}', **hyper)
    aggregate = _scheme(scheme)
    grads, exact = (
      _step(_protocol(attack, each, party=party), batch)[2][0][0].param_grads
      for each in (aggregate, he.ideal())
    )
    bound = self._bound(aggregate, attack, batch, party)
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b), grads, exact)
    gap = jax.flatten_util.ravel_pytree(gap)[0]
    size = jnp.abs(jax.flatten_util.ravel_pytree(exact)[0])
    self.assertGreater(float(size.max()), 1e-2)
    # The sum in float32 of `ideal` has an error, too.
    np.testing.assert_array_less(gap, bound + 4e-7 * (size + 1))
    self.assertLess(float(bound.max()), 1e-4)

  def _bound(self, aggregate, attack, batch, party):
    """The scheme's own, of the map that runs on the ciphertexts [O]."""
    protocol = _protocol(attack, he.plaintext(), party=party)
    state, _, (views, _) = _step(protocol, batch)
    h = party.apply(state.variables[0], batch.xs[0], train=True, key=KEY)[0]

    def linear(cut):
      kept = dict(notes=batch.notes, mask=batch.mask)
      update = lambda c: attack.tamper.update(c.reshape(B, K), (), h, **kept)[0]
      moved = update(cut) - update(jnp.zeros(B * K))
      tree = _pull(party, state.variables[0], batch.xs[0], moved)
      return jax.flatten_util.ravel_pytree(tree)[0]

    matrix = np.asarray(jax.vmap(linear)(jnp.eye(B * K)).T)
    message = np.asarray(views[0].cut_grads).ravel()
    return aggregate.scheme.error_bound(matrix, message)

  @parameterized.parameters('paillier', 'ckks')
  def test_trainings_end_alike(self, scheme):
    attack = attacks.load('backdoor.backdoor')
    party = _party('mlp.linear')
    ends = []
    for aggregate in (_scheme(scheme), he.ideal()):
      protocol = _protocol(attack, aggregate, party=party)
      batches = [_batch(Notes(PAIRS), seed=s) for s in range(2)]
      batches = jax.tree.map(lambda *a: jnp.stack(a), *batches)
      first = jax.tree.map(lambda a: a[0], batches)
      state = protocol.init(KEY, first.xs)
      state, _ = jax.lax.scan(protocol.step, state, batches)
      ends.append(state.variables)
    chex.assert_trees_all_close(*ends, atol=3e-6)


class NotesTest(absltest.TestCase):
  def test_defenses_do_not_see_them(self):
    seen = []

    def update(cut, state, params=None, **extra):
      seen.append(set(extra))
      return cut, state

    init = lambda params: optax.EmptyState()
    tx = optax.GradientTransformationExtraArgs(init, update)
    attack = _changed(lambda c: c)
    taken = []

    def tamper(cut, state, params=None, **extra):
      taken.append(set(extra))
      return cut, state

    attack = Tampering(
      tamper=optax.GradientTransformationExtraArgs(init, tamper)
    )
    _step(_protocol(attack, he.plaintext(), tx=(tx,)), _batch(NOBODY))
    self.assertNotIn('notes', seen[0])
    self.assertIn('labels', seen[0])
    self.assertEqual(taken[0], {'key', 'index', 'mask', 'epoch', 'notes'})

  def test_padding_is_not_relabelled(self):
    notes = NOBODY._replace(inferred=np.where(np.arange(B) < 3, 0, -1))
    attack = backdoor.relabel()
    out = _tamper(attack, jnp.zeros((B, K)), notes)
    np.testing.assert_array_equal(out[3:], 0)


if __name__ == '__main__':
  absltest.main()
