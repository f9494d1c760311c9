"""Image data sets that tensorflow_datasets prepared, read without TensorFlow.

`tfds.data_source` gives random access to the records: labels are parsed
without decoding an image, images are decoded when taken. Nothing is ever
downloaded.
"""

import difflib
import functools
import io
import os
import pathlib
from typing import Optional

from absl import logging
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from labelleak.base import InputError
from labelleak.data import Source, framing, pixels

# Mean and deviation by prefix of the name, as in the published runs.
_STATISTICS = {
  'cifar100': (
    (0.5071598291397095, 0.4866936206817627, 0.44120192527770996),
    (0.2673342823982239, 0.2564384639263153, 0.2761504650115967),
  ),
  'cifar10': ((0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159)),
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  'mnist': ((0.1307,), (0.3081,)),
  '': ((0.5,), (0.5,)),
}
_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
_CHUNK = 1024  # records in memory while labels are read


def images(
  *,
  dataset: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  size: Optional[int] = None,
  crop: Optional[int] = None,
  grey: bool = False,
  classes: Optional[int] = None,
  copies: int = 1,
  normalise: bool = True,
) -> Source:
  """A prepared data set of labelled images.

  `size` scales the shorter side and crops the centre to [size, size]. Images
  of a fixed size were framed by whoever made the data set: their shorter side
  becomes `size`, so that a square image keeps its border. Images of varying
  size (ImageNet) follow the published protocol, Resize(256) and
  CenterCrop(224): the shorter side becomes size * 256 / 224. Scaling is PIL's
  bilinear filter, which averages over the area when it shrinks.

  Args:
    dataset: name, 'name/config' or 'name:version' of tfds, or a directory.
    split: a split or slice of tfds ('train[:10%]'); None as in `data.load`.
    data_dir: see `data.load`.
    size: side of the images; needed where they vary in size.
    crop: keeps the central [crop, crop] of what that gives.
    grey: luma (ITU-R 601) instead of colours.
    classes: merges the labels into this many groups of consecutive ones.
    copies: repeats the rows, so that a small data set stands in for the label
      statistics of a large one.
    normalise: with the data set's constants, grey images with the means of
      those by channel; otherwise in [0, 1].

  Raises:
    InputError: unknown or unprepared data set, no such split, no labels, or an
      option out of range.
  """
  _at_least_one(size=size, crop=crop, classes=classes, copies=copies)
  builder = _open(_find(dataset, data_dir))
  x_key, y_key = _keys(builder)
  name = builder.info.full_name.rpartition('/')[0]  # without the version
  feature = builder.info.features[x_key]
  records, y = _labelled(builder, split, y_key)
  stored = (*feature.shape[:2], 1 if grey else feature.shape[2])
  shape, shorter = framing.geometry(name, stored, size)
  framed, shape = shape, framing.cropped(name, shape, crop)
  num_classes = builder.info.features[y_key].num_classes
  if classes is not None:
    y, num_classes = _merge(name, y, num_classes, classes)
  parse = _parser(builder, x_key)

  def decode(record):
    image = Image.open(io.BytesIO(parse(record)))
    image = image.convert(_MODES[shape[-1]])
    if shorter is not None:
      image = framing.frame(image, shorter, size)
    if crop is not None:
      image = framing.centre(image, crop)
    return np.asarray(image).reshape(shape)

  mean, std = _statistics(name) if normalise else ((0.0,), (1.0,))
  if grey:
    mean, std = np.mean(mean), np.mean(std)
  take = pixels.take(records, decode, shape, mean, std)
  rows = np.tile(np.arange(len(records)), copies)
  for shown, suffix in (
    (shorter is not None, f' {size}px'),
    (shape != framed, f' crop {crop}'),
    (grey, ' grey'),
    (classes is not None, f'/{classes}'),
    (copies > 1, f' x{copies}'),
  ):
    name += suffix if shown else ''
  return Source(
    take=lambda index: take(rows[np.asarray(index)]),
    y=np.tile(y, copies),
    num_classes=num_classes,
    shape=shape,
    name=name,
    box=pixels.box(mean, std),
  )


def _at_least_one(**values):
  for name, value in values.items():
    if value is not None and value < 1:
      raise InputError(f'{name}={value} must be at least 1; raise it.')


def _statistics(name):
  """Mean and deviation of the first prefix that fits."""
  return next(v for k, v in _STATISTICS.items() if name.startswith(k))


def _find(dataset, data_dir):
  """The directory of a prepared data set: the one given, or by name.

  tfds.builder is not asked, because it looks on the network for what it
  does not find.
  """
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  path = pathlib.Path(dataset).expanduser()
  given = dataset.startswith(('.', '/', '~')) or (
    '/' in dataset and path.is_dir()
  )
  if not given:
    path = root / dataset.replace(':', '/')
  info = 'dataset_info.json'
  for pattern in (info, f'*/{info}', f'*/*/{info}'):
    found = [f.parent for f in path.glob(pattern)]
    if len({f.parent for f in found}) > 1:  # several configs of a data set
      configs = ', '.join(sorted({f'{dataset}/{f.parent.name}' for f in found}))
      raise InputError(f'{dataset} has several configs; use one of: {configs}.')
    if found:
      return max(found, key=_version)
  raise InputError(_not_found(dataset, path if given else root, given))


def _version(path):
  return [int(n) for n in path.name.split('.') if n.isdigit()]


def _not_found(dataset, looked_in, given):
  """The one line that says why there is no such data set here."""
  if given:
    return (
      f'{dataset} holds no prepared data set (no dataset_info.json in'
      f' {looked_in.absolute()}); give the directory of a version, such as'
      ' DIR/mnist/3.0.1.'
    )
  name = dataset.replace(':', '/').split('/')[0]
  here = sorted(
    f.parent.parent.name for f in looked_in.glob('*/*/dataset_info.json')
  )
  known = tfds.list_builders(with_community_datasets=False)
  prepared = f'prepared in {looked_in}: {", ".join(here) or "nothing"}'
  if name not in known and name not in here:
    close = difflib.get_close_matches(name, sorted({*here, *known}), 3)
    hint = f'did you mean {", ".join(close)}? ' if close else ''
    return (
      f'no data set {dataset!r}; {hint}{prepared}; without files:'
      ' embedded.digits, embedded.breast_cancer, synthetic.images.'
    )
  return (
    f'data set {dataset!r} is not prepared ({prepared}); where there is a'
    f' network run `tfds build {dataset} --file_format=array_record` and pass'
    ' its directory as --config.data_dir or TFDS_DATA_DIR, or use a prepared'
    ' one such as ../shared/tfds/imagenet_sample/1.0.0.'
  )


def _open(directory):
  """The builder of a directory; tfds announces each file under absl's app."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  try:
    return tfds.builder_from_directory(directory)
  finally:
    logging.set_verbosity(verbosity)


def _keys(builder):
  """Names of the image and the label in a record."""
  keys = builder.info.supervised_keys or ('image', 'label')
  features = dict(builder.info.features.items())
  kinds = tfds.features.Image, tfds.features.ClassLabel
  if len(keys) != 2 or not all(
    isinstance(k, str) and isinstance(features.get(k), kind)
    for k, kind in zip(keys, kinds)
  ):
    raise InputError(
      f'{builder.name} is no data set of labelled images (its features:'
      f' {", ".join(features)}); use one that is.'
    )
  return keys


def _parser(builder, key):
  """record -> one of its features; an image stays encoded."""
  feature = builder.info.features[key]
  part = tfds.features.FeaturesDict({key: feature})
  encoded = isinstance(feature, tfds.features.Image)
  decoders = {key: tfds.decode.SkipDecoding()} if encoded else None
  example = functools.partial(part.deserialize_example_np, decoders=decoders)
  return lambda record: example(record)[key]


def _labelled(builder, split, y_key):
  """Raw records and labels [N] of a split."""
  splits, label = builder.info.splits, _parser(builder, y_key)
  evaluation = [s for s in ('test', 'validation', 'train') if s in splits]
  tried = [split] if split else evaluation
  for candidate in tried:
    records = _records(builder, candidate)
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


def _records(builder, split):
  """Random access to the bytes of a split's records."""
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


def _merge(name, y, num_classes, classes):
  """Labels of `classes` groups of consecutive classes."""
  if not 2 <= classes <= num_classes:
    raise InputError(
      f'classes={classes} must lie in 2..{num_classes}, the labels of {name};'
      ' change it.'
    )
  return y * classes // num_classes, classes
