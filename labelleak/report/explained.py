"""Pictures of what a joint model learned: t-SNE and Grad-CAM, a panel a row."""

import matplotlib
from matplotlib import figure
import numpy as np

from labelleak.report import tables


def scatter(rows: list[dict]) -> figure.Figure:
  """Embeddings of the attacker's bottom in the plane, colored by label."""
  fig = figure.Figure(figsize=(3.4 * len(rows), 3.6), layout='constrained')
  axes = fig.subplots(1, len(rows), squeeze=False)[0]
  for ax, row in zip(axes, rows):
    x, y, label = np.array(row['points']).T
    cmap = matplotlib.colormaps[
      'tab10' if label.max() < 10 else 'nipy_spectral'
    ]
    ax.scatter(x, y, c=label, cmap=cmap, s=5, linewidths=0)
    ax.set_title(_title(row), fontsize=8)
    ax.set_xticks([])
    ax.set_yticks([])
  return fig


def looked_at(rows: list[dict]) -> figure.Figure:
  """Images, and over them the map of each row's model; a line between parties.

  The attacker's part is the left one of a splits.columns split.
  """
  num = len(rows[0]['maps'])
  fig = figure.Figure(
    figsize=(1.5 * num + 0.6, 1.6 * (len(rows) + 1)), layout='constrained'
  )
  axes = fig.subplots(len(rows) + 1, num, squeeze=False)
  for ax, shown in zip(axes[0], rows[0]['maps']):
    _image(ax, shown['image'])
  for line, row in zip(axes[1:], rows):
    for ax, shown in zip(line, row['maps']):
      _image(ax, shown['image'])
      ax.imshow(shown['map'], cmap='jet', alpha=0.5, vmin=0, vmax=1)
    line[0].set_ylabel(_title(row), fontsize=7)
  for ax in axes.flat:
    ax.set_xticks([])
    ax.set_yticks([])
  axes[0, 0].set_ylabel('image', fontsize=7)
  return fig


def _image(ax, pixels):
  pixels = np.array(pixels)
  grey = pixels.shape[-1] == 1
  pixels = pixels[..., 0] if grey else pixels
  low, high = min(pixels.min(), 0), max(pixels.max(), 1)
  ax.imshow((pixels - low) / (high - low), cmap='gray' if grey else None)


def _title(row):
  share = row['metrics']['reliance']['mean']
  name = tables.short_name(row['attack']).removeprefix('completion.')
  return f'{name}\nreliance on the attacker {100 * share:.0f} %'
