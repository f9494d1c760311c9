"""Prepares data sets for `data.load` as tensorflow_datasets would lay them out.

Neither TensorFlow nor a pickle is needed. Only here is anything downloaded, and
only where no folder of files is given:

  python -m labelleak.data prepare mnist [--data_dir DIR] [--source DIR]
"""

from collections.abc import Mapping
import hashlib
import io
import json
import os
import pathlib
import tempfile
from typing import Optional
import urllib.request

from array_record.python import array_record_module
from PIL import Image
import tensorflow_datasets as tfds

from labelleak.base import InputError
from labelleak.data.reading import builders, raw
from labelleak.data.reading.raw import Distribution, Images


def prepare(
  name: str, *, data_dir: Optional[str] = None, source: Optional[str] = None
) -> pathlib.Path:
  """Prepares a data set and returns its directory; one that is there stays.

  Examples keep the order of the distribution, which tfds would shuffle.

  Args:
    name: of a distribution here.
    data_dir: where prepared data sets live; default `TFDS_DATA_DIR`, then
      ~/tensorflow_datasets.
    source: folder of the distributed files; None downloads them.

  Raises:
    InputError: an unknown name, a file that is missing, damaged or not to be
      had, or labels beyond the classes.
  """
  if name not in raw.DISTRIBUTIONS:
    raise InputError(
      f'{name!r} is not prepared without TensorFlow; use one of:'
      f' {", ".join(raw.DISTRIBUTIONS)}; others with `tfds build {name}'
      ' --file_format=array_record`.'
    )
  distribution = raw.DISTRIBUTIONS[name]
  root = builders.roots(data_dir)[0]
  final = root / name / distribution.version
  if final.exists():
    return final
  final.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=root, prefix='.unfinished') as folder:
    folder = pathlib.Path(folder)
    files = pathlib.Path(source).expanduser() if source else folder / 'files'
    if not source:
      _download(name, distribution, files)
    splits = {}
    for split, (names, read) in distribution.splits.items():
      splits[split] = read(*(_require(files / each) for each in names))
    part = folder / distribution.version
    write(part, name, splits, distribution.num_classes)
    part.rename(final)
  return final


def write(
  directory: pathlib.Path,
  name: str,
  splits: Mapping[str, Images],
  num_classes: int,
) -> None:
  """Writes labelled images as tfds lays them out, each as a PNG.

  Args:
    directory: DIR/name/version; made here.
    name: of the data set.
    splits: name -> images, all of one shape.
    num_classes: K.

  Raises:
    InputError: a label is not below K.
  """
  directory.mkdir(parents=True)
  shape = next(iter(splits.values())).x.shape[1:]
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=shape, encoding_format='png'),
      'label': tfds.features.ClassLabel(num_classes=num_classes),
    }
  )
  for split, (x, y) in splits.items():
    if y.max() >= num_classes or x.shape[1:] != shape:
      raise InputError(
        f'{name}: {split} has images {x.shape[1:]} and labels up to {y.max()}'
        f' for {shape} and {num_classes} classes; fetch its files again.'
      )
    path = directory / f'{name}-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for image, label in zip(x, y):
      png = io.BytesIO()
      Image.fromarray(image.squeeze()).save(png, 'png')
      example = {'image': png.getvalue(), 'label': int(label)}
      writer.write(features.serialize_example(example))
    writer.close()
  features.save_config(directory)
  info = _describe(name, directory.name, splits)
  (directory / 'dataset_info.json').write_text(json.dumps(info, indent=2))


def _describe(name: str, version: str, splits: Mapping[str, Images]) -> dict:
  """Returns what tfds knows of a data set beside its features."""
  keys = [dict(featureKey=key) for key in ('image', 'label')]
  return dict(
    name=name,
    version=version,
    fileFormat='array_record',
    supervisedKeys=dict(tuple=dict(items=keys)),
    splits=[
      dict(
        name=split,
        shardLengths=[str(len(images.y))],
        numBytes=str(images.x.nbytes),
        filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      )
      for split, images in splits.items()
    ],
  )


def _require(file: pathlib.Path) -> pathlib.Path:
  """Returns a file that is there."""
  if not file.is_file():
    raise InputError(
      f'{file.absolute()} does not exist; put the distributed file there, or'
      ' leave --source out to download it.'
    )
  return file


def _download(
  name: str, distribution: Distribution, folder: pathlib.Path
) -> None:
  """Fetches the files of a distribution, as tfds knows their addresses."""
  folder.mkdir()
  table = pathlib.Path(tfds.__file__).parent / f'url_checksums/{name}.txt'
  lines = [line.split() for line in table.read_text().splitlines()]
  addresses = {
    os.path.basename(url): (url, digest) for url, _, digest, *_ in lines
  }
  for file in {
    f for split in distribution.splits.values() for f in split.files
  }:
    url, digest = addresses[file]
    try:
      with urllib.request.urlopen(url, timeout=60) as response:
        contents = response.read()
    except OSError as e:
      raise InputError(
        f'{url} cannot be fetched ({e}); fetch it elsewhere and pass its folder'
        ' as --source.'
      ) from e
    if hashlib.sha256(contents).hexdigest() != digest:
      raise InputError(
        f'{url} gave {len(contents)} bytes of another content than tfds knows;'
        ' try again, or fetch it elsewhere and pass its folder as --source.'
      )
    (folder / file).write_bytes(contents)
