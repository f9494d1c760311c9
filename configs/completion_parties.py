"""Model completion against the number of parties: Figure 3 of Fu et al.

  python launch.py --config=configs/completion_parties.py      # real digits
  python launch.py --config=configs/completion_parties.py:data=mnist
  python launch.py --config=configs/completion_parties.py:data=histopathology
  python launch.py --config=configs/completion_parties.py:runlocal  # seconds

The attacker holds one part of as many as there are parties, and in the last
point two parts more, which their parties keep (`shared`). Columns of an image;
of histopathology a patch each, so that more parties leave fewer examples, as
published. Digits take 3 minutes on one core.

Published: F1 of the active attack on histopathology above .70 up to 8 parties,
.6446 with 10, .7638 with 10 and 2 shared patches.
"""

from configs import common, completion

_PATCHES = 172954  # of histopathology, that show tissue
_COLUMNS = 'splits.columns'


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', runlocal=False)
  data, few = arg['data'], arg['runlocal']
  common.check_choice('data', data, ('digits', 'mnist', 'histopathology'))
  local = ',runlocal' if few else ''
  config = completion.get_config(f'data={data}{local}')
  config.name = 'completion_parties'
  config.attacks = config.attacks[: 1 if arg['runlocal'] else 2]
  if data == 'histopathology':
    shared = dict(name='splits.patches', shared=2)
    counts = (2, 3) if few else (2, 4, 6, 8, 10)
    points = [(k, dict(name='splits.patches'), _steps(k)) for k in counts]
    points.append((counts[-1], shared, _steps(counts[-1])))
    if few:
      points = [(k, split, config.train.steps) for k, split, _ in points]
    fields = 'dataset.patches', 'split', 'train.steps'
    config.dataset.patches = 2
    config.sweep = ((fields, tuple(points)),)
    return config
  most = 8 if data == 'digits' else 14
  counts = (2, most) if few else (2, 4, most)
  points = [dict(name=_COLUMNS, parties=k) for k in counts]
  points.append(dict(name=_COLUMNS, parties=most, shared=2 * (most // 4)))
  config.sweep = (('split', tuple(points)),)
  return config


def _steps(parties):
  """Five epochs of batches of 64 over four fifths of the samples."""
  rows = _PATCHES // parties * 4 // 5
  return -(-rows // 64) * 5
