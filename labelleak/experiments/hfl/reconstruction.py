"""Horizontal FL: images of a client's batch, restored with extracted labels."""

from collections.abc import Callable
import dataclasses
import functools

import jax.numpy as jnp
from ml_collections import ConfigDict

from labelleak import metrics
from labelleak.attacks import reconstruction
from labelleak.base import InputError, Reconstruction
from labelleak.experiments import inputs
from labelleak.experiments.hfl import label_counts
from labelleak.metrics import images, perceptual

_METRICS = ('count_accuracy', 'mse', 'psnr', 'ssim', 'cw_ssim')


def experiment(*, config: ConfigDict) -> Callable:
  """One client's round and every reconstruction from the same view.

  Attacks share batches, updates and first guesses, so that rows with other
  labels differ by the labels alone. A row whose `labels` are 'granted' has the
  batch's own, an upper bound and no attack; its `known` says so.

  Args:
    config: fields as in `configs/common.py: hfl`, and `lpips`, the path of its
      weights or None, and `shown`, trials whose images are kept.

  Returns:
    measure(progress) -> results, with the images in `arrays`; see
    `labelleak.experiments`.

  Raises:
    InputError: as the experiment `label_counts`; the data are no images, an
      attack restores none, or LPIPS cannot run.
  """
  config = config.copy_and_resolve_references()
  source = inputs.source(config)
  if source.pixel_range is None or len(source.shape) != 3:
    raise InputError(
      f'{source.name} holds no images, examples of shape {source.shape};'
      ' reconstruct other data.'
    )
  weights = None
  if config.lpips:
    perceptual.check(source.shape)
    weights = perceptual.load(config.lpips)
  names = (*_METRICS, *(('lpips',) if config.lpips else ()), 'objective')
  measure = label_counts.observed(
    config,
    label_counts.Scoring(
      baseline='reconstruction.random',
      score=functools.partial(_scored, source.pixel_range),
      metrics=lambda clients: names,
      shared=weights,
      grant=_granted,
    ),
  )

  def restore(progress):
    results = measure(progress)
    for result in results:
      if _is_bound(result['attack_args']):
        result['known'].append('labels')
      arrays = result['arrays']
      result['arrays'] = {k: a[: config.shown] for k, a in arrays.items()}
    return results

  return restore


def _is_bound(hyper):
  return hyper.get('labels') == reconstruction.GRANTED


def _granted(spec, known, batches):
  """The batch's labels for an upper bound; nothing more for an attack."""
  if not _is_bound(spec):
    return known
  y = batches.y.reshape(-1, known.num_classes)
  return dataclasses.replace(known, x=None, y=y)


def _scored(box, found, batches, known, weights):
  """Metrics of a `Reconstruction`, and the images as bytes."""
  if not isinstance(found, Reconstruction):
    raise InputError(
      'an attack of this config restores no images; use those of'
      ' attacks.reconstruction, whose `labels` name an attack of counts.'
    )
  truth = batches.y.sum((0, 1)).astype(jnp.int32)
  named = jnp.bincount(found.labels, length=known.num_classes)
  x = batches.xs[0]
  originals = images.pixels(x.reshape(-1, *x.shape[2:]), box)
  restored = images.pixels(found.x, box)
  close, restored = images.similarity(restored, originals, weights)
  return dict(
    close,
    count_accuracy=metrics.count_accuracy(named, truth),
    objective=found.objective,
    originals=_bytes(originals),
    restored=_bytes(restored),
  )


def _bytes(x):
  return jnp.round(255 * x).astype(jnp.uint8)
