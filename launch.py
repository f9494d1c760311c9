"""Runs a config and prints its table.

  python launch.py --config=configs/llbg_vit.py --workdir=runs/llbg_vit

`--config=FILE.py:arg` picks a variant, `--config.field=value` sets a field.
"""

import os
import sys

from absl import flags, logging
import jax
from ml_collections import config_flags

from labelleak import base, experiments
from labelleak.report import tables

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Default: runs/<config name>.')


def main(argv):
  logging.set_verbosity(logging.ERROR)
  cache = os.path.expanduser('~/.cache/labelleak')
  jax.config.update('jax_compilation_cache_dir', cache)
  flags.mark_flag_as_required('config')
  try:
    flags.FLAGS(argv)
    workdir = _WORKDIR.value or os.path.join('runs', _CONFIG.value.name)
    rows = experiments.run(_CONFIG.value, workdir)
  except (base.InputError, flags.Error, AttributeError, KeyError) as e:
    print(f'launch.py: {e}', file=sys.stderr)
    return 2
  print(f'\n{tables.points(rows)}\nRows, table and plots: {workdir}')


if __name__ == '__main__':
  sys.exit(main(sys.argv))
