"""Described clients in a config: the same as slices, told, and refused."""

import dataclasses

from absl.testing import absltest, parameterized

from labelleak import experiments, hfl
from labelleak.attacks import counts
from labelleak.base import Attack, InputError
from tests.experiments import samples

ABSENT = dict(lr=None, local_steps=None)
MOMENTUM = dict(lr=1e-3, batch_size=2, optimizer=dict(name='sgd', momentum=0.9))
TOLD = 'clients', 'client', 'defense'
LISTED = []


def probe() -> Attack:
  """An attack that lists what it is granted, then guesses."""

  def infer(key, view, known):
    LISTED.append(known)
    return counts.random().infer(key, view, known)

  return Attack(infer=infer)


def _config(client=None, **fields):
  return samples.horizontal(client=client, **{**ABSENT, **fields})


class DescribedTest(parameterized.TestCase):
  def test_a_plain_client_is_that_of_slices(self):
    rows = experiments.run(samples.horizontal())
    client = dict(lr=1e-3, batch_size=2, proximal=None)
    others = experiments.run(_config(client))
    for row, other in zip(rows, others, strict=True):
      self.assertEqual(row['metrics'], other['metrics'])
    self.assertEqual(
      others[0]['setting']['extra'],
      dict(
        client=dict(lr=1e-3, batch_size=2), clients=1, partition='unbalanced'
      ),
    )

  def test_who_is_told_of_momentum_names_more(self):
    attacks = (
      dict(name='counts.calibrated', known=TOLD),
      dict(name='counts.llbg', known=('clients', 'steps')),
    )
    config = _config(MOMENTUM, attacks=attacks, batch_size=40)
    rows = samples.by_attack(experiments.run(config))
    told = rows['counts.calibrated']['mean']
    self.assertGreater(told, 0.9)
    self.assertGreater(told, rows['counts.llbg']['mean'] + 0.1)
    self.assertGreater(told, rows['counts.random']['mean'] + 0.2)

  @parameterized.parameters(True, False)
  def test_the_description_is_granted_by_name(self, granted):
    LISTED.clear()
    known = ('client',) if granted else ('steps', 'lr')
    spec = dict(name=f'{__name__}.probe', known=known)
    experiments.run(_config(MOMENTUM, attacks=(spec,), trials=1))
    self.assertEqual(
      LISTED[0].client, hfl.Client(**MOMENTUM) if granted else None
    )
    self.assertEqual((LISTED[0].steps, LISTED[0].lr), (10, 1e-3))

  def test_none_is_described_by_default(self):
    fields = {field.name for field in dataclasses.fields(hfl.Known)}
    self.assertIn('client', fields)
    LISTED.clear()
    spec = dict(name=f'{__name__}.probe')
    experiments.run(samples.horizontal(attacks=(spec,), trials=1))
    self.assertIsNone(LISTED[0].client)

  @parameterized.parameters(
    (dict(MOMENTUM), dict(lr=0.1), 'lr=0.1 contradicts client'),
    (dict(MOMENTUM), dict(local_steps=10), 'local_steps=10 contradicts client'),
    (None, {}, 'lr=None must be in'),
    (None, dict(lr=0.1), 'local_steps=None must be a whole'),
    (dict(lr=0.1, epoch=2), {}, "client takes no 'epoch'; it takes: lr, b"),
    (dict(lr=0.1, epochs='two'), {}, "client: epochs='two' must be"),
    (dict(batch_size=2), {}, 'lr=None cannot be trained; set it'),
    (dict(lr=0.1, optimizer=dict(name='sdg')), {}, "no optimizer 'sdg'"),
    (dict(lr=0.1, optimizer=dict(momentum=0.9)), {}, 'lacks a name'),
    ((1, 2), {}, 'config.client=.*must be a dict'),
    (dict(MOMENTUM), dict(known=('epochs',)), "known grants 'epochs'"),
    (
      dict(MOMENTUM, clip_per_example=1.0),
      dict(known=('defense',)),
      "'defense' without 'client', whose clip_per_example=1.0 is one",
    ),
    (
      None,
      dict(lr=0.1, local_steps=10, known=('client',)),
      "grants 'client', and none is described",
    ),
    (dict(lr=0.1, batch_size=30, drop_last=True), {}, 'leaves none of 20'),
  )
  def test_what_contradicts_is_refused(self, client, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.prepare(_config(client, **fields))
    self.assertLen(str(caught.exception).splitlines(), 1)


if __name__ == '__main__':
  absltest.main()
