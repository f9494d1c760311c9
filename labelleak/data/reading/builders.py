"""Data sets that tensorflow_datasets prepared, on disk; none is downloaded."""

from collections.abc import Sequence
import difflib
import itertools
import os
import pathlib
from typing import Optional

from absl import logging
import tensorflow_datasets as tfds

from labelleak import data
from labelleak.base import InputError
from labelleak.data.reading import raw

_INFO = 'dataset_info.json'
# After data_dir or TFDS_DATA_DIR; the last is beside a checkout, of samples.
_ROOTS = '~/tensorflow_datasets', '../shared/tfds'


def open_directory(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
  """Opens the builder of a directory, without tfds announcing each file.

  Raises:
    InputError: its description is damaged.
  """
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  try:
    builder = tfds.builder_from_directory(directory)
    if builder.info.features is None:
      raise ValueError('no features.json')
    return builder
  except Exception as e:  # json, protobuf and tfds raise many kinds
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise InputError(
      f'{directory} holds a damaged data set ({reason}); prepare it again.'
    ) from e
  finally:
    logging.set_verbosity(verbosity)


def find(dataset: str, data_dir: Optional[str]) -> pathlib.Path:
  """Finds the directory of a prepared data set: the one given, or by name.

  tfds.builder is not asked, because it looks on the network for what it does
  not find.

  Raises:
    InputError: it is not there, or has several configs.
  """
  if path := locate(dataset, data_dir):
    return path
  if _is_path(dataset):
    path = pathlib.Path(dataset).expanduser().absolute()
    raise InputError(
      f'{dataset} holds no prepared data set (no dataset_info.json in {path});'
      ' give the directory of a version, such as DIR/mnist/3.0.1.'
    )
  raise InputError(_explain_absence(dataset, roots(data_dir)))


def locate(dataset: str, data_dir: Optional[str]) -> Optional[pathlib.Path]:
  """Returns what `find` finds, None where it is nowhere.

  Raises:
    InputError: it has several configs.
  """
  if _is_path(dataset):
    paths = [pathlib.Path(dataset).expanduser()]
  else:
    paths = [root / dataset.replace(':', '/') for root in roots(data_dir)]
  for path, pattern in itertools.product(paths, ('.', '*', '*/*')):
    versions = [file.parent for file in path.glob(f'{pattern}/{_INFO}')]
    if len({v.parent for v in versions}) > 1:  # several configs of a data set
      configs = sorted({f'{dataset}/{v.parent.name}' for v in versions})
      raise InputError(
        f'{dataset} has several configs; use one of: {", ".join(configs)}.'
      )
    if versions:
      return max(versions, key=_version)
  return None


def roots(data_dir: Optional[str]) -> list[pathlib.Path]:
  """Lists where prepared data sets may lie, the first ones first."""
  environment = os.environ.get('TFDS_DATA_DIR')
  names = [data_dir] if data_dir else [environment, *_ROOTS]
  return [pathlib.Path(name).expanduser() for name in names if name]


def _is_path(dataset: str) -> bool:
  """Whether a directory is meant, and no name."""
  return dataset.startswith(('.', '/', '~')) or (
    '/' in dataset and pathlib.Path(dataset).is_dir()
  )


def _version(path: pathlib.Path) -> list[int]:
  """Parses the version that a directory is named by."""
  return [int(n) for n in path.name.split('.') if n.isdigit()]


def _explain_absence(dataset: str, roots: Sequence[pathlib.Path]) -> str:
  """Says in one line why there is no such data set below the roots."""
  name = dataset.replace(':', '/').split('/')[0]
  prepared = {
    root: sorted(f.parent.parent.name for f in root.glob(f'*/*/{_INFO}'))
    for root in roots
  }
  here = [name for names in prepared.values() for name in names]
  known = tfds.list_builders(with_community_datasets=False)
  listed = '; '.join(
    f'prepared in {root}: {", ".join(names) or "nothing"}'
    for root, names in prepared.items()
  )
  if name not in known and name not in here:
    candidates = sorted({*here, *known, *data.names()})
    close = difflib.get_close_matches(name, candidates, 3)
    hint = f'did you mean {", ".join(close)}? ' if close else ''
    return (
      f'no data set {dataset!r}; {hint}{listed}; our own:'
      f' {", ".join(data.names())}.'
    )
  command = f'tfds build {dataset} --file_format=array_record'
  if dataset in raw.DISTRIBUTIONS:  # TensorFlow is not needed
    command = f'python -m labelleak.data prepare {dataset}'
  return (
    f'data set {dataset!r} is not prepared ({listed}); where there is a'
    f' network run `{command}` and pass'
    ' its directory as --config.data_dir or TFDS_DATA_DIR, or use a prepared'
    ' one such as ../shared/tfds/imagenet_sample/1.0.0.'
  )
