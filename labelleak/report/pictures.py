"""Restored images under the originals, as in Figure 1c of the LLBG paper."""

from collections.abc import Sequence
from typing import Optional

from matplotlib import figure
import numpy as np

from labelleak.report import tables

_GAP = 2  # white pixels between images; thrice as many between batches
_CAPTION = dict(fontsize=7, rotation=0, ha='right', va='center')


def grid(
  rows: Sequence[dict], arrays: dict[str, np.ndarray]
) -> Optional[figure.Figure]:
  """A line of originals and one for each attack, points below each other.

  Args:
    rows: as in `rows.jsonl`.
    arrays: of `trials.npz`; 'originals' and 'restored', uint8 [n, B, H, W, C].

  Returns:
    None where no row has images.
  """
  lines = []  # (caption, strip, title)
  for first, group in tables.by_point(rows):
    shown = [row for row in group if tables.entry(row, 'restored') in arrays]
    if not shown:
      continue
    originals = arrays[tables.entry(shown[0], 'originals')]
    lines.append(('originals', originals, tables.heading(first)))
    for row in shown:
      restored = arrays[tables.entry(row, 'restored')]
      lines.append((_caption(row), restored, None))
  if not lines:
    return None
  strips = [
    (caption, _strip(images), title) for caption, images, title in lines
  ]
  wide = max(strip.shape[1] / strip.shape[0] for _, strip, _ in strips)
  titles = sum(title is not None for *_, title in strips)
  fig = figure.Figure(
    figsize=(2.2 + 0.6 * wide, 0.72 * len(strips) + 0.5 * titles),
    layout='constrained',
  )
  axes = fig.subplots(len(strips), 1, squeeze=False)[:, 0]
  for ax, (caption, strip, title) in zip(axes, strips):
    ax.imshow(strip, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
    ax.set_ylabel(caption, **_CAPTION)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if title:
      ax.set_title(title, fontsize=7, loc='left')
  return fig


def _caption(row):
  """The attack, the source of its labels first, and the mean over trials."""
  args = row['attack_args']
  if 'labels' in args:
    source = args['labels']
    source = source['name'] if isinstance(source, dict) else source
    name = f'{tables.short_name(source)} labels'
  else:
    name = tables.short_name(row['attack'])
  return f'{name}\nPSNR {row["metrics"]["psnr"]["mean"]:.1f}'


def _strip(images):
  """Images [n, B, H, W, C] side by side, [H, ..., C]; grey ones [H, ...]."""
  between = lambda width: np.full(
    (images.shape[2], width, images.shape[4]), 255, np.uint8
  )
  parts = []
  for batch in images:
    for image in batch:
      parts += [image, between(_GAP)]
    parts.append(between(2 * _GAP))
  strip = np.concatenate(parts[:-2], 1)
  return strip[..., 0] if strip.shape[-1] == 1 else strip
