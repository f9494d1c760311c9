"""Vertical FL: what an active attack changes in the joint model, in pictures.

Section 5.3 of Fu et al. (USENIX Security 2022): how far the joint model relies
on each party, where it looks (Grad-CAM), and how the attacker's bottom tells
the labels apart (t-SNE), after an honest training and after one with a
malicious optimizer.
"""

import functools

import jax
import numpy as np
from sklearn import manifold

from labelleak import sweep
from labelleak.experiments import Measure, fields
from labelleak.experiments.vfl import model_completion
from labelleak.metrics import attribution

_DIGITS = 3  # of what a row keeps for pictures


def experiment(*, config: fields.Attribution) -> Measure:
  """Prepares trainings as each attack would have them, and a look at each.

  Values are the `reliance` on the attacker, a share, and the `main_accuracy`;
  figures are the first trial's `points` [n, 3] (two coordinates and the label)
  and `maps` (image and map).

  Args:
    config: fields as in `configs/common.py: completion`, and `figures` with
      `rows` of the test split that reliance is measured on, `points` of the
      t-SNE, `images` of Grad-CAM (0: none) and its `layer`.

  Raises:
    InputError: anything in the config that cannot run.
  """
  setup = model_completion.prepare(config)
  figures = config.figures.to_dict()
  rows = figures.pop('rows')

  def measure(progress):
    def trial(t):
      seed, looks = config.seed + t, []
      for optimizer, joint in setup.joints.items():
        state = joint.fit(
          seed, name=str(bool(optimizer)), workdir=progress.checkpoints
        )
        reliance = _reliance(joint, state, seed, rows)
        scores = model_completion.score_main(joint, state)
        pictures = {} if t else _pictures(joint, state, seed, **figures)
        looks.append([dict(reliance=reliance, **scores), pictures])
      return looks

    trials = sweep.map_trials(
      trial, config.trials, finished=progress.finished, callback=progress
    )
    order = list(setup.joints)
    places = [
      order.index(model_completion.optimizer_of(attacker))
      for attacker in setup.attackers
    ]
    values = [[looks[place][0] for looks in trials] for place in places]
    results = model_completion.results(setup, values)
    return [
      result._replace(details=trials[0][place][1])
      for result, place in zip(results, places)
    ]

  return measure


def _reliance(joint, state, seed, rows) -> float:
  """Returns how far the joint model relies on the attacker, a share."""
  source = joint.tested
  rows = _spread(len(source.y), rows)
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[rows]]
  predict = functools.partial(jax.jit(joint.protocol.predict), state)
  xs = joint.split(source.take(rows))
  shares = attribution.reliance(sweep.key(seed, 'reliance'), predict, xs, y)
  return float(shares[joint.attacker])


def _pictures(joint, state, seed, *, points, images, layer):
  """Returns what the row of an attack keeps for its pictures."""
  source, party = joint.source, joint.party
  rows = _spread(len(source.y), points)
  variables = state.variables[joint.attacker]
  x = joint.part(source.take(rows))
  h, _ = party.apply(variables, x, train=False, key=None)
  perplexity = min(30.0, (len(rows) - 1) / 3)
  flat = manifold.TSNE(perplexity=perplexity, random_state=seed)
  flat = np.column_stack([flat.fit_transform(np.asarray(h)), source.y[rows]])
  pictures = dict(points=flat.round(_DIGITS).tolist())
  if not images:
    return pictures
  x = source.take(_spread(len(source.y), images))
  predict = functools.partial(joint.protocol.predict, state)
  maps = attribution.gradcam(predict, joint.split(x), layer=layer)
  pictures['maps'] = [
    dict(image=image.round(_DIGITS).tolist(), map=each.round(3).tolist())
    for image, each in zip(np.asarray(x), np.asarray(maps))
  ]
  return pictures


def _spread(size, num):
  """Returns `num` rows, evenly spread, the same for all."""
  return np.unique(np.linspace(0, size - 1, min(num, size)).astype(int))
