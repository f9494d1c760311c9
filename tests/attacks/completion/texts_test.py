"""Completion of texts: a BERT bottom, stolen or not, and few labels."""

import dataclasses

from absl.testing import absltest, parameterized
import jax
import numpy as np
import optax
import pytest

from labelleak import attacks, base, models, vfl
from labelleak.base import InputError

K, LENGTH, VOCAB = 3, 6, 16
_QUICK = dict(
  mix_layers=(1, 2),
  epochs=2,
  iterations=80,
  encoder_lr=2e-3,
  head_lr=1e-2,
  batch_size=4,
  unlabelled=8,
)


def party(name='bert.bert', **options):
  size = dict(width=8, heads=2, depth=2, vocab=VOCAB, drop=0.0)
  model = models.load(name, num_classes=K, **(options or size))
  return vfl.party(model, optax.sgd(0.1))


def known(bert, labelled=12, held=90):
  """Texts of classes that have tokens of their own."""
  rng = np.random.default_rng(0)
  y = np.arange(labelled + held) % K
  x = 1 + 5 * y[:, None] + rng.integers(0, 5, (len(y), LENGTH))
  pool, one_hot = x[labelled:], np.eye(K, dtype=np.float32)[y[:labelled]]
  return vfl.Known(
    num_classes=K,
    batch_size=4,
    party=bert,
    pool=base.Pool(lambda index: pool[index], held),
    labelled=base.Labelled(x[:labelled], one_hot),
  ), (pool, y[labelled:])


def view(bert, seed=3):
  x = np.zeros((1, LENGTH), int)
  variables = bert.init(jax.random.key(seed), x)
  return vfl.View(None, None, variables, None, None, None)


class TextsTest(parameterized.TestCase):
  @parameterized.parameters(
    'completion.texts.passive', 'completion.texts.semi_supervised'
  )
  @pytest.mark.slow
  def test_classes_of_separate_words_are_told_apart(self, name):
    bert = party()
    granted, (x, y) = known(bert)
    attack = attacks.load(name, **_QUICK)
    attack.check(granted)
    seen = []
    keep = lambda epoch, predict: seen.append(epoch)
    predict = attack.fit(jax.random.key(0), view(bert), granted, keep)
    self.assertEqual(seen, [1, 2])
    self.assertGreater((np.asarray(predict(x)).argmax(-1) == y).mean(), 0.9)

  @pytest.mark.slow
  def test_only_the_released_form_has_no_use_for_the_stolen_bottom(self):
    bert = party()
    granted, (x, _) = known(bert)
    quick = dict(_QUICK, epochs=1, iterations=1)
    for name, same in (
      ('completion.texts.semi_supervised', True),
      ('completion.texts.passive', False),
    ):
      logits = []
      for seed in (3, 4):
        fit = attacks.load(name, **quick).fit
        predict = fit(
          jax.random.key(0), view(bert, seed), granted, lambda *_: None
        )
        logits.append(np.asarray(predict(x)))
      self.assertEqual(np.array_equal(*logits), same)

  def test_the_active_attack_differs_in_the_training_before_it(self):
    bert = party()
    granted, (x, _) = known(bert)
    quick, logits = dict(_QUICK, epochs=1, iterations=1), []
    for name in ('completion.texts.passive', 'completion.texts.active'):
      attack = attacks.load(name, **quick)
      attack.check(granted)
      key = jax.random.key(0)
      predict = attack.fit(key, view(bert), granted, lambda *_: None)
      logits.append(np.asarray(predict(x)))
    np.testing.assert_array_equal(*logits)
    self.assertIs(
      attack.optimizer, attacks.load('completion.texts.active').optimizer
    )
    with self.assertRaisesRegex(InputError, "reading='new'"):
      attacks.load('completion.texts.active', reading='new')

  def test_a_batch_takes_no_more_texts_than_there_are(self):
    granted, _ = known(party(), labelled=6, held=8)
    load = lambda **sizes: attacks.load(
      'completion.texts.passive', **(_QUICK | sizes)
    )
    load().check(granted)
    with self.assertRaisesRegex(InputError, 'unlabelled=9 must be .* 1..8'):
      load(unlabelled=9).check(granted)
    with self.assertRaisesRegex(InputError, 'batch_size=7 must be .* 1..6'):
      load(batch_size=7).check(granted)

  def test_what_it_cannot_use_is_named(self):
    bert = party()
    granted, _ = known(bert)
    attack = attacks.load('completion.texts.passive', **_QUICK)
    with self.assertRaisesRegex(InputError, "needs 'pool'"):
      attack.check(dataclasses.replace(granted, pool=None))
    many = attacks.load(
      'completion.texts.passive', **dict(_QUICK, batch_size=13)
    )
    with self.assertRaisesRegex(InputError, 'batch_size=13 .* the 12 labelled'):
      many.check(granted)
    deep = attacks.load(
      'completion.texts.passive', **dict(_QUICK, mix_layers=(3,))
    )
    with self.assertRaisesRegex(InputError, 'no block 3 .* of 2'):
      deep.check(granted)
    flat = dataclasses.replace(granted, party=party('mlp.fcnn', widths=(4,)))
    with self.assertRaisesRegex(InputError, 'mixes no hidden states'):
      attack.check(flat)

  @parameterized.parameters(
    (dict(temprature=1.0), "takes no 'temprature'"),
    (dict(iterations=0), 'iterations=0 must be positive'),
    (dict(alpha=-1.0), 'alpha=-1.0'),
  )
  def test_bad_options_are_named(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      attacks.load('completion.texts.passive', **options)


if __name__ == '__main__':
  absltest.main()
