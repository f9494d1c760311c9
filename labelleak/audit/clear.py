"""Attacks on cut gradients that were received in the clear."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, compilation, vfl
from labelleak.attacks.scores import directions
from labelleak.audit import answers, patterns
from labelleak.audit.answers import Answer, Rows, Setting
from labelleak.base import Labelled
from labelleak.messages import Step


def attack(
  key: jax.Array, steps: tuple[Step, ...], rows: Rows, setting: Setting
) -> tuple[list[Answer], list[str]]:
  """Runs the attacks that cut gradients support; returns warnings, too."""
  cut = np.concatenate([step.cut_grads for step in steps])
  sizes = np.concatenate([np.full(len(s.rows), len(s.rows)) for s in steps])
  if setting.top == 'model':
    return _read_directions(key, steps, rows, setting), []
  fits, warnings = patterns.check(cut, sizes, setting)
  answer = _name_directly(cut, fits, rows, setting)
  if fits.mean() > 1 - patterns.FEW or cut.shape[1] == 1:
    return [answer], warnings
  return [answer, *_read_directions(key, steps, rows, setting)], warnings


def _name_directly(cut, fits, rows, setting) -> Answer:
  """Names labels by signs: `scores.direct`."""
  known = vfl.Known(num_classes=setting.num_classes, batch_size=len(cut))
  view = answers.make_view(jnp.asarray(cut))
  infer = attacks.load('scores.direct').infer
  scores = np.asarray(infer(jax.random.key(0), view, known))
  scale = np.abs(scores).max(1, keepdims=True)
  return Answer(
    name='direct',
    scores=rows.average(scores / np.where(scale > 0, scale, 1.0)),
    trust=answers.pool_trust(rows, scores.argmax(1), fits),
  )


def _read_directions(key, steps, rows, setting) -> list[Answer]:
  """Reads norms and directions, whatever lies above the cut."""
  grant_key, cluster_key = jax.random.split(key)
  num_classes = setting.num_classes
  results = []
  if num_classes == 2:
    results.append(_compare_norms(steps, rows))
  first = np.concatenate([step.cut_grads for step in steps])[rows.first]
  cut = jnp.asarray(first)
  if setting.granted:
    results += _compare_directions(grant_key, cut, rows, setting)
  groups = np.asarray(_compile_cluster(num_classes)(cluster_key, cut))
  results.append(Answer('groups', np.eye(num_classes)[groups], named=False))
  return results


@functools.cache
def _compile_cluster(num_groups):
  """Compiles `directions.cluster`."""
  return compilation.jit_once(
    lambda key, cut: directions.cluster(key, cut, num_groups)
  )


def _compare_norms(steps, rows) -> Answer:
  """Names the rows of large gradients class 1: `scores.norm`."""
  infer = attacks.load('scores.norm').infer
  scores = [
    infer(
      jax.random.key(0),
      answers.make_view(jnp.asarray(step.cut_grads)),
      vfl.Known(num_classes=2, batch_size=len(step.rows)),
    )
    for step in steps
  ]
  return Answer(
    name='norm',
    scores=rows.average(np.concatenate(scores)),
    granted=('that class 1 has the larger gradients',),
  )


def _compare_directions(key, cut, rows, setting) -> list[Answer]:
  """Names directions by labelled rows: `scores.similarity`, `scores.cosine`."""
  truth = np.array([setting.labels[row] for row in rows.ids.tolist()])
  order = np.asarray(jax.random.permutation(key, len(truth)))
  places = np.concatenate(
    [
      order[truth[order] == label][: setting.granted]
      for label in range(setting.num_classes)
    ]
  )
  skip = np.isin(np.arange(len(truth)), places)
  ids = jnp.asarray(rows.ids)[:, None]
  y = jnp.eye(setting.num_classes)[truth[places]]
  known = vfl.Known(
    num_classes=setting.num_classes,
    batch_size=len(truth),
    labelled=Labelled(ids[places], y),
  )
  view = answers.make_view(cut, x=ids)
  names = ['similarity', *(['cosine'] if setting.num_classes == 2 else [])]
  return [
    Answer(
      name=name,
      scores=np.asarray(
        attacks.load(f'scores.{name}').infer(jax.random.key(0), view, known)
      ),
      granted=(f'{len(places)} labelled rows, {setting.granted} a class',),
      skip=skip,
    )
    for name in names
  ]
