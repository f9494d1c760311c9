"""The flags of `labelleak`, and the file that may stand for some of them."""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
import tomllib
from typing import Any, NamedTuple, NoReturn, Union

import numpy as np

from labelleak import hfl, validate
from labelleak.audit import outputs, vertical_options
from labelleak.audit.readings import Setting
from labelleak.base import InputError

_READING = 'before', 'after', 'update', 'sign', 'names', 'kernel', 'bias'
_CLIENT = [field.name for field in dataclasses.fields(hfl.Client)]
_ROUND = ['examples', 'classes', 'clients']


class Options(NamedTuple):
  """What the command line says of a horizontal round.

  Attributes:
    reading: arguments of `messages.read`.
    setting: of the round.
    output: where the assessment goes.
    seed: of simulated rounds.
    simulate: whether to simulate remedies.
  """

  reading: dict[str, Any]
  setting: Setting
  output: outputs.Output
  seed: int
  simulate: bool


def parse(argv: Sequence[str]) -> Union[Options, vertical_options.Options]:
  """Parses the arguments of `labelleak`.

  Raises:
    InputError: flags that are wrong or missing, a file of the client or of the
      truth that cannot be read, values that no client has.
    SystemExit: --help was printed.
  """
  values = vars(_make_parser().parse_args(argv))
  return values['make'](values)


def _make_options(values) -> Options:
  """Makes the options of `labelleak audit`."""
  fields = _read_client(values['client']) if values['client'] else {}
  fields |= {k: values[k] for k in [*_CLIENT, *_ROUND] if k in values}
  fields |= _join_optimizer(fields.get('optimizer'), values)
  output = outputs.parse(values)
  return Options(
    reading={k: values[k] for k in _READING}
    | dict(num_classes=fields.get('classes')),
    setting=_make_setting(fields, values['truth']),
    output=output,
    seed=values['seed'],
    simulate=values['remedies'],
  )


def _make_setting(fields, truth) -> Setting:
  """Makes a setting of the fields that were told, and of a file of counts."""
  if 'examples' not in fields:
    raise InputError(
      'the number of examples is not told; pass --examples N, how many the'
      ' client trained on in this round.'
    )
  examples = _parse_size(fields['examples'])
  validate.whole('--clients', fields.get('clients', 1), 1)
  rates = _parse_rates(fields['lr']) if 'lr' in fields else ()
  client = {k: fields[k] for k in _CLIENT if k in fields}
  if rates:
    client['lr'] = rates[len(rates) // 2]
  if isinstance(client.get('class_weights'), list):
    client['class_weights'] = tuple(client['class_weights'])
  return Setting(
    client=hfl.Client(**client),
    examples=examples,
    clients=fields.get('clients', 1),
    rates=rates,
    told=frozenset(fields),
    truth=_read_truth(truth) if truth else None,
  )


class _Parser(argparse.ArgumentParser):
  """A parser that says in one line what is wrong."""

  def error(self, message: str) -> NoReturn:
    raise InputError(f'{message}; see {self.prog} --help.')


def _make_parser() -> argparse.ArgumentParser:
  """Makes the parser; flags of the client that are absent stay absent."""
  top = _Parser(prog='labelleak', description='Label leakage of your system.')
  commands = top.add_subparsers(dest='command', required=True)
  parser = commands.add_parser(
    'audit',
    help='say which labels a captured update gives away',
    description='Says which labels a captured update gives away.',
    allow_abbrev=False,
  )
  files = parser.add_argument_group('what was captured').add_argument
  files('--before', metavar='FILE', help='the model that the server sent')
  files('--after', metavar='FILE', help='the model that the client returned')
  files('--update', metavar='FILE', help='in place of --after: the difference')
  files(
    '--sign',
    default='server-client',
    choices=('server-client', 'client-server'),
    help='of --update',
  )
  files('--names', metavar='FILE', help='names of the arrays of a list')
  files('--kernel', metavar='NAME', help="of the head's matrix")
  files('--bias', metavar='NAME', help="of the head's bias")
  files('--truth', metavar='FILE', help='JSON list of the true counts')
  _add_client(parser)
  outputs.add_flags(parser).add_argument(
    '--remedies',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='simulate what defenses would leave',
  )
  parser.set_defaults(make=_make_options)
  vertical_options.add_command(commands)
  return top


def _add_client(parser):
  """Adds the flags that describe client and round."""
  group = parser.add_argument_group('how the client trains')
  absent = argparse.SUPPRESS
  group.add_argument('--client', metavar='FILE', help='TOML of these fields')
  for flag, (field, kind, text) in _FLAGS.items():
    options = dict(dest=field, default=absent, help=text)
    if kind is bool:
      options['action'] = argparse.BooleanOptionalAction
    else:
      options |= dict(type=kind, metavar='TEXT' if kind is str else 'NUM')
    group.add_argument(flag, **options)


# Flag: field of `hfl.Client`, of its optimizer, or of the round; type; help.
_FLAGS = {
  '--examples': ('examples', str, 'N, of each client, or a range: 50..300'),
  '--classes': ('classes', int, 'K; by default as the head says'),
  '--clients': ('clients', int, 'C, if the mean of several was captured'),
  '--lr': ('lr', str, 'learning rate, or a range: .001..01'),
  '--batch': ('batch_size', int, 'b, of a local step; default: all examples'),
  '--epochs': ('epochs', int, 'local epochs'),
  '--shuffle': ('shuffle', bool, 'every epoch draws another order'),
  '--drop-last': ('drop_last', bool, 'a smaller last batch is left out'),
  '--poisson': ('poisson', bool, 'batches are drawn by chance, as Opacus does'),
  '--optimizer': ('name', str, 'sgd, adam, adamw, or another of optax'),
  '--momentum': ('momentum', float, 'of sgd'),
  '--nesterov': ('nesterov', bool, 'of sgd'),
  '--weight-decay': ('weight_decay', float, 'of the optimizer'),
  '--loss': ('loss', str, 'softmax or sigmoid'),
  '--reduction': ('reduction', str, 'mean or sum'),
  '--label-smoothing': ('label_smoothing', float, 'share that all classes get'),
  '--proximal': ('proximal', float, 'mu of FedProx'),
  '--clip-per-example': ('clip_per_example', float, 'norm, as of DP-SGD'),
  '--noise-multiplier': ('noise_multiplier', float, 'sigma of DP-SGD'),
  '--training-mode': ('training_mode', bool, 'batch norm and dropout train'),
}
_MOST_SIZES = 1000  # that are tried, each for itself
_OPTIMIZER = 'name', 'momentum', 'nesterov', 'weight_decay'


def _join_optimizer(optimizer, values) -> dict[str, Any]:
  """Returns the optimizer of a file, as flags change it; {} of neither."""
  if isinstance(optimizer, str):
    optimizer = dict(name=optimizer)
  flags = {k: values[k] for k in _OPTIMIZER if k in values}
  if optimizer is None and not flags:
    return {}
  if optimizer is not None and not isinstance(optimizer, dict):
    raise InputError(
      f'optimizer={optimizer!r} must be a name, or a table with a name; write'
      " optimizer = { name = 'sgd', momentum = 0.9 }."
    )
  if 'name' in flags:  # another optimizer, with arguments of its own
    optimizer = {}
  return dict(optimizer={'name': 'sgd', **(optimizer or {}), **flags})


def _read_client(path) -> dict[str, Any]:
  """Reads a description in TOML."""
  try:
    with open(path, 'rb') as file:
      fields = tomllib.load(file)
  except (OSError, ValueError) as e:
    raise InputError(
      f'{path} cannot be read as TOML ({_line(e)}); write lines such as'
      ' epochs = 2.'
    ) from e
  allowed = [*_CLIENT, *_ROUND]
  unknown = [name for name in fields if name not in allowed]
  if unknown:
    raise InputError(
      f'{path} has no use for {", ".join(unknown)}; use: {", ".join(allowed)}.'
    )
  return fields


def _parse_size(value) -> int | range:
  """Returns N, or the range that it lies in.

  >>> _parse_size('50..300')
  range(50, 301)
  """
  low, dots, high = str(value).partition('..')
  try:
    ends = [int(text) for text in ([low, high] if dots else [low])]
  except ValueError:
    ends = []
  if not ends or min(ends) < 1 or not 0 <= ends[-1] - ends[0] < _MOST_SIZES:
    raise InputError(
      f'--examples={value} must be a whole number of at least 1, or a rising'
      f' range of at most {_MOST_SIZES}; write 200, or 50..300.'
    )
  return range(ends[0], ends[1] + 1) if dots else ends[0]


def _parse_rates(value) -> tuple[float, ...]:
  """Returns one rate, or both ends of a range and their geometric middle.

  >>> _parse_rates('.001..01')
  (0.001, 0.0031622776601683794, 0.01)
  """
  low, dots, high = str(value).partition('..')
  if dots and high[:1] == '0' and high.isdigit():
    high = f'.{high}'  # the point of .01 is the second of both dots
  try:
    ends = [float(text) for text in ([low, high] if dots else [low])]
  except ValueError:
    ends = [math.nan]
  for end in ends:
    validate.within('--lr', end, '(0, inf)', 'write .01, or a range: .001...01')
  if len(ends) == 1 or ends[0] == ends[1]:
    return (ends[0],)
  if ends[0] > ends[1]:
    raise InputError(f'--lr: {value} falls; write the smaller end first.')
  return ends[0], math.sqrt(ends[0] * ends[1]), ends[1]


def _read_truth(path) -> np.ndarray:
  """Reads counts, a list of JSON or an object of class to count."""
  try:
    counts = json.loads(pathlib.Path(path).read_text())
    if isinstance(counts, dict):
      listed = {int(label): count for label, count in counts.items()}
      counts = [listed.get(i, 0) for i in range(max(listed) + 1)]
    counts = np.array(counts)
    if counts.ndim != 1 or counts.dtype.kind not in 'iu' or counts.min() < 0:
      raise ValueError('not a list of whole numbers')
  except (OSError, ValueError, TypeError) as e:
    raise InputError(
      f'{path} cannot be read as counts ({_line(e)}); write a JSON list with a'
      ' count for each class.'
    ) from e
  return counts


def _line(error):
  """Returns the first line of an error's text."""
  return (str(error).splitlines() or [type(error).__name__])[0]
