"""Yahoo Answers (Zhang et al., 2015), tokens of texts, fetched by hand."""

from collections.abc import Callable, Iterator, Sequence
import csv
import functools
import itertools
import pathlib
import re
from typing import Optional
import zlib

import numpy as np

from labelleak import validate
from labelleak.base import InputError
from labelleak.data import Source
from labelleak.data.reading import files

_HOME = 'https://s3.amazonaws.com/fast-ai-nlp/yahoo_answers_csv.tgz'
_CLASSES = 10
_LABELS = {str(label + 1): label for label in range(_CLASSES)}
# texts -> a list of tokens each
Tokenise = Callable[[Sequence[str]], list[list[int]]]
_WORD = re.compile(r'\w+|[^\w\s]')


def yahoo_answers(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  parts: int = 2,
  length: int = 256,
  per_class: Optional[int] = None,
  vocab: Optional[str] = None,
  buckets: int = 30522,
  counts: bool = False,
) -> Source:
  """Loads Yahoo Answers: tokens [parts * length], 10 classes.

  A text is question title, question and best answer. It is cut into `parts`
  pieces of as many characters each, and every piece is tokenised by itself,
  truncated or padded with 0 to `length` tokens, so that splits.features gives
  each party the tokens of a piece (Fu et al.: two halves, 256 tokens, without
  [CLS] and [SEP]). Tokens are int32. Layout: train.csv and test.csv, a record a
  line, of class 1 to 10, title, question, answer, in double quotes; a line
  break within a field is written \\n.

  Args:
    path: directory of the csv files; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    parts: pieces of a text.
    length: tokens of a piece, L.
    per_class: keeps the first ones of each class; None keeps all.
    vocab: vocab.txt of a BERT model, for its word pieces; found like `path`.
      Needs the extra `text`. Without it words and signs are hashed (CRC-32).
    buckets: of the hash, token 0 included; as many as bert-base-uncased has.
    counts: how often each token but 0 occurs in a piece, [parts * buckets]
      float32, for models and attacks that mix examples. Not with `vocab`.

  Raises:
    InputError: a file is missing, a line is no such record, an option is out of
      range, `vocab` comes with `counts`, lacks [PAD] at 0 or [UNK], or
      `tokenizers` is not installed; no such split.
  """
  test = files.is_test('yahoo_answers', split)
  validate.whole('yahoo_answers: parts', parts, 1)
  validate.whole('yahoo_answers: length', length, 1)
  if per_class is not None:
    validate.whole('yahoo_answers: per_class', per_class, 1)
  validate.whole('yahoo_answers: buckets', buckets, 2)
  if counts and vocab is not None:
    raise InputError(
      f'yahoo_answers: counts=True are of hashed words; leave vocab={vocab!r}'
      ' out.'
    )
  find = files.finder(path, data_dir, _HOME)
  file = find('test.csv' if test else 'train.csv')
  if vocab is None:
    tokenise = _hash_words(buckets)
  else:
    model = files.finder(vocab, data_dir, "the model's page")
    tokenise = _word_pieces(model())
  offsets, y = _index(file, per_class)

  def take(index):
    pieces = [
      piece
      for text in _texts(file, offsets[np.asarray(index)])
      for piece in _cut(text, parts)
    ]
    out = np.zeros((len(pieces), length), np.int32)
    for row, tokens in zip(out, tokenise(pieces)):
      row[: len(tokens)] = tokens[:length]
    if counts:
      return _bags(out, buckets).reshape(-1, parts * buckets)
    return out.reshape(-1, parts * length)

  shape = (parts * (buckets if counts else length),)
  name = 'yahoo_answers counts' if counts else 'yahoo_answers'
  return Source(take, y, _CLASSES, shape, name)


def _texts(file: pathlib.Path, offsets: np.ndarray) -> Iterator[str]:
  """Yields the texts of the records at `offsets`."""
  with file.open('rb') as lines:
    for offset in offsets:
      lines.seek(offset)
      yield _record(f'{file}, byte {offset}', lines.readline())[1]


def _bags(tokens: np.ndarray, buckets: int) -> np.ndarray:
  """Counts the tokens of each row but 0, [n, L] -> [n, buckets] float32."""
  rows = np.arange(len(tokens))[:, None] * buckets
  flat = (rows + tokens).ravel()
  counts = np.bincount(flat, minlength=len(tokens) * buckets)
  counts = counts.reshape(-1, buckets).astype(np.float32)
  counts[:, 0] = 0
  return counts


def _index(
  file: pathlib.Path, per_class: Optional[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Finds where the records start, [N] bytes, and their labels [N]."""
  offsets, labels, offset = [], [], 0
  left = [per_class or np.inf] * _CLASSES
  with file.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      label, _ = _record(f'{file}, line {number}', line)
      if left[label]:
        left[label] -= 1
        offsets.append(offset)
        labels.append(label)
        if not any(left):
          break
      offset += len(line)
  if not labels:
    raise InputError(f'{file} is empty; fetch it from {_HOME}.')
  return np.array(offsets), np.array(labels, np.int32)


def _record(where: str, line: bytes) -> tuple[int, str]:
  """Parses the label and the text of a line."""
  try:
    fields = next(csv.reader([line.decode()], strict=True))
  except (csv.Error, UnicodeDecodeError) as e:
    raise InputError(
      f'{where}: no record of four quoted fields ({e}); fetch it from {_HOME}.'
    ) from e
  if len(fields) != 4 or fields[0] not in _LABELS:
    raise InputError(
      f'{where}: expected 4 columns, the first a class 1 to {_CLASSES}, found'
      f' {len(fields)}: {fields[:1]}; fetch it from {_HOME}.'
    )
  name, *texts = fields
  return _LABELS[name], ' '.join(texts).replace('\\n', ' ')


def _cut(text: str, parts: int) -> list[str]:
  """Cuts a text into pieces of as many characters, up to one."""
  ends = [len(text) * i // parts for i in range(parts + 1)]
  return [text[a:b] for a, b in itertools.pairwise(ends)]


def _hash_words(buckets: int) -> Tokenise:
  """Hashes words and signs, to tokens in 1..buckets - 1."""

  @functools.lru_cache(maxsize=2**16)
  def token(word):
    return 1 + zlib.crc32(word.encode()) % (buckets - 1)

  return lambda texts: [
    [token(word) for word in _WORD.findall(text.lower())] for text in texts
  ]


def _word_pieces(file: pathlib.Path) -> Tokenise:
  """Reads the vocabulary of BERT's tokens, lower case."""
  try:
    import tokenizers  # of the extra `text`
  except ImportError as e:
    raise InputError(
      f'vocab={str(file)!r} needs the tokenizers library; pip install'
      " 'labelleak[text]', or leave vocab out for hashed words."
    ) from e
  words = file.read_text(encoding='utf-8').rstrip('\n').split('\n')
  if words[:1] != ['[PAD]'] or '[UNK]' not in words:
    raise InputError(
      f'{file} must start with [PAD] and hold [UNK]; use the vocab.txt of an'
      ' uncased BERT model.'
    )
  ids = {word: i for i, word in enumerate(words)}
  if len(ids) < len(words):
    raise InputError(
      f'{file} holds {len(words) - len(ids)} words twice; use the vocab.txt of'
      ' a BERT model as it is.'
    )
  pieces = tokenizers.models.WordPiece(ids, unk_token='[UNK]')
  model = tokenizers.Tokenizer(pieces)
  model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return lambda texts: [text.ids for text in model.encode_batch(texts)]
