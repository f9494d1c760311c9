"""What configs share: `parse_arg` and the fields of an experiment."""

import difflib

from ml_collections import ConfigDict

from labelleak.base import InputError


def parse_arg(arg, **spec):
  """Parses the text after `configs/NAME.py:`, such as 'table=3,runlocal'.

  >>> parse_arg('table=3,runlocal', table=1, paper=False, runlocal=False)
  {'table': 3, 'paper': False, 'runlocal': True}

  Args:
    arg: comma-separated `name` (means True) or `name=value`; or None.
    **spec: name = default; a value is read as the default's type.

  Raises:
    InputError: an unknown name, or a value of another type.
  """
  values = dict(spec)
  for part in filter(None, (arg or '').split(',')):
    name, equals, text = part.partition('=')
    if name not in spec:
      close = difflib.get_close_matches(name, spec, 1)
      hint = f'did you mean {close[0]!r}? ' if close else ''
      raise InputError(
          f'config argument {name!r} is unknown; {hint}use: {", ".join(spec)}.'
      )
    kind = type(spec[name])
    if (kind is bool) == bool(equals):
      form = name if kind is bool else f'{name}={spec[name]}'
      raise InputError(f'config argument {part!r} must look like {form!r}.')
    try:
      values[name] = kind(text) if equals else True
    except ValueError:
      raise InputError(
          f'config argument {part!r} needs a value of type {kind.__name__}.'
      ) from None
  return values


def hfl(name):
  """Fields of every horizontal experiment, at the published protocol's values.

  FedAVG with S = 10 local steps of SGD at 1e-3 and the unbalanced batches of
  the LLBG paper (section 6.1), no defense, one client.
  """
  return ConfigDict(
      dict(
          name=name,
          experiment='hfl',
          dataset=dict(name='embedded.digits'),
          data_dir=None,  # where prepared data sets live
          paper_data=None,  # published data set that the data stand for
          model=dict(name='mlp.mlp'),
          weights=None,  # path of a PyTorch state_dict, .npz or .safetensors
          train=None,  # dict of train.classifier's options: attacked afterwards
          attacks=(
              dict(name='counts.llg'),
              dict(name='counts.ebi'),
              dict(name='counts.llbg'),
              dict(name='counts.calibrated'),
          ),
          known=('lr', 'steps', 'clients'),
          aux=dict(per_class=10, split='train', overlap=False),
          defense=(),  # on the update
          step_defense=(),  # on the gradient of every local step
          aggregate=dict(name='clear'),
          batch_size=64,
          clients=1,
          local_steps=10,
          lr=1e-3,
          queries=1,
          partition='unbalanced',
          per_class_cap=None,
          trials=100,
          seed=0,
          per_device=None,  # trials at once; None: 1 on a CPU, else 8
          sweep=(),
      )
  )
