"""Plots of replacement attacks: rates over gamma, and what a trigger does."""

from typing import Optional

from matplotlib import figure
import numpy as np

from labelleak.report import plots

_METRICS = 'backdoor_rate', 'main_accuracy'
_CLEAN = dict(color='0.6', ls='--', lw=1)


def by_gamma(rows: list[dict]) -> Optional[figure.Figure]:
  """Backdoor rate and main accuracy over gamma (BLI paper, Figure 6).

  One line a point and attack, the deviation over trials as a bar; dashed is the
  training that nobody attacked. None where gamma was not swept.
  """
  lines = {}
  for row in rows:
    if 'gamma' in row['attack_args'] and 'backdoor_rate' in row['metrics']:
      rest = {k: v for k, v in row['attack_args'].items() if k != 'gamma'}
      key = row['attack'], str(rest), str(row['point'])
      lines.setdefault(key, []).append(row)
  lines = {k: line for k, line in lines.items() if len(line) > 1}
  if not lines:
    return None
  fig = figure.Figure(figsize=(9, 3.6), layout='constrained')
  for ax, metric in zip(fig.subplots(1, 2), _METRICS):
    for at, ((attack, rest, point), line) in enumerate(lines.items()):
      line.sort(key=lambda row: row['attack_args']['gamma'])
      names = [attack.rpartition('.')[2], rest, point]
      label = ', '.join(name for name in names if name != '{}')
      color = plots.COLORS[at % len(plots.COLORS)]
      x = [row['attack_args']['gamma'] for row in line]
      mean, std = _percent(line, metric)
      ax.errorbar(
        x, mean, std, marker='o', ms=4, capsize=3, color=color, label=label
      )
    clean = [row for row in rows if row['attack'] == 'none']
    for level in _percent(clean, metric)[0]:
      ax.axhline(level, label='not attacked', **_CLEAN)
    ax.set_xscale('log')
    ax.set_xlabel('gamma')
    ax.set_ylabel(f'{metric.replace("_", " ")}, %')
    ax.spines[['top', 'right']].set_visible(False)
  handles, labels = ax.get_legend_handles_labels()
  entries = dict(zip(labels, handles))
  fig.legend(
    entries.values(), entries, loc='outside lower center', ncols=3, fontsize=7
  )
  fig.suptitle(f'{rows[0]["model"]} on {rows[0]["data"]}', fontsize=9)
  return fig


def _percent(rows, metric):
  """Means and deviations of rows."""
  found = [row['metrics'][metric] for row in rows]
  return [100 * f['mean'] for f in found], [100 * f['std'] for f in found]


def pictures(row: dict) -> figure.Figure:
  """Examples without and with the trigger, and what the model takes them for.

  `row['examples']` holds images [n, H, W, C] as `plain` and `triggered`, their
  `label`, the attacker's `target` and classes `taken_for`.
  """
  shown = row['examples']
  fig = figure.Figure(
    figsize=(1.5 * len(shown['label']), 3.9), layout='constrained'
  )
  axes = fig.subplots(2, len(shown['label']), squeeze=False)
  for line, kind in zip(axes, ('plain', 'triggered')):
    images = np.array(shown[kind], np.float32)
    images -= images.min()
    images /= max(images.max(), 1e-9)
    for ax, image, label, named in zip(
      line, images, shown['label'], shown['taken_for'][kind]
    ):
      ax.imshow(image.squeeze(), cmap='gray', vmin=0, vmax=1)
      ax.set_title(f'{label} taken for {named}', fontsize=8)
      ax.set_xticks([])
      ax.set_yticks([])
    line[0].set_ylabel(kind, fontsize=8)
  fig.suptitle(
    f'{row["data"]}, target {shown["target"]}\n{row["attack"]}', fontsize=8
  )
  return fig
