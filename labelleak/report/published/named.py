"""How published defenses are written here: what a row's setting says of them.

One place, because their settings are given in the words of each paper.
"""

# Absent facts of a row count as none, too.
NONE = dict(top='sum', code='none', penalty='none', defense='none')
DISCRETE = 'discretize_first(bins=12)'  # of VFLAIR


def sent(*links: str) -> dict:
  """Transforms of the cut gradient, in their order."""
  return dict(NONE, defense='+'.join(links))


def coae(confusion: float) -> str:
  """The label code, trained with lambda2 = `confusion`."""
  return f'labelleak.coae.fitted(confusion={confusion})'


def coded(confusion: float, *links: str) -> dict:
  """CoAE, and transforms of what it leaves."""
  return dict(sent(*links) if links else NONE, code=coae(confusion))


def laplace(scale: float) -> dict:
  """DP-L of VFLAIR: one clip for the batch, then noise."""
  return sent('clip_batch(max_norm=0.2)', f'laplace(scale={scale})')


def gaussian(stddev: float) -> dict:
  """DP-G of VFLAIR."""
  return sent('clip_batch(max_norm=0.2)', f'gaussian(stddev={stddev})')


def sparsify(percent: float) -> dict:
  """GS of VFLAIR, by the percentage held back."""
  return sent(f'sparsify(drop={percent / 100:g})')


def grad_perturb(epsilon: float) -> dict:
  return sent(f'grad_perturb(epsilon={epsilon})')


def distance_correlation(weight: float) -> dict:
  return dict(NONE, penalty=f'distance_correlation(weight={weight})')


def mid(weight: float) -> dict:
  return dict(NONE, top=f'bottleneck.mid(weight={weight})')


def ppdl(theta: float) -> dict:
  """As released: the published accuracies rest on its early exit."""
  return sent(f'ppdl(early_exit=True, theta={theta})')


def keep_largest(keep: float) -> dict:
  return sent(f'keep_largest(keep={keep})')


def discretize_fixed(bins: int, bound: float) -> dict:
  return sent(f'discretize_fixed(bins={bins}, bound={bound})')
