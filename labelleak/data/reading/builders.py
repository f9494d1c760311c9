"""Data sets that tensorflow_datasets prepared, on disk; none is downloaded."""

import difflib
import os
import pathlib
from typing import Optional

from absl import logging
import tensorflow_datasets as tfds

from labelleak import data
from labelleak.base import InputError


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

  Args:
    dataset: name, 'name/config' or 'name:version' of tfds, or a directory.
    data_dir: see `data.load`.

  Raises:
    InputError: it is not there, or has several configs.
  """
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  path = pathlib.Path(dataset).expanduser()
  is_path = dataset.startswith(('.', '/', '~')) or (
    '/' in dataset and path.is_dir()
  )
  if not is_path:
    path = root / dataset.replace(':', '/')
  info = 'dataset_info.json'
  for pattern in (info, f'*/{info}', f'*/*/{info}'):
    versions = [file.parent for file in path.glob(pattern)]
    if len({v.parent for v in versions}) > 1:  # several configs of a data set
      configs = sorted({f'{dataset}/{v.parent.name}' for v in versions})
      raise InputError(
        f'{dataset} has several configs; use one of: {", ".join(configs)}.'
      )
    if versions:
      return max(versions, key=_version)
  if is_path:
    raise InputError(
      f'{dataset} holds no prepared data set (no dataset_info.json in'
      f' {path.absolute()}); give the directory of a version, such as'
      ' DIR/mnist/3.0.1.'
    )
  raise InputError(_explain_absence(dataset, root))


def _version(path: pathlib.Path) -> list[int]:
  """Parses the version that a directory is named by."""
  return [int(n) for n in path.name.split('.') if n.isdigit()]


def _explain_absence(dataset: str, root: pathlib.Path) -> str:
  """Says in one line why there is no such data set below `root`."""
  name = dataset.replace(':', '/').split('/')[0]
  here = sorted(
    f.parent.parent.name for f in root.glob('*/*/dataset_info.json')
  )
  known = tfds.list_builders(with_community_datasets=False)
  prepared = f'prepared in {root}: {", ".join(here) or "nothing"}'
  if name not in known and name not in here:
    candidates = sorted({*here, *known, *data.names()})
    close = difflib.get_close_matches(name, candidates, 3)
    hint = f'did you mean {", ".join(close)}? ' if close else ''
    return (
      f'no data set {dataset!r}; {hint}{prepared}; our own:'
      f' {", ".join(data.names())}.'
    )
  return (
    f'data set {dataset!r} is not prepared ({prepared}); where there is a'
    f' network run `tfds build {dataset} --file_format=array_record` and pass'
    ' its directory as --config.data_dir or TFDS_DATA_DIR, or use a prepared'
    ' one such as ../shared/tfds/imagenet_sample/1.0.0.'
  )
