"""Horizontal FL: label counts of a client's batch from what the server sees."""

from collections.abc import Sequence
import dataclasses
from typing import Optional
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import he, hfl, metrics, sweep
from labelleak.attacks import over_time
from labelleak.base import Batch, InputError, Reconstruction
from labelleak.experiments import Measure, answers, fields, grants
from labelleak.experiments.grants import Attacker
from labelleak.experiments.hfl import audit
from labelleak.experiments.hfl.build import GRANTS, Round, build
from labelleak.experiments.hfl.scoring import Attacked, Scoring
from labelleak.experiments.result import Result

_OF_COUNTS = (
  'count_accuracy',
  'presence_precision',
  'presence_recall',
  'count_error',
)
METRICS = (*_OF_COUNTS, 'client_accuracy')  # the last of several clients


def experiment(*, config: fields.LabelCounts) -> Measure:
  """Prepares one client's round (or C clients') and all attacks on its counts.

  Args:
    config: fields as in `configs/common.py: hfl`, and with a page as of
      `labelleak audit` the options of `audit.report` as `audit`.

  Raises:
    InputError: anything in the config that cannot run. The whole trial is
      traced once.
  """
  attackers = grants.load_attacks(
    config.attacks,
    config.known,
    kind='horizontal',
    fields=GRANTS,
    baseline='counts.random',
  )
  setup = build(config)
  options = config.get('audit')
  measure = prepare(
    setup,
    attackers,
    Scoring(audit.record(score) if options else score, METRICS),
    trials=config.trials,
    per_device=config.per_device,
  )
  if not options:
    return measure
  return audit.report(measure, setup, config.known, **options)


def prepare(
  setup: Round,
  attackers: Sequence[Attacker],
  scoring: Scoring,
  *,
  trials: int,
  per_device: Optional[int],
) -> Measure:
  """Prepares `trials` T in which all attacks see the same rounds.

  The server steps from round to round by what it sees. An attack of an instant
  answers to the last.

  Raises:
    InputError: an attack that cannot run, or that reads one round where all are
      counted; encryption that takes too long.
  """
  if (
    setup.rounds > 1
    and not setup.shifting
    and not any(over_time.remembers(attacker.attack) for attacker in attackers)
  ):
    warnings.warn(
      f'rounds={setup.rounds}, but every attack answers to the last round'
      " alone; add one over time, such as dict(name='over_time.mean_update',"
      " attack='counts.llbg').",
      stacklevel=2,
    )
  trial = jax.jit(_trial(setup, attackers, scoring))
  key = sweep.key(setup.seed, 'label_counts')
  labelled = setup.known['labelled']
  first = jax.tree.map(lambda a: a[0], setup.draw(np.arange(1)))
  shapes = setup.shapes()
  jax.eval_shape(trial, key, first, (shapes, labelled, scoring.shared))
  setup.check_cost(shapes['params'], trials)

  def run(progress):
    variables, setting = setup.fit(progress.checkpoints)
    finite, values = sweep.run_trials(
      trial,
      key,
      trials,
      setup.draw,
      (variables, labelled, scoring.shared),
      per_device=per_device,
      devices=he.devices(setup.aggregate),
      finished=progress.finished,
      callback=progress,
      tell_compile=progress.tell_compile,
    )
    answers.check(attackers, finite, [value.pop('sound') for value in values])
    learned = setup.main_task.accuracy(progress.checkpoints)
    return [
      Result(
        attacker.spec,
        attacker.known,
        setting,
        values={k: value[k] for k in scoring.metrics if k in value} | learned,
        arrays={k: a for k, a in value.items() if k not in scoring.metrics},
      )
      for attacker, value in zip(attackers, values)
    ]

  return run


def _trial(setup, attackers, scoring):
  """Returns (key, batches [C, B, ...], shared) -> all was finite, scores."""

  def trial(key, batches, shared):
    variables, labelled, arrays = shared
    view_key, attack_key = jax.random.split(key)
    given = dict(
      setup.known,
      labelled=labelled,
      unlabelled=labelled and labelled.x,
      labels=batches.y.reshape(-1, setup.source.num_classes),
    )
    known = [
      hfl.Known(
        num_classes=setup.source.num_classes,
        batch_size=setup.batch_size,
        rounds=setup.rounds,
        shifting=setup.shifting,
        **grants.select(attacker, given),
      )
      for attacker in attackers
    ]
    observe = _observer(setup, attackers, batches, known[0])
    memories = [a.attack.init(own) for a, own in zip(attackers, known)]
    # A first round by itself: only then has every memory its lasting form.
    carry, finite = observe((variables, memories), (view_key, 0))
    if setup.rounds > 1:
      keys = jax.random.split(view_key, setup.rounds - 1)
      numbers = jnp.arange(1, setup.rounds)
      carry, others = jax.lax.scan(observe, carry, (keys, numbers))
      finite &= others.all()
    scores = []
    for attacker, memory, own in zip(attackers, carry[1], known):
      answer = answers.infer(attacker, attack_key, memory, own)
      attacked = Attacked(attacker.spec['name'], memory, own, answer)
      values = scoring.score(attacked, batches, arrays)
      sound = answers.is_sound(answer, own.num_examples)
      scores.append(values | dict(sound=sound))
    return finite, scores

  return trial


def _observer(setup, attackers, batches, known):
  """Returns ((variables, memories), round) -> (both, whether it was finite).

  A round is its key and its number.
  """
  one = dataclasses.replace(known, rounds=1, shifting=False)

  def observe(carry, round_):
    variables, memories = carry
    key, number = round_
    view = setup.observe(key, variables, setup.select(batches, number))
    _, finite = view.check('view', one)
    memories = [a.attack.observe(m, view) for a, m in zip(attackers, memories)]
    return (setup.advance(variables, view), memories), finite

  return observe


def score(
  attacked: Attacked, batches: Batch, shared: chex.ArrayTree = ()
) -> dict[str, chex.Array]:
  """Returns metrics of counts [K]; truth meets them here.

  Raises:
    InputError: an answer that is no counts.
  """
  del shared
  if isinstance(attacked.answer, Reconstruction):
    raise InputError(
      'an attack of this config restores images, which are no counts; use'
      " experiment 'hfl.reconstruction', or an attack of attacks.counts."
    )
  return score_counts(attacked.answer, batches.y.sum(1).astype(jnp.int32))


def score_counts(
  counts: chex.Array, truth: chex.Array
) -> dict[str, chex.Array]:
  """Returns metrics of counts [K] against those of each client, [C, K]."""
  values = {m: getattr(metrics, m)(counts, truth.sum(0)) for m in _OF_COUNTS}
  if len(truth) > 1:
    # A client's labels by the clients' mean, which is all that was revealed;
    # shares are what rounding them at random gives in expectation.
    share = counts / len(truth)
    own = jax.vmap(metrics.count_accuracy, (None, 0))(share, truth)
    values['client_accuracy'] = own.mean()
  return values
