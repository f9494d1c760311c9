"""The two axes of a sweep: points are a python loop, trials are an array axis.

`grid` turns a config into one full config for each point. `run_trials` runs one
pure function for T trials, in chunks that are sharded over the devices.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import copy
import itertools
import json
import os
from typing import Any, Optional, TypeVar
import zlib

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path
import numpy as np

from labelleak import spec
from labelleak.base import InputError

T = TypeVar('T')


def grid(config: ConfigDict) -> Iterator[tuple[dict, ConfigDict]]:
  """Points of the product over `config.sweep`, each with its own full config.

  >>> config = ConfigDict(dict(lr=1.0, sweep=(('lr', (0.1, 0.2)),)))
  >>> [(point, full.lr) for point, full in grid(config)]
  [({'lr': 0.1}, 0.1), ({'lr': 0.2}, 0.2)]

  `sweep` holds pairs (path, values), with the command line's syntax for paths:
  'batch_size', 'model.name', 'attacks[0]["form"]'. A path may be a tuple of
  paths whose values are tuples as long as it: these fields move together, as a
  model and its batch size do. So do the fields of an entry that is dicts alone,
  path -> value; what one of them leaves out stays as the config has it. Where a
  field is a dict, its value is replaced.

  Raises:
    InputError: a path that the config lacks, a value of another type, tuples of
      unequal lengths, or a point that occurs twice.
  """
  axes = [_axis(entry, config) for entry in config.get('sweep', ())]
  seen = []
  for choices in itertools.product(*axes):
    full = copy.deepcopy(config)  # copy_and_resolve_references shares dicts
    point = {}
    for path, value in itertools.chain(*choices):
      _set(full, path, value)
      point[path] = spec.plain(value)
    if point in seen:
      raise InputError(f'config.sweep holds the point {point} twice; drop one.')
    seen.append(point)
    yield point, full


def override(config: ConfigDict, fields: Mapping[str, Any]) -> list[str]:
  """Rewrites `config.sweep` so that fields set by hand win over its axes.

  >>> config = ConfigDict(dict(lr=9.0, sweep=(('lr', (0.1, 0.2)),)))
  >>> override(config, {'lr': 9.0})
  ['lr=9.0 wins over the sweep: lr is not swept.']
  >>> config.sweep
  ()

  An axis of the field itself, or of a part of it, goes; where the field is a
  part of what is swept, it is set in each value. Points that become equal are
  one.

  Args:
    config: as it was parsed, with the fields set.
    fields: path -> value.

  Returns:
    what to say of each field that an axis meant otherwise, a line each.

  Raises:
    InputError: a swept value has no such part, or one of another type; the
      sweep was set by hand as well.
  """
  lines = []
  for path, value in fields.items():
    axes = []
    for entry in config.get('sweep', ()):
      axis = _fields(entry)
      parts = [_override(part, path, value) for part in axis]
      if parts == axis:
        axes.append(entry)
        continue
      paths = itertools.chain(*axis)
      swept = next(p for p in paths if _overlap(p, path))
      if 'sweep' in fields:
        raise InputError(
          f'{path}={value!r} and a sweep over {swept} are both set by hand;'
          ' drop one.'
        )
      kept = any(swept in part for part in parts)
      effect = f'each {swept} has it' if kept else f'{swept} is not swept'
      lines.append(f'{path}={value!r} wins over the sweep: {effect}.')
      parts = [p for i, p in enumerate(parts) if p and p not in parts[:i]]
      axes += [tuple(parts)] if parts else []
    config.sweep = tuple(axes)
  return lines


def _override(part, path, value):
  """Returns path -> value of one point of an axis, with a field set by hand."""
  out = {}
  for swept, old in part.items():
    shared = _overlap(swept, path)
    if not shared:
      out[swept] = old
    elif shared < 0:  # a part of what is swept
      whole = ConfigDict({'value': copy.deepcopy(old)})
      try:
        config_path.set_value(f'value{path[len(swept) :]}', whole, value)
      except (AttributeError, KeyError, IndexError, TypeError, ValueError) as e:
        raise InputError(
          f'{path}={value!r} cannot be set by hand: the sweep over {swept} has'
          f' {spec.plain(old)!r}; set {swept} as a whole.'
        ) from e
      out[swept] = whole.to_dict()['value']
  return out


def _overlap(swept, path):
  """Returns 0 for paths apart, 1 where `path` holds `swept`, else -1."""
  a, b = map(config_path.split, (swept, path))
  num = min(len(a), len(b))
  return (a[:num] == b[:num]) * (1 if len(b) == num else -1)


def key(seed: int, role: str) -> chex.PRNGKey:
  """Returns the key of a role; no two roles of a seed share one.

  Experiments make keys from a seed here and nowhere else.
  """
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(role.encode()))


def trial_keys(key: chex.PRNGKey, trials: int) -> chex.Array:
  """Returns a key a trial, [T]; those of the first do not depend on T."""
  return jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(trials))


# (key, item, shared) -> a pytree of arrays
Trial = Callable[[chex.PRNGKey, chex.ArrayTree, chex.ArrayTree], chex.ArrayTree]


def run_trials(
  trial: Trial,
  key: chex.PRNGKey,
  trials: int,
  per_trial: chex.ArrayTree | Callable[[np.ndarray], chex.ArrayTree],
  shared: chex.ArrayTree,
  *,
  per_device: Optional[int] = None,
  devices: Optional[Sequence[jax.Device]] = None,
  finished: Sequence[np.ndarray] = (),
  callback: Callable[[int, chex.ArrayTree], None] = lambda num, values: None,
  tell_compile: Callable[[bool], None] = lambda busy: None,
) -> chex.ArrayTree:
  """Runs `trial(key, item, shared)` T times, sharded over all devices.

  On a single CPU, trials run side by side in threads: one alone seldom keeps
  two cores busy, and convolutions with weights of their own are slow when
  batched. Elsewhere a chunk holds `per_device` trials for each device; the last
  chunk is filled up with its last trial and cut again, so that T may be any
  number. Inputs are prepared while the devices work.

  Args:
    trial: pure; one trial to a pytree of arrays.
    key: of all trials; each has its own (`trial_keys`).
    trials: T.
    per_trial: leaves [T, ...], or a function from indices [n] to leaves
      [n, ...], which builds large inputs on the host for one chunk at a time.
    shared: the same for all trials, replicated.
    per_device: trials that a device runs at once. None is as many as there are
      cores, 4 at most, on a single CPU, 1 on several, 8 on an accelerator.
    devices: to run on, one kind; None: all.
    finished: leaves [t, ...] of the first t trials, from an earlier call with
      the same arguments that did not end; they are not run again.
    callback: called with the number of trials that a chunk finished, and their
      values.
    tell_compile: called with True before the trial is compiled, False after it.

  Returns:
    host arrays, leaves [T, ...].

  Raises:
    InputError: per_device < 1.
  """
  keys, devices = trial_keys(key, trials), devices or jax.devices()
  cpu = devices[0].platform == 'cpu'
  threaded = cpu and len(devices) == 1
  if per_device is None:
    per_device = min(os.cpu_count(), 4) if threaded else 1 if cpu else 8
  if per_device < 1:
    raise InputError(f'per_device={per_device} must be at least 1.')
  width = min(per_device * len(devices), _round_up(len(keys), len(devices)))
  width, workers = (1, per_device) if threaded else (width, 1)
  build = per_trial
  if not callable(build):
    build = lambda index: jax.tree.map(lambda a: a[index], per_trial)
  run, put = (_one if threaded else _shard)(trial, devices)
  shared = jax.device_put(shared, _sharding(devices, PartitionSpec()))

  def inputs(start):
    stop = min(start + width, len(keys))
    index = np.minimum(np.arange(start, start + width), stop - 1)
    return (put(keys[index]), put(build(index)), shared), stop - start

  x64 = jax.config.jax_enable_x64

  def fetch(args, num):
    with jax.enable_x64(x64):  # a thread does not inherit it
      out = jax.device_get(compiled(*args))
    return jax.tree.map(lambda a: a[:num], out)

  done, pending = [], collections.deque()

  def collect():
    future, num = pending.popleft()
    done.append(future.result())
    callback(num, done[-1])

  first = len(finished[0]) if finished else 0
  if first:
    like = jax.eval_shape(run, *inputs(0)[0])
    done.append(jax.tree.unflatten(jax.tree.structure(like), finished))
  compiled = None
  pool = futures.ThreadPoolExecutor(workers)
  try:
    for start in range(first, len(keys), width):
      args, num = inputs(start)
      if compiled is None:  # once, for all threads
        tell_compile(True)
        compiled = run.lower(*args).compile()
        tell_compile(False)
      pending.append((pool.submit(fetch, args, num), num))
      if len(pending) > workers:
        collect()
    while pending:
      collect()
  finally:
    pool.shutdown(cancel_futures=True)
  return jax.tree.map(lambda *parts: np.concatenate(parts), *done)


def map_trials(
  trial: Callable[[int], T],
  trials: int,
  *,
  finished: Sequence[np.ndarray] = (),
  callback: Callable[[int, np.ndarray], None] = lambda num, values: None,
) -> list[T]:
  """Runs `trial(t)` for each of T trials on the host, one after another.

  Args:
    trial: 0..T-1 -> JSON, such as a dict of floats.
    trials: T.
    finished: what `callback` was given of the first t trials, [[t]], in an
      earlier call that did not end; they are not run again.
    callback: called after each trial with 1 and the values [1], JSON as text.

  Returns:
    T values, as JSON gives them back: tuples are lists.
  """
  texts = finished[0].tolist() if finished else []
  for t in range(len(texts), trials):
    texts.append(json.dumps(trial(t)))
    callback(1, np.array(texts[-1:]))
  return [json.loads(text) for text in texts]


def _one(trial, devices):
  """The jitted chunk of one trial, which a vmap of width 1 would slow down."""
  del devices
  first = lambda tree: jax.tree.map(lambda a: a[0], tree)

  def run(keys, items, shared):
    out = trial(keys[0], first(items), shared)
    return jax.tree.map(lambda a: a[None], out)

  return jax.jit(run), lambda tree: tree


def _shard(trial, devices):
  """The jitted chunk and the function that places its inputs."""
  split = _sharding(devices, PartitionSpec('trial'))
  whole = _sharding(devices, PartitionSpec())
  run = jax.jit(
    jax.vmap(trial, (0, 0, None)),
    in_shardings=(split, split, whole),
    out_shardings=split,
  )
  return run, lambda tree: jax.device_put(tree, split)


def _sharding(devices, spec):
  mesh = jax.sharding.Mesh(np.array(devices), ('trial',))
  return NamedSharding(mesh, spec)


def _round_up(num, step):
  return max(-(-num // step), 1) * step


def _fields(entry):
  """Returns a sweep entry as a list of path -> value that move together."""
  listed = isinstance(entry, tuple | list)
  if listed and entry and all(isinstance(part, Mapping) for part in entry):
    return [dict(part) for part in entry]
  if not (listed and len(entry) == 2 and _is_pair(entry)):
    raise InputError(
      f'sweep entry {spec.plain(entry)!r} must be a pair (path, values), such'
      " as ('batch_size', (64, 128)), or dicts {path: value}; change it."
    )
  path, values = entry
  if isinstance(path, str):
    return [{path: value} for value in values]
  for value in values:
    if not isinstance(value, tuple | list) or len(value) != len(path):
      raise InputError(
        f'sweep value {value!r} must have one part for each of the paths'
        f' {tuple(path)}.'
      )
  return [dict(zip(path, value)) for value in values]


def _is_pair(entry):
  """Whether a sweep entry has one path, or several, and values."""
  path, values = entry
  paths = (path,) if isinstance(path, str) else path
  return (
    isinstance(paths, tuple | list)
    and bool(paths)
    and all(isinstance(p, str) for p in paths)
    and isinstance(values, tuple | list)
  )


def _axis(entry, config):
  """Returns a sweep entry with all fields in each part; see `grid`."""
  parts = _fields(entry)
  paths = list(dict.fromkeys(itertools.chain(*parts)))
  return [
    tuple((p, part[p] if p in part else _get(config, p)) for p in paths)
    for part in parts
  ]


def _get(config, path):
  try:
    return copy.deepcopy(config_path.get_value(path, config))
  except (AttributeError, KeyError, IndexError, TypeError, ValueError) as e:
    raise _lacks(config, path) from e


def _set(config, path, value):
  try:
    config_path.set_value(path, config, value)
  except (AttributeError, KeyError, IndexError) as e:
    raise _lacks(config, path) from e
  except (TypeError, ValueError) as e:
    path, reason = (' '.join(text.split()) for text in (path, str(e)))
    raise InputError(
      f'config.sweep sets {path}={spec.plain(value)!r}, which does not fit;'
      f' change it ({reason}).'
    ) from e


def _lacks(config, path):
  return InputError(
    f'config.sweep names {path!r}, which the config lacks; its fields are:'
    f' {", ".join(sorted(config.keys()))}.'
  )
