"""Pictures: restored images, triggers, what a joint model learned."""

from collections.abc import Mapping, Sequence
from typing import Optional

import matplotlib
from matplotlib import figure
import numpy as np

from labelleak import spec
from labelleak.report import facts, panels
from labelleak.report.facts import Row

_GAP = 2  # white pixels between images; thrice as many between batches
_SMALL = 8  # points


def restorations(
  rows: Sequence[Row], arrays: Mapping[str, np.ndarray]
) -> Optional[figure.Figure]:
  """Draws a line of originals and one for each attack, points below each other.

  As Figure 1c of the LLBG paper, from 'originals' and 'restored' in arrays,
  uint8 [n, B, H, W, C]. None where no row has images.
  """
  lines, points = [], set()  # (caption, strip [H, ..., C], title)
  for i, row in enumerate(rows):
    if f'{i}/restored' not in arrays:
      continue
    if (point := facts.point(row)) not in points:
      points.add(point)
      originals = _strip(arrays[f'{i}/originals'])
      lines.append(('originals', originals, panels.title(row)))
    lines.append((_caption(row), _strip(arrays[f'{i}/restored']), ''))
  if not lines:
    return None
  wide = max(strip.shape[1] / strip.shape[0] for _, strip, _ in lines)
  shape = dict(abreast=1, size=(2.2 + 0.6 * wide, 0.72))
  fig, axes = panels.spread(len(lines), legend=0.6 * len(points), **shape)
  for ax, (caption, strip, title) in zip(axes, lines):
    ax.imshow(strip, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
    ax.set_ylabel(caption, fontsize=7, rotation=0, ha='right', va='center')
    ax.set_title(title, **panels.TITLE)
    ax.spines[:].set_visible(False)
    panels.hide_ticks(ax)
  return fig


def _caption(row):
  """Returns the source of labels, else the attack, and the mean over trials."""
  attack = row['attack']
  source = spec.describe(attack.get('labels', ''))
  name = facts.short_name(source or attack['name'])
  labels = ' labels' if source else ''
  return f'{name}{labels}{_mean(row, "psnr", "PSNR {:.1f}")}'


def _mean(row, metric, text, scale=1):
  """Returns a line with the mean of a metric, '' where the row lacks it."""
  summary = row['metrics'].get(metric)
  return f'\n{text.format(scale * summary["mean"])}' if summary else ''


def _strip(images):
  """Lays images [n, B, H, W, C] side by side: [H, ..., C], grey [H, ...]."""
  batches = [_join(batch, _GAP) for batch in images]
  strip = _join(batches, 3 * _GAP)
  return strip[..., 0] if strip.shape[-1] == 1 else strip


def _join(images, gap):
  """Joins images [H, W, C] with white columns between them."""
  white = np.full_like(images[0][:, :1], 255).repeat(gap, 1)
  parts = [part for image in images for part in (white, image)]
  return np.concatenate(parts[1:], 1)


def trigger_examples(rows: Sequence[Row]) -> Optional[figure.Figure]:
  """Draws examples without and with the trigger, and what they are taken for.

  `row['examples']` holds images [n, H, W, C] as `plain` and `triggered`, their
  `label`, the attacker's `target` and classes `taken_for`.

  None where no row has examples; else those of the first that has.
  """
  row = next((row for row in rows if row.get('examples')), None)
  if row is None:
    return None
  examples, kinds = row['examples'], ('plain', 'triggered')
  num = len(examples['label'])
  fig, axes = panels.spread(2 * num, abreast=num, size=(1.5, 1.95))
  for line, kind in zip(np.reshape(axes, (2, num)), kinds):
    images = np.array(examples[kind], np.float32)
    low, high = images.min(), images.max()
    classes = zip(examples['label'], examples['taken_for'][kind])
    for ax, pixels, (label, answer) in zip(line, images, classes):
      _image(ax, pixels, low, high)
      ax.set_title(f'{label} taken for {answer}', fontsize=_SMALL)
    line[0].set_ylabel(kind, fontsize=_SMALL)
  title = f'{row["setting"]["data"]}, target {examples["target"]}'
  fig.suptitle(f'{title}\n{row["attack"]["name"]}', fontsize=_SMALL)
  return fig


def _image(ax, pixels, low, high):
  """Shows pixels [H, W, C] from black at `low` to white at `high`."""
  pixels = (np.asarray(pixels) - low) / max(high - low, 1e-9)
  ax.imshow(pixels.squeeze(), cmap='gray', vmin=0, vmax=1)
  panels.hide_ticks(ax)


def embeddings(rows: Sequence[Row]) -> Optional[figure.Figure]:
  """Draws what the attacker's bottom makes of rows, in the plane, by label.

  None where no row has `points`.
  """
  rows = _select(rows, 'points')
  if not rows:
    return None
  fig, axes = panels.spread(len(rows), abreast=len(rows), size=(3.4, 3.6))
  for ax, row in zip(axes, rows):
    x, y, label = np.array(row['points']).T
    name = 'tab10' if label.max() < 10 else 'nipy_spectral'
    ax.scatter(x, y, c=label, cmap=matplotlib.colormaps[name], s=5, lw=0)
    ax.set_title(_reliance(row), fontsize=_SMALL)
    panels.hide_ticks(ax)
  return fig


def class_maps(rows: Sequence[Row]) -> Optional[figure.Figure]:
  """Draws images, and over them the Grad-CAM of each row's model.

  The attacker's part is the left one of a splits.columns split.

  None where no row has `maps`.
  """
  rows = _select(rows, 'maps')
  if not rows:
    return None
  num, tall = len(rows[0]['maps']), 1 + len(rows)
  fig, axes = panels.spread(num * tall, abreast=num, size=(1.6, 1.6))
  for place, line in enumerate(np.reshape(axes, (tall, num))):
    row = rows[max(place - 1, 0)]
    for ax, example in zip(line, row['maps']):
      pixels = np.array(example['image'])
      _image(ax, pixels, min(pixels.min(), 0), max(pixels.max(), 1))
      if place:
        ax.imshow(example['map'], cmap='jet', alpha=0.5, vmin=0, vmax=1)
    line[0].set_ylabel(_reliance(row) if place else 'image', fontsize=7)
  return fig


def _select(rows, field):
  """Returns rows that have a field and did not guess."""
  return [
    row
    for row in rows
    if field in row and row['attack']['name'] not in facts.RANDOM
  ]


def _reliance(row):
  name = facts.short_name(row['attack']['name']).removeprefix('completion.')
  return name + _mean(row, 'reliance', 'reliance on the attacker {:.0f} %', 100)
