"""What attacks are granted: no more than a config says, nothing of a victim."""

import dataclasses

from absl.testing import absltest, parameterized

from labelleak import attacks, experiments
from labelleak.attacks import counts
from labelleak.base import Attack, InputError
from labelleak.experiments import grants
from labelleak.experiments.hfl import build
from tests.experiments import samples

SEEN = []


def probe(*, wants: str) -> Attack:
  """An attack that checks what it is granted, then guesses."""

  def infer(key, view, known):
    fields = {f.name: getattr(known, f.name) for f in dataclasses.fields(known)}
    assert fields[wants] is not None
    SEEN.append(fields)
    return counts.random().infer(key, view, known)

  return Attack(infer=infer)


class GrantsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    SEEN.clear()

  def _seen(self, wants, **fields):
    name = f'{__name__}.probe'
    spec = (dict(name=name, wants=wants, known=('labelled', 'defense')),)
    experiments.run(samples.horizontal(attacks=spec, trials=1, **fields))
    return SEEN[0]

  def test_only_what_is_granted(self):
    noise = (dict(name='clip', max_norm=0.5), dict(name='gaussian', stddev=0.1))
    seen = self._seen('labelled', defense=samples.at_step(*noise))
    self.assertIsNone(seen['model'])
    self.assertIsNone(seen['lr'])
    self.assertEqual(seen['steps'], 1)
    self.assertEqual(seen['defense'], (('clip', 0.5), ('gaussian', 0.1)))
    self.assertEqual(seen['labelled'].x.shape, (100, 8, 8, 1))
    self.assertEqual(seen['labelled'].y.shape, (100, 10))
    for field in ('unlabelled', 'labels'):
      self.assertIsNone(seen[field])

  def test_nothing_in_a_known_is_the_victims(self):
    allowed = {
      'num_classes', 'batch_size', 'steps', 'clients', 'client', 'lr',
      'defense', 'model', 'labelled', 'unlabelled', 'rounds', 'shifting',
    }  # fmt: skip
    # `labels` are of upper bounds, which no experiment on counts has.
    self.assertEqual(set(self._seen('labelled')), allowed | {'labels'})
    self.assertNotIn('labels', build.GRANTS)

  def test_a_stranger_adds_an_attack_without_an_edit(self):
    name = f'{__name__}.probe'
    config = samples.horizontal(attacks=(dict(name=name, wants='num_classes'),))
    rows = experiments.run(config)
    self.assertEqual(rows[0]['attack'], dict(name=name, wants='num_classes'))
    self.assertIs(attacks.load('counts.llbg').__class__, Attack)


class LoadTest(parameterized.TestCase):
  def _load(self, *specs, known=()):
    fields = 'model', 'labelled', 'labels'
    return grants.load_attacks(
      specs,
      known,
      kind='horizontal',
      fields=fields,
      baseline='counts.random',
    )

  def test_an_attacks_own_grants_stand_in_the_place_of_the_configs(self):
    own, other, guess = self._load(
      dict(name='counts.llbg', confidence=0.5, known=()),
      dict(name='counts.llg_plus'),
      known=('model', 'labelled'),
    )
    self.assertEqual(own.spec, dict(name='counts.llbg', confidence=0.5))
    self.assertEqual(own.known, ())
    self.assertEqual(other.known, ('model', 'labelled'))
    self.assertEqual(guess.spec, dict(name='counts.random'))
    given = dict(model='served', labelled='its own')
    truth = dict(labels='the truth')
    self.assertEqual(grants.select(own, given | truth), {})
    self.assertEqual(grants.select(other, given | truth), given)

  def test_the_guess_is_added_once(self):
    (guess,) = self._load(dict(name='counts.random'))
    self.assertEqual(guess.spec, dict(name='counts.random'))

  @parameterized.parameters(
    (('counts.llbg',), (), "'counts.llbg' is no attack"),
    (
      (dict(name='backdoor.backdoor'),),
      (),
      'backdoor.backdoor is for vertical FL, and this is horizontal; use',
    ),
    ((dict(),), (), 'is no attack; write dicts with a name'),
    ((dict(name='counts.llbgg'),), (), "llbgg.*'counts.llbg'"),
    ((dict(name='counts.llbg', gamma=1),), (), "takes no 'gamma'"),
    ((dict(name='counts.llbg'),), ('x',), "known grants 'x', which is none of"),
    ((dict(name='counts.llg_plus'),), ('model',), "needs 'labelled'"),
    (
      (dict(name='counts.llbg'),),
      ('labels',),
      "counts.llbg is granted 'labels', which are of upper bounds alone",
    ),
  )
  def test_bad_entries_are_named(self, specs, known, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      self._load(*specs, known=known)
    self.assertNotIn('\n', str(caught.exception))

  def test_what_tampers_infers_nothing(self):
    says = 'backdoor.backdoor infers nothing; name an attack that does'
    with self.assertRaisesRegex(InputError, says):
      grants.load_attacks(
        [dict(name='backdoor.backdoor')],
        (),
        kind='vertical',
        fields=(),
        baseline='scores.random',
      )


if __name__ == '__main__':
  absltest.main()
