"""From labels to pixels: Table 10 and Figure 1c of the LLBG paper.

The same gradient inversion with the labels that different attacks extracted
from the same update: an MLP whose last hidden activation is tanh, untrained,
FedSGD, four images, two of them of one class; `labels=granted` is an upper
bound. Without `paper` it takes fewer iterations than the published 24,000.
LPIPS needs --config.lpips=FILE (see labelleak/metrics/perceptual.py).
"""

from ml_collections.config_dict import placeholder

from configs import common, datasets

HEAD = (
  dict(table='LLBG Table 10, Figure 1c', needs='imagenet_sample'),
  dict(arg='paper', table='LLBG Table 10, Figure 1c', needs='cifar100'),
)
_LABELS = 'counts.llg', 'counts.llbg', 'counts.calibrated'


def get_config(arg=None):
  arg = common.parse_arg(arg, paper=False)
  config = common.hfl('reconstruction')
  config.experiment = 'hfl.reconstruction'
  config.lpips = placeholder(str)  # weights of LPIPS: .npz, .safetensors
  config.shown = 3  # trials in images.png
  config.stands_for.data = 'cifar100'
  config.dataset = datasets.cifar100(arg['paper'])
  config.model = dict(name='mlp.mlp', activation='tanh')
  config.batch_size = 4
  config.local_steps = 1
  config.per_class_cap = 100
  config.trials = 100 if arg['paper'] else 20
  config.attacks = _attacks() if arg['paper'] else _attacks(2400, 100)
  config.per_device = 20
  if arg['runlocal']:
    common.shrink(
      config,
      files=True,
      model=dict(name='mlp.mlp', width=32, activation='tanh'),
      attacks=_attacks(5, 2),
    )
  return config


def _attacks(steps=None, leaking=None):
  """All rows; None is the published number of iterations."""
  options = dict(steps=steps) if steps else {}
  invert = dict(name='reconstruction.inverting_gradients', **options)
  rows = tuple(dict(invert, labels=labels) for labels in _LABELS)
  known = (*common.SERVER, 'labels')
  bound = dict(invert, labels='granted', known=known)
  options = dict(steps=leaking) if leaking else {}
  return (*rows, bound, dict(name='reconstruction.deep_leakage', **options))
