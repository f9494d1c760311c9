"""Prepares data without TensorFlow: python -m labelleak.data prepare mnist."""

import argparse
import sys

from labelleak.base import InputError
from labelleak.data import writing
from labelleak.data.reading import raw


def main(argv: list[str]) -> int:
  """Runs the command; an error is one line."""
  parser = argparse.ArgumentParser(
    prog='python -m labelleak.data', description=__doc__
  )
  commands = parser.add_subparsers(dest='command', required=True)
  prepare = commands.add_parser('prepare', help='prepare a data set')
  prepare.add_argument('name', help=', '.join(raw.DISTRIBUTIONS))
  prepare.add_argument(
    '--data_dir',
    help='where it goes; default TFDS_DATA_DIR, then ~/tensorflow_datasets',
  )
  prepare.add_argument(
    '--source', help='folder of the files; default: they are downloaded'
  )
  values = parser.parse_args(argv)
  try:
    directory = writing.prepare(
      values.name, data_dir=values.data_dir, source=values.source
    )
  except (InputError, OSError) as e:
    print(f'labelleak.data: {e}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('labelleak.data: stopped, nothing is left of it', file=sys.stderr)
    return 130
  print(f'{values.name} is prepared in {directory}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
