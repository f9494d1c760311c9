"""Criteo display ads, hashed into counts, fetched by hand."""

import pathlib
from typing import Optional
import zlib

import numpy as np

from labelleak import validate
from labelleak.base import InputError
from labelleak.data import Source
from labelleak.data.reading import files

_HOME = 'https://www.kaggle.com/c/criteo-display-ad-challenge'
_COLUMNS = [f'I{i}' for i in range(1, 14)] + [f'C{i}' for i in range(1, 27)]
_BUCKETS = 2**13
_PAIRS = np.triu_indices(len(_COLUMNS), 1)  # 741
_CHUNK = 1024  # rows whose buckets are counted at once


def criteo(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  rows: int = 100_000,
) -> Source:
  """Loads Criteo display ads, hashed: bucket counts [8192], 2 classes.

  As in Fu et al., each of the 39 columns becomes a token 'name=value', hashed
  into 2^13 buckets; with the XOR of every pair of tokens a row increments 780
  buckets. Rows are kept where their label differs from the last one kept, 0
  first: exactly half of them are clicks. The first 80% are the training rows.
  Layout: `train.txt` of the challenge, a line a row, tab separated: label, 13
  integers, 26 categories; a missing value is empty.

  Two deviations from the released code: the hash is CRC-32, since Python's own
  differs from process to process, and training never sees a test row.

  Args:
    path: directory of train.txt; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    rows: kept of both splits together; the file is read that far.

  Raises:
    InputError: the file is missing, has too few rows, a line of other than 40
      columns or a label that is neither 0 nor 1; no such split.
  """
  test = files.is_test('criteo', split)
  validate.whole('criteo: rows', rows, 5)
  find = files.finder(path, data_dir, _HOME)
  tokens = _tokens(find('train.txt'), rows)
  y = np.arange(rows, dtype=np.int32) % 2
  part = slice(rows * 4 // 5, None) if test else slice(rows * 4 // 5)
  tokens, y = tokens[part], y[part]

  def take(index):
    rows = tokens[np.asarray(index)]
    out = np.empty((len(rows), _BUCKETS), np.float32)
    for start in range(0, len(rows), _CHUNK):
      chunk = slice(start, start + _CHUNK)
      out[chunk] = _counts(rows[chunk])
    return out

  return Source(take, y, 2, (_BUCKETS,), 'criteo')


def _tokens(file: pathlib.Path, rows: int) -> np.ndarray:
  """Reads the buckets [rows, 39] of rows whose labels alternate from 0."""
  prefixes = [zlib.crc32(f'{name}='.encode()) for name in _COLUMNS]
  tokens = np.empty((rows, len(_COLUMNS)), np.uint16)
  count = 0
  with file.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      label, *values = line.rstrip(b'\r\n').split(b'\t')
      if len(values) != len(_COLUMNS) or label not in (b'0', b'1'):
        raise InputError(
          f'{file}, line {number}: expected a label 0 or 1 and 39 columns,'
          f' found {label.decode(errors="replace")!r} and {len(values)};'
          ' use the train.txt of the challenge.'
        )
      if int(label) == count % 2:
        # The CRC of 'name=value', continued from that of 'name='.
        hashes = map(zlib.crc32, values, prefixes)
        tokens[count] = [h % _BUCKETS for h in hashes]
        count += 1
        if count == rows:
          return tokens
  raise InputError(
    f'{file} has {count} rows of alternating labels, rows={rows} asks for more;'
    ' lower it or use the complete file.'
  )


def _counts(tokens: np.ndarray) -> np.ndarray:
  """Counts tokens and XORs of their pairs by bucket, [n, 39] -> [n, 8192]."""
  one, other = _PAIRS
  buckets = np.concatenate([tokens, tokens[:, one] ^ tokens[:, other]], 1)
  num = len(tokens)
  flat = np.arange(num)[:, None] * _BUCKETS + buckets
  counts = np.bincount(flat.ravel(), minlength=num * _BUCKETS)
  return counts.reshape(num, _BUCKETS)
