"""Runs a config: python launch.py --config=configs/llbg_vit.py

  --config=FILE.py        what to run; `--list` lists what there is
  --config=FILE.py:arg    a variant of it, such as `runlocal`, in seconds
  --config.field=value    sets a field; it wins over the config's sweep of it
  --workdir=DIR           of rows, table and plots; default: runs/NAME[-arg]
  --list                  lists configs, the tables they repeat, minutes, data
  --help, -h              this text

A run that was killed, started again, goes on where it was. Configs are code:
run only those that you have read.
"""

import difflib
import importlib
import logging
import os
import pathlib
import sys

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from labelleak import base, compilation, experiments
from labelleak.report import tables

config_flags.DEFINE_config_file('config', lock_config=True)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Default: runs/<config name>[-<arg>].'
)
flags.mark_flag_as_required('config')
_LINE = '{:42} {:30} {:>3} {}'  # of 100 columns
_NOTE = """
min: minutes on 2 cores, where they were measured. Every config takes the arg
`runlocal` as well, and then runs in seconds."""


def main(argv):
  if argv[1:] == ['--list']:
    print(listing())
    return 0
  if not argv[1:] or {'--help', '-h'} & set(argv):
    print(__doc__.strip())
    return 0 if argv[1:] else 2
  absl_logging.set_verbosity(absl_logging.ERROR)
  # What a callback refuses comes back as an error; it need not be logged, too.
  logging.getLogger('jax._src.callback').setLevel(logging.CRITICAL)
  compilation.keep_programs()
  workdir = None
  try:
    _check_config(argv)
    config, notes = experiments.parse(flags.FLAGS, argv)
    for note in notes:
      print(f'launch.py: {note}', file=sys.stderr)
    workdir = _WORKDIR.value or _name_workdir(config.name)
    rows = experiments.run(config, workdir)
  except base.InputError as e:
    print(f'launch.py: {e}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    going_on = f'; the same command goes on from {workdir}' if workdir else ''
    print(f'\nlaunch.py: stopped by hand{going_on}.', file=sys.stderr)
    return 130
  print(f'\n{tables.points(rows)}\nRows, table and plots: {workdir}')


def _name_workdir(name):
  """Returns the default workdir: another one for each variant of a config."""
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  variant = file.partition(':')[2].replace(os.sep, '_')
  return os.path.join('runs', '-'.join(filter(None, (name, variant))))


def _check_config(argv):
  """Refuses a config that is no file, by the name of one that is meant."""
  for flag, value in zip(argv[1:], [*argv[2:], '']):
    name, equals, path = flag.partition('=')
    path = (path if equals else value).partition(':')[0]
    if name.lstrip('-') != 'config' or os.path.isfile(path):
      continue
    files = pathlib.Path(__file__).parent.glob('configs/*.py')
    stems = [file.stem for file in files]
    close = difflib.get_close_matches(pathlib.Path(path).stem, stems, 1)
    meant = f' did you mean --config=configs/{close[0]}.py?' if close else ''
    raise base.InputError(
      f'--config={path} is no file;{meant} --list lists all configs.'
    )


def listing() -> str:
  """Returns a line for each head of each config, as `--config=configs/` it."""
  lines = [_LINE.format('config', 'published', 'min', 'needs')]
  for path in sorted(pathlib.Path(__file__).parent.glob('configs/*.py')):
    module = importlib.import_module(f'configs.{path.stem}')
    for head in getattr(module, 'HEAD', ()):
      name = f'{path.name}:{head["arg"]}' if 'arg' in head else path.name
      minutes, needs = (head.get(k, '') for k in ('minutes', 'needs'))
      line = _LINE.format(name, head['table'], minutes, needs)
      lines.append(line.rstrip())
  return '\n'.join((*lines, _NOTE))


if __name__ == '__main__':
  sys.exit(main(sys.argv))
