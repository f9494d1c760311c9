"""Horizontal FL: images of a client's batch, restored with extracted labels."""

import functools

import jax.numpy as jnp

from labelleak import metrics
from labelleak.base import InputError, Reconstruction
from labelleak.experiments import Measure, fields, grants
from labelleak.experiments.hfl import label_counts
from labelleak.experiments.hfl.build import GRANTS, build
from labelleak.experiments.hfl.scoring import Scoring
from labelleak.metrics import images, perceptual

_METRICS = ('count_accuracy', 'mse', 'psnr', 'ssim', 'cw_ssim')


def experiment(*, config: fields.Reconstruction) -> Measure:
  """Prepares one client's round and all reconstructions from the same view.

  Attacks share batches, updates and first guesses, so that rows with other
  labels differ by the labels alone. A row whose `labels` are 'granted' has the
  batch's own, an upper bound and no attack; its `known` says so. The images are
  in the results' `arrays`.

  Args:
    config: fields as in `configs/common.py: hfl`, and `lpips`, the path of its
      weights or None, and `shown`, trials whose images are kept.

  Raises:
    InputError: as the experiment `label_counts`; the data are no images, an
      attack restores none, or LPIPS cannot run.
  """
  attackers = grants.load_attacks(
    config.attacks,
    config.known,
    kind='horizontal',
    fields=(*GRANTS, 'labels'),
    baseline='reconstruction.random',
  )
  setup = build(config)
  source, shown = setup.source, config.shown
  if source.pixel_range is None or len(source.shape) != 3:
    raise InputError(
      f'{source.name} holds no images, examples of shape {source.shape};'
      ' reconstruct other data.'
    )
  weights = None
  if config.lpips:
    perceptual.check(source.shape)
    weights = perceptual.load(config.lpips)
  measure = label_counts.prepare(
    setup,
    attackers,
    Scoring(
      score=functools.partial(_score, source.pixel_range),
      metrics=(*_METRICS, *(('lpips',) if weights else ()), 'objective'),
      shared=weights,
    ),
    trials=config.trials,
    per_device=config.per_device,
  )

  def restore(progress):
    return [_crop(result, shown) for result in measure(progress)]

  return restore


def _crop(result, shown):
  """Keeps the images of the first trials."""
  arrays = {k: a[:shown] for k, a in result.arrays.items()}
  return result._replace(arrays=arrays)


def _score(pixel_range, attacked, batches, weights):
  """Returns metrics of a `Reconstruction`, and the images as bytes."""
  answer, known = attacked.answer, attacked.known
  if not isinstance(answer, Reconstruction):
    raise InputError(
      'an attack of this config restores no images; use those of'
      ' attacks.reconstruction, whose `labels` name an attack of counts.'
    )
  truth = batches.y.sum((0, 1)).astype(jnp.int32)
  counts = jnp.bincount(answer.labels, length=known.num_classes)
  x = batches.xs[0]
  originals = images.pixels(x.reshape(-1, *x.shape[2:]), pixel_range)
  restored = images.pixels(answer.x, pixel_range)
  values, restored = images.similarity(restored, originals, weights)
  return dict(
    values,
    count_accuracy=metrics.count_accuracy(counts, truth),
    objective=answer.objective,
    originals=_bytes(originals),
    restored=_bytes(restored),
  )


def _bytes(x):
  return jnp.round(255 * x).astype(jnp.uint8)
