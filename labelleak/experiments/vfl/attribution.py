"""Vertical FL: what an active attack changes in the joint model, in pictures.

Section 5.3 of Fu et al. (USENIX Security 2022): how far the joint model relies
on each party, where it looks (Grad-CAM), and how the attacker's bottom tells
the labels apart (t-SNE), after an honest training and after one with a
malicious optimizer.
"""

from collections.abc import Callable
import functools

import jax
from ml_collections import ConfigDict
import numpy as np
from sklearn import manifold

from labelleak.experiments.vfl import fitting, model_completion
from labelleak.metrics import attribution

_DIGITS = 3  # of what a row keeps for pictures


def experiment(*, config: ConfigDict) -> Callable:
  """Trains the joint model as each attack would have it, and looks at it.

  Args:
    config: fields as in `configs/common.py: completion`, and `figures` with
      `rows` of the test split that reliance is measured on, `points` of the
      t-SNE, `images` of Grad-CAM (0: none) and its `layer`.

  Returns:
    measure(progress) -> results, whose values are the `reliance` on the
    attacker, a share, and the `main_accuracy`; the first trial's `points`
    [n, 3] (two coordinates and the label) and `maps` (image and map). See
    `labelleak.experiments`.

  Raises:
    InputError: anything in the config that cannot run.
  """
  config = config.copy_and_resolve_references()
  setup = model_completion.prepare(config)

  def measure(progress):
    values = [[] for _ in setup.specs]
    pictures = {}
    for trial in range(config.trials):
      for optimizer, model in setup.runs.items():
        found, state = _run(setup, model, trial, str(bool(optimizer)))
        if not trial:
          pictures[optimizer] = _pictures(setup, model, state)
        for each, attack in zip(values, setup.attacks):
          if model_completion.optimizer(attack) is optimizer:
            each.append(found)
      progress(1)
    results = model_completion.results(setup, values)
    return [
      dict(result, **pictures[model_completion.optimizer(attack)])
      for result, attack in zip(results, setup.attacks)
    ]

  return measure


def _run(setup, model, trial, name):
  """Metrics of one training, and its state."""
  config, source = setup.config, setup.tested
  seed = config.seed + trial
  state = fitting.fit(config, model, setup.source, seed, name=name)
  rows = _some(len(source.y), config.figures.rows)
  xs = model.split(source.take(rows))
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[rows]]
  predict = functools.partial(jax.jit(model.protocol.predict), state)
  shares = attribution.reliance(jax.random.key(seed), predict, xs, y)
  found = dict(reliance=float(shares[config.attacker]))
  return found | model_completion.main(setup, model, state), state


def _pictures(setup, model, state):
  """What the row of an attack keeps for `report.explained`."""
  config, source = setup.config, setup.source
  rows = _some(len(source.y), config.figures.points)
  party = model.parties[config.attacker]
  x = model.split(source.take(rows))[config.attacker]
  variables = state.variables[config.attacker]
  h, _ = party.apply(variables, x, train=False, key=None)
  near = min(30.0, (len(rows) - 1) / 3)
  flat = manifold.TSNE(perplexity=near, random_state=config.seed)
  points = np.column_stack([flat.fit_transform(np.asarray(h)), source.y[rows]])
  found = dict(points=points.round(_DIGITS).tolist())
  if not config.figures.images:
    return found
  images = source.take(_some(len(source.y), config.figures.images))
  predict = functools.partial(model.protocol.predict, state)
  maps = attribution.gradcam(
    predict, model.split(images), layer=config.figures.layer
  )
  pairs = zip(np.asarray(images), np.asarray(maps))
  return found | dict(
    maps=[
      dict(image=image.round(_DIGITS).tolist(), map=seen.round(3).tolist())
      for image, seen in pairs
    ]
  )


def _some(size, num):
  """`num` rows, evenly spread, the same for all."""
  return np.unique(np.linspace(0, size - 1, min(num, size)).astype(int))
