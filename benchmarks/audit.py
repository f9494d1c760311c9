"""How long `labelleak audit` takes, in a process of its own.

  python benchmarks/audit.py [--rounds=3]

1. The captured head of 10 classes: 200 examples in batches of 32, momentum .9,
   with remedies; the first time, and again with the programs that were kept.
2. A head of 21,841 classes, 32 examples, and 256 in 8 steps; the first time.

Each is compared with importing the command alone, in the same round: a slow
machine is slow at both. Prints, and writes results/benchmarks/audit.json.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import jax
import numpy as np

_ROOT = pathlib.Path(__file__).resolve().parent.parent

FLAGS = flags.FLAGS
flags.DEFINE_integer('rounds', 3, 'Timed rounds.')
flags.DEFINE_string(
  'out',
  str(_ROOT / 'results' / 'benchmarks' / 'audit.json'),
  'Where the result goes.',
)

LR = 0.01
_RUN = 'import sys; from labelleak.audit.command import main; sys.exit(main())'
_IMPORT = 'import labelleak.audit.command'


def main(_):
  """Times the rounds and reports medians."""
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    small = _capture(folder, 'small', 10, 200, 32, momentum=0.9)
    large = _capture(folder, 'large', 21_841, 32, 32)
    steps = _capture(folder, 'steps', 21_841, 256, 32)
    told = ['--optimizer=sgd', '--momentum=.9', '--examples=200']
    small += ['--classes=10', *told]
    large += ['--classes=21841', '--examples=32']
    steps += ['--classes=21841', '--examples=256']
    for i in range(FLAGS.rounds):
      home = folder / f'home{i}'
      home.mkdir()
      row = dict(
        start=_time(home, _IMPORT),
        small_cold=_time(home, _RUN, 'audit', *small),
        small_warm=_time(home, _RUN, 'audit', *small),
        large_cold=_time(home, _RUN, 'audit', *large),
        steps_cold=_time(home, _RUN, 'audit', *steps),
      )
      rows.append(row)
      print(' '.join(f'{k} {v:.1f} s' for k, v in row.items()), flush=True)
  median = {k: statistics.median(row[k] for row in rows) for k in rows[0]}
  ratios = {k: v / median['start'] for k, v in median.items() if k != 'start'}
  result = dict(
    seconds=median,
    times_the_import=ratios,
    rounds=rows,
    cores=os.cpu_count(),
    jax=jax.__version__,
  )
  print(json.dumps({k: result[k] for k in ('seconds', 'times_the_import')}))
  path = pathlib.Path(FLAGS.out)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=2) + '\n')


def _time(home, code, *args) -> float:
  """Returns the seconds that a new process takes."""
  start = time.perf_counter()
  environment = {**os.environ, 'HOME': str(home)}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # goes before HOME
  subprocess.run(
    [sys.executable, '-c', code, *args],
    env=environment,
    check=True,
    stdout=subprocess.DEVNULL,
  )
  return time.perf_counter() - start


def _capture(folder, name, num_classes, examples, size, momentum=0.0):
  """Trains a head on random features; returns the command's flags for it."""
  rng = np.random.default_rng(0)
  x = np.abs(rng.normal(size=(examples, 64))).astype(np.float32)
  y = rng.integers(0, min(num_classes, 100), examples)
  weight = 0.01 * rng.normal(size=(num_classes, 64)).astype(np.float32)
  state = {'weight': weight, 'bias': np.zeros(num_classes, np.float32)}
  before, velocity = (
    dict(state),
    {k: np.zeros_like(v) for k, v in state.items()},
  )
  for start in range(0, examples, size):
    rows = slice(start, start + size)
    logits = x[rows] @ state['weight'].T + state['bias'][None]
    error = np.exp(logits - logits.max(1, keepdims=True))
    error /= error.sum(1, keepdims=True)
    error[np.arange(len(error)), y[rows]] -= 1
    error /= len(error)
    gradient = {'weight': error.T @ x[rows], 'bias': error.sum(0)}
    velocity = {k: momentum * velocity[k] + gradient[k] for k in state}
    state = {k: state[k] - np.float32(LR) * velocity[k] for k in state}
  flags_of_files = []
  for when, values in (('before', before), ('after', state)):
    path = folder / f'{name}_{when}.npz'
    np.savez(path, **{f'head.{k}': v for k, v in values.items()})
    flags_of_files.append(f'--{when}={path}')
  return [*flags_of_files, f'--batch={size}', f'--lr={LR}']


if __name__ == '__main__':
  app.run(main)
