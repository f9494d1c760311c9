"""Records of a prepared data set: labels are parsed, images stay encoded.

`tfds.data_source` gives random access to the records, without TensorFlow.
"""

from collections.abc import Callable
import functools
from typing import Any, Optional

import numpy as np
import tensorflow_datasets as tfds

from labelleak.base import InputError
from labelleak.data.reading.pixels import Records

_CHUNK = 1024  # records in memory while labels are read

Parse = Callable[[bytes], Any]  # a record -> one of its features


def keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
  """Returns the names of the image and the label in a record.

  Raises:
    InputError: the data set has no labelled images.
  """
  names = builder.info.supervised_keys or ('image', 'label')
  features = dict(builder.info.features.items())
  kinds = tfds.features.Image, tfds.features.ClassLabel
  if len(names) != 2 or not all(
    isinstance(k, str) and isinstance(features.get(k), kind)
    for k, kind in zip(names, kinds)
  ):
    raise InputError(
      f'{builder.name} is no data set of labelled images (its features:'
      f' {", ".join(features)}); use one that is.'
    )
  return names


def parser(builder: tfds.core.DatasetBuilder, key: str) -> Parse:
  """Returns what parses one feature of a record; an image stays encoded."""
  feature = builder.info.features[key]
  part = tfds.features.FeaturesDict({key: feature})
  encoded = isinstance(feature, tfds.features.Image)
  decoders = {key: tfds.decode.SkipDecoding()} if encoded else None
  example = functools.partial(part.deserialize_example_np, decoders=decoders)
  return lambda record: example(record)[key]


def read_labels(
  builder: tfds.core.DatasetBuilder, split: Optional[str], key: str
) -> tuple[Records, np.ndarray]:
  """Reads the labels [N] of a split, and gives access to its records.

  `key` is that of the label in a record; None for a split is as in `data.load`.

  Raises:
    InputError: no such split, none that is labelled, or files that cannot be
      read.
  """
  splits, label = builder.info.splits, parser(builder, key)
  evaluation = [s for s in ('test', 'validation', 'train') if s in splits]
  tried = [split] if split else evaluation
  for candidate in tried:
    records = _open(builder, candidate)
    if len(records) and label(records[0]) >= 0:
      chunks = np.array_split(
        np.arange(len(records)), 1 + len(records) // _CHUNK
      )
      y = np.fromiter(
        (label(r) for c in chunks for r in records.__getitems__(c.tolist())),
        np.int32,
      )
      return records, y
  raise InputError(
    f'{builder.name}: split {" and ".join(tried)} is empty or its labels are'
    f' withheld; use another of: {", ".join(splits)}.'
  )


def _open(builder: tfds.core.DatasetBuilder, split: str) -> Records:
  """Gives random access to the bytes of a split's records."""
  where = f'{builder.name} in {builder.data_path}'
  try:
    records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    ).data_source
    if len(records):
      records[0]  # files open at the first access
  except NotImplementedError as e:
    raise InputError(
      f'{where} does not allow random access; convert it with'
      ' `tfds convert_format --out_file_format=array_record`.'
    ) from e
  except (KeyError, ValueError) as e:
    raise InputError(
      f'{builder.name} has no split {split!r}; use one of:'
      f' {", ".join(builder.info.splits)}.'
    ) from e
  except (OSError, RuntimeError) as e:
    raise InputError(
      f'{where}: the files of split {split!r} cannot be read'
      f' ({" ".join(str(e).split())}); prepare it again.'
    ) from e
  return records
