"""Vertical FL: the labels of one batch from what a passive party sees."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import metrics, sweep, validate, vfl
from labelleak.attacks import over_time
from labelleak.base import Batch, InputError, Labelled
from labelleak.experiments import Measure, answers, fields, grants
from labelleak.experiments.grants import Attacker
from labelleak.experiments.result import Result, Setting
from labelleak.experiments.vfl.build import build
from labelleak.experiments.vfl.joint import Joint

GRANTS = ('bottom', 'labelled')

# (key, batch, state) -> scores [B, K] of each attack, the view was finite []
Scorer = Callable[
  [chex.PRNGKey, Batch, vfl.State], tuple[list[chex.Array], chex.Array]
]


def experiment(*, config: fields.Vertical) -> Measure:
  """Prepares one training step of P parties, and all attacks on its view.

  Untrained, each trial has its own initialisation, rows and classes; after
  `train.steps` steps all trials attack the one trained model, on rows of its
  training data.

  Args:
    config: fields as in `configs/common.py: vfl`.

  Raises:
    InputError: anything in the config that cannot run. The whole trial is
      traced once.
  """
  joint = build(config)
  attackers = grants.load_attacks(
    config.attacks,
    config.known,
    kind='vertical',
    fields=GRANTS,
    baseline='scores.random',
  )
  training = joint.training
  if joint.arbiter and training.steps:
    raise InputError(
      f'arbiter=True after train.steps={training.steps}: its optimizer keeps'
      " what this attacker has not seen; use experiment='vfl.whole_training'."
    )
  joint.check_cost(
    (config.batch_size, config.trials), (training.batch_size, training.steps)
  )
  score = scorer(joint, attackers, per_class=config.aux.per_class)

  def trial(key, batch, state):
    init_key, attack_key = jax.random.split(key)
    state = state or joint.protocol.init(init_key, batch.xs)
    scores, finite = score(attack_key, batch, state)
    return finite, judge(scores, batch.y)

  key = sweep.key(config.seed, 'batch_inference')
  _trace(joint, trial, key)

  def measure(progress):
    state, setting = _fit(joint, config.seed, progress.checkpoints)
    finite, values = sweep.run_trials(
      trial,
      key,
      config.trials,
      joint.draw,
      state,
      per_device=config.per_device,
      devices=joint.devices,
      finished=progress.finished,
      callback=progress,
      tell_compile=progress.tell_compile,
    )
    return results(attackers, setting, finite, values)

  return measure


def _trace(joint, trial, key):
  """Finds what cannot run, and a link that fits no other batch size."""
  first = jax.tree.map(lambda a: a[0], joint.draw(np.arange(1)))
  fresh = jax.eval_shape(joint.protocol.init, key, first.xs)
  trained = ()
  if joint.training.steps:
    trained = jax.eval_shape(lambda: joint.init(0))
    _check_links(joint, trained, fresh)
  jax.eval_shape(trial, key, first, trained)


def _fit(joint, seed, workdir) -> tuple[Any, Setting]:
  """Returns the state to attack, () where untrained, and the setting."""
  if not joint.training.steps:
    return (), joint.setting
  state = joint.fit(seed, workdir=workdir)
  extra = dict(joint.setting.extra, accuracy=round(joint.accuracy(state), 4))
  return state, joint.setting._replace(extra=extra)


def results(
  attackers: Sequence[Attacker],
  setting: Setting,
  finite: np.ndarray,
  values: Sequence[Mapping[str, np.ndarray]],
  **learned: np.ndarray,
) -> list[Result]:
  """Returns a result for each attack; what was `learned` [T] goes to all.

  Raises:
    InputError: a view was not `finite` [T], an attack broke its contract.
  """
  answers.check(attackers, finite, [value['sound'] for value in values])
  names = _metrics(setting.num_classes)
  return [
    Result(
      attacker.spec,
      attacker.known,
      setting,
      values=drop_undefined({name: value[name] for name in names}) | learned,
      details=dict(matrix=_mean(value['matrix']).round(4).tolist()),
    )
    for attacker, value in zip(attackers, values)
  ]


def drop_undefined(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns metrics [T], no calibration of scores that are no probabilities."""
  name = 'calibration_error'
  left_out = {name} if np.isnan(values[name]).any() else set()
  return {k: v for k, v in values.items() if k not in left_out}


def scorer(
  joint: Joint, attackers: Sequence[Attacker], *, per_class: int
) -> Scorer:
  """Returns what scores the labels of the next step by each attack.

  Labels of `per_class` rows of each class may be granted.
  """
  bottom = vfl.bottom(joint.party)

  @jax.default_matmul_precision('highest')
  def score(key, batch, state):
    _, (views, _) = joint.protocol.step(state, batch)
    view = views[joint.attacker]
    labelled = label_rows(view.x, batch.y, per_class)
    given = dict(bottom=bottom, labelled=labelled)
    scores = []
    for attacker in attackers:
      known = vfl.Known(
        num_classes=joint.num_classes,
        batch_size=batch.mask.shape[0],
        num_rows=len(joint.source.y),
        loss=joint.loss,
        **grants.select(attacker, given),
      )
      scores.append(_infer(joint, attacker, key, view, known))
    return scores, view.check('view', known)[1]

  return score


def _infer(joint, attacker, key, view, known):
  """Returns scores [B, K] of one view; an attack over time knows but that."""
  attack = joint.adapt(attacker.attack)
  memory = attack.observe(attack.init(known), view)
  adapted = attacker._replace(attack=attack)
  scores = answers.infer(adapted, key, memory, known)
  return scores[view.index] if over_time.remembers(attacker.attack) else scores


def label_rows(x: chex.Array, y: chex.Array, per_class: int) -> Labelled:
  """Returns rows of a batch whose labels may be granted, of each class.

  Raises:
    InputError: per_class < 1.
  """
  validate.whole('aux.per_class', per_class, 1)
  order = jnp.argsort(-y, axis=0, stable=True)
  index = order[:per_class].T.reshape(-1)
  return Labelled(x[index], y[index])


def judge(
  scores: Sequence[chex.Array], y: chex.Array
) -> list[dict[str, chex.Array]]:
  """Returns metrics of each attack's scores; truth meets them here."""
  names = _metrics(y.shape[-1])
  return [
    {name: getattr(metrics, name)(each, y) for name in names}
    | dict(matrix=metrics.label_matrix(each, y))
    | dict(sound=answers.is_sound(each))
    for each in scores
  ]


def _check_links(joint, trained, fresh):
  """Refuses a defense whose state, by batch position, fits no other batch."""
  shapes = lambda state: [a.shape for a in jax.tree.leaves(state.link_states)]
  if shapes(trained) != shapes(fresh):
    raise InputError(
      f'batch_size={joint.draws.batch_size}, but the defense keeps something'
      ' for each row of the training batch; set it to'
      f' {joint.training.batch_size}.'
    )


def _metrics(num_classes):
  """Returns names of what is measured, the one that papers report first."""
  names = ['label_accuracy', 'permuted_label_accuracy']
  names += ['top5_accuracy'] if num_classes > 5 else []
  names += ['calibration_error']
  return names + (['auc'] if num_classes == 2 else [])


def _mean(matrices):
  """Returns the mean of [T, K, K] over trials where a class occurs, [K, K]."""
  present = matrices.any(-1).sum(0)
  return matrices.sum(0) / np.maximum(present, 1)[:, None]
