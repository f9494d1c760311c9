"""Horizontal FL: what a client sends, and what the server thereby sees.

A client's training is a pure function `(key, variables, batch) -> update`, one
client and one batch at a time; `observe` makes a round of C clients of it.
`variables` is Flax's dict: 'params' and, with batch norm, the 'batch_stats'
that the server sent.

`fedsgd` and `fedavg` are clients as papers have them, in evaluation mode:
statistics stay as they are. `Client` describes one as people run them, and
`local_training` is what it does. `protocol` is their training over many rounds,
with a server that draws clients and has an optimizer of its own.
"""

from labelleak.hfl.clients import LocalUpdate, fedavg, fedsgd, local_training
from labelleak.hfl.description import Client
from labelleak.hfl.losses import Loss, cross_entropy
from labelleak.hfl.protocol import Protocol, Round, protocol
from labelleak.hfl.rounds import observe
from labelleak.hfl.servers import recover_mean
from labelleak.hfl.steps import step_sizes
from labelleak.hfl.views import Known, View, head

__all__ = [
  'Client',
  'Known',
  'LocalUpdate',
  'Loss',
  'Protocol',
  'Round',
  'View',
  'cross_entropy',
  'fedavg',
  'fedsgd',
  'head',
  'local_training',
  'observe',
  'protocol',
  'recover_mean',
  'step_sizes',
]
