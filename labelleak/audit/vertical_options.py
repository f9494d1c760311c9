"""The flags of `labelleak audit-vertical`."""

import argparse
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from labelleak import validate
from labelleak.audit import answers, outputs
from labelleak.audit.answers import Setting
from labelleak.base import InputError
from labelleak.messages import bottoms

_FIELDS = [name for name in Setting._fields if name not in ('labels', 'told')]


class Options(NamedTuple):
  """What the command line says of a log.

  Attributes:
    log: the file.
    setting: of the training.
    output: where the assessment goes.
    seed: of what is drawn.
  """

  log: str
  setting: Setting
  output: outputs.Output
  seed: int


def add_command(commands: argparse._SubParsersAction) -> None:
  """Adds `audit-vertical` to the commands of `labelleak`."""
  parser = commands.add_parser(
    'audit-vertical',
    help='say which labels a passive party can read from its log',
    description='Says which labels a passive party can read from its log.',
    allow_abbrev=False,
    argument_default=argparse.SUPPRESS,
  )
  parser.set_defaults(
    make=_make_options, labels=None, html=None, json=None, fail_above=None
  )
  files = parser.add_argument_group('what was logged').add_argument
  files('--log', metavar='FILE', required=True, help='.npz or .safetensors')
  files('--labels', metavar='FILE', help='true labels: .npy [N] or JSON')
  add = parser.add_argument_group('how it was trained').add_argument
  number = dict(type=int, metavar='NUM')
  add('--classes', dest='num_classes', required=True, help='K', **number)
  add('--top', choices=answers.TOPS, help='embeddings are added, or a model')
  add('--loss', choices=answers.LOSSES, help="cross entropy, or FATE's")
  add('--reduction', choices=answers.REDUCTIONS, help='of the loss')
  add(
    '--activation',
    choices=tuple(bottoms.ACTIVATIONS),
    help='between dense layers of the bottom',
  )
  add(
    '--bottom',
    metavar='MODEL',
    help='of this package, by name or as JSON with arguments',
  )
  add = parser.add_argument_group('what is attacked, and how').add_argument
  add('--sealed', action='store_true', help='leave cut gradients aside')
  add('--steps', help='how many to attack, from the first', **number)
  add('--granted', help='labelled rows of each class to know', **number)
  outputs.add_flags(parser)


def _make_options(values) -> Options:
  """Makes the options of `labelleak audit-vertical`."""
  output = outputs.parse(values)
  fields = {name: values[name] for name in _FIELDS if name in values}
  lows = dict(num_classes=2, steps=1, granted=0)
  for field, low in lows.items():
    if field in fields:
      flag = '--classes' if field == 'num_classes' else f'--{field}'
      validate.whole(flag, fields[field], low)
  if 'bottom' in fields:
    fields['bottom'] = _parse_model(fields['bottom'])
  labels = values['labels']
  setting = Setting(
    **fields,
    labels=None if labels is None else _read_labels(labels),
    told=frozenset(fields),
  )
  return Options(values['log'], setting, output, values['seed'])


def _parse_model(text: str) -> dict[str, Any]:
  """Parses 'mlp.mlp2', or '{"name": "mlp.mlp2", "width": 64}'."""
  if not text.lstrip().startswith('{'):
    return dict(name=text)
  try:
    spec = json.loads(text)
  except ValueError as e:
    raise InputError(
      f'--bottom {text} is no JSON ({e}); write \'{{"name": "mlp.mlp2"}}\'.'
    ) from e
  if 'name' not in spec:
    raise InputError(f'--bottom {text} lacks a name, such as "mlp.mlp2".')
  return spec


def _read_labels(path: str) -> dict[int, int]:
  """Reads labels by the number of their row.

  A list or .npy has those of rows 0, 1, ...; an object of JSON, row to label.
  Labels -1 and 1 are classes 0 and 1.

  Raises:
    InputError: a file that cannot be read, or holds no labels.
  """
  try:
    if path.endswith('.npy'):
      values = np.load(path, allow_pickle=False)
      rows = np.arange(values.size)
    else:
      values = json.loads(pathlib.Path(path).read_text())
      listed = isinstance(values, dict)
      rows = np.array([*map(int, values)] if listed else range(len(values)))
      values = np.array([*values.values()] if listed else values)
    if values.ndim != 1 or not values.size or values.dtype.kind not in 'iu':
      raise ValueError('not a list of whole numbers')
    if {*np.unique(values)} == {-1, 1}:
      values = (values + 1) // 2
    if values.min() < 0:
      raise ValueError('a label is negative')
  except (OSError, ValueError, TypeError, EOFError) as e:
    line = (str(e).splitlines() or [type(e).__name__])[0]
    raise InputError(
      f'{path} cannot be read as labels ({line}); save a list with the class of'
      ' every row, as .npy or JSON.'
    ) from e
  return dict(zip(rows.tolist(), values.tolist()))
