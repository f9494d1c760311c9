"""Your own setting, simulated: what `labelleak audit` would say, and the truth.

Describe the clients by `config.client`, fields of `hfl.Client`; what is None is
left at its default. Each has `batch_size` examples in a round, what the command
calls `--examples`. A run ends with audit.html and audit.json beside its rows.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

HEAD = (dict(table='your own setting', minutes=1),)


def get_config(arg=None):
  arg = common.parse_arg(arg)
  config = common.hfl('audit')
  config.model = dict(name='mlp.mlp', width=128)
  config.lr = None
  config.local_steps = None
  config.client = ConfigDict(
    dict(
      lr=0.01,
      batch_size=8,  # b, of a local step
      epochs=1,
      shuffle=False,
      drop_last=False,
      poisson=False,
      optimizer=dict(
        name='sgd',
        momentum=placeholder(float),
        nesterov=placeholder(bool),
        weight_decay=placeholder(float),
      ),
      loss='softmax',
      reduction='mean',
      label_smoothing=0.0,
      class_weights=placeholder(tuple),
      proximal=0.0,
      clip_per_example=placeholder(float),
      noise_multiplier=0.0,
      training_mode=False,
    )
  )
  # What attacks and page are told; without 'client' they assume plain SGD.
  config.known = ('lr', 'steps', 'clients', 'client', 'defense')
  config.trials = 20
  # The page; remedies: what defenses would leave, simulated.
  config.audit = dict(remedies=True)
  if arg['runlocal']:
    small = dict(name='mlp.mlp', width=16)
    common.shrink(config, files=True, model=small, audit=dict(remedies=False))
  return config
