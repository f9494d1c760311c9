"""Records of a prepared data set: labels are parsed, images stay encoded.

`tfds.data_source` gives random access to the records, without TensorFlow.
"""

from collections.abc import Callable, Collection, Sequence
import functools
from typing import Any, Optional

from array_record.python import array_record_module
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


def image_shape(
  builder: tfds.core.DatasetBuilder, key: str, channels: Collection[int]
) -> tuple[Optional[int], ...]:
  """Returns the shape (H, W, C) of the images, None where it varies.

  Raises:
    InputError: other than `channels`, or more than 8 bits in each.
  """
  feature = builder.info.features[key]
  if feature.shape[2] not in channels or feature.np_dtype != np.uint8:
    raise InputError(
      f'{builder.name}: its images {feature.shape} of {feature.np_dtype} must'
      f' have 8 bits in each of {" or ".join(map(str, channels))} channels; use'
      ' another data set.'
    )
  return tuple(feature.shape)


def parser(builder: tfds.core.DatasetBuilder, key: str) -> Parse:
  """Returns what parses one feature of a record; an image stays encoded.

  Raises:
    InputError: (the parser) a record is damaged, or of another data set.
  """
  feature = builder.info.features[key]
  part = tfds.features.FeaturesDict({key: feature})
  encoded = isinstance(feature, tfds.features.Image)
  decoders = {key: tfds.decode.SkipDecoding()} if encoded else None
  example = functools.partial(part.deserialize_example_np, decoders=decoders)

  def parse(record):
    try:
      return example(record)[key]
    except Exception as e:  # tfds and protobuf raise many kinds
      raise _damage(builder, f'a record has no {key}', e) from e

  return parse


def read_labels(
  builder: tfds.core.DatasetBuilder, split: Optional[str], key: str
) -> tuple[Records, np.ndarray]:
  """Reads the labels [N] of a split, and gives access to its records.

  `key` is that of the label in a record; None for a split is as in `data.load`.

  Raises:
    InputError: no such split, none that is labelled, files that cannot be
      read, or labels that are no classes of the data set.
  """
  splits, label = builder.info.splits, parser(builder, key)
  evaluation = [s for s in ('test', 'validation', 'train') if s in splits]
  tried = [split] if split else evaluation
  for candidate in tried:
    records = _open(builder, candidate)
    if len(records) and label(records.__getitems__([0])[0]) >= 0:
      chunks = np.array_split(
        np.arange(len(records)), 1 + len(records) // _CHUNK
      )
      y = np.fromiter(
        (label(r) for c in chunks for r in records.__getitems__(c.tolist())),
        np.int32,
      )
      _check_labels(builder, candidate, y, key)
      return records, y
  raise InputError(
    f'{builder.name}: split {" and ".join(tried)} is empty or its labels are'
    f' withheld; use another of: {", ".join(splits)}.'
  )


def _check_labels(builder, split, y, key):
  """Refuses labels that are no classes."""
  num_classes = builder.info.features[key].num_classes
  wrong = np.flatnonzero((y < 0) | (y >= num_classes))
  if len(wrong):
    raise InputError(
      f'{builder.name}: {len(wrong)} labels of split {split!r} are outside'
      f' 0..{num_classes - 1}, such as {y[wrong[0]]} of record {wrong[0]}; use'
      ' another split, or prepare it again.'
    )


class _Checked:
  """Records whose damage is an InputError."""

  def __init__(self, builder, records):
    self._builder, self._records = builder, records

  def __len__(self) -> int:
    return len(self._records)

  def __getitems__(self, rows: Sequence[int]) -> list:
    try:
      return self._records.__getitems__(rows)
    except Exception as e:  # array_record raises many kinds
      raise _damage(self._builder, 'records cannot be read', e) from e


def _open(builder: tfds.core.DatasetBuilder, split: str) -> Records:
  """Gives random access to the bytes of a split's records."""
  try:
    info = builder.info.splits[split]
  except (KeyError, ValueError, AssertionError) as e:
    raise InputError(
      f'{builder.name} has no split {split!r}; use one of:'
      f' {", ".join(builder.info.splits)}.'
    ) from e
  try:
    records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    ).data_source
    for file in info.file_instructions:
      reader = array_record_module.ArrayRecordReader(file.filename)
      if reader.num_records() != file.examples_in_shard:
        raise ValueError(
          f'{file.filename} holds {reader.num_records()} records, not'
          f' {file.examples_in_shard} as dataset_info.json says'
        )
  except NotImplementedError as e:
    raise InputError(
      f'{builder.name} in {builder.data_path} does not allow random access;'
      ' convert it with `tfds convert_format --out_file_format=array_record`.'
    ) from e
  except Exception as e:  # array_record raises many kinds
    raise _damage(
      builder, f'the files of split {split!r} cannot be read', e
    ) from e
  return _Checked(builder, records)


def _damage(builder, what, error):
  """Returns the error that says what of a data set is damaged."""
  reason = ' '.join(str(error).split()) or type(error).__name__
  return InputError(
    f'{builder.name} in {builder.data_path}: {what} ({reason}); prepare it'
    ' again.'
  )
