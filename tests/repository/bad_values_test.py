"""Bad values in configs end in one line, or prepare as what they still are.

Nothing runs here: `experiments.prepare` is what a run does before its first
point. By default it stops at the first trace, which takes most of its time.
"""

import collections
import contextlib
import importlib
import pathlib
from unittest import mock
import zlib

import jax
import pytest

from labelleak import attacks, compilation, experiments, registry
from labelleak.base import InputError
from tests.repository import bad_values

ROOT = pathlib.Path(__file__).resolve().parents[2]
_SHARED = ('common', 'datasets')
NAMES = sorted(
  p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem not in _SHARED
)
EXPERIMENTS = sorted(
  name.removesuffix('.experiment') for name in registry.names('experiments')
)
# A config of each kind of FL, and of what runs Tampering.
_KINDS = dict(llbg_cifar='horizontal', bli='vertical', backdoor='vertical')
_EMPTY = collections.Counter()
_SOME, _MANY = 10, 60  # inputs of each config; together with files, 1500


class _Traced(BaseException):
  """Everything before the first trace has passed."""


def _stop(*args, **kwargs):
  raise _Traced


@contextlib.contextmanager
def _no_traces():
  """Stops where a model would be traced or initialised."""
  with (
    mock.patch.object(jax, 'eval_shape', _stop),
    mock.patch.object(compilation, 'jit_once', lambda function: _stop),
  ):
    yield


@pytest.fixture(autouse=True)
def root(monkeypatch):
  monkeypatch.chdir(ROOT)  # paths of shared data are relative to it


def _config(name):
  module = importlib.import_module(f'configs.{name}')
  return module.get_config('runlocal')


def _seed(name):
  """Returns a seed that stays as it is when configs are added."""
  return zlib.crc32(name.encode())


def _prepare(config, what, *, traced=False):
  """Returns the refusal of a config, None where it prepares."""
  with contextlib.nullcontext() if traced else _no_traces():
    return _attempt(lambda: experiments.prepare(config), what)


def _attempt(call, what):
  """Returns how a call is refused, None where it is not."""
  try:
    call()
  except _Traced:
    return None
  except InputError as e:
    text = str(e)
    assert text and '\n' not in text and text.endswith('.'), (what, text)
    assert len(text.split()) >= 4, (what, text)
    return text
  except Exception as e:
    raise AssertionError(f'{what}: {type(e).__name__}: {e}') from e
  return None


def _count(name, num, *, traced):
  """Prepares bad values in a config; counts what became of them."""
  counts = collections.Counter()
  for draw in bad_values.draw(_config(name), num, seed=_seed(name)):
    what = f'{name}: {draw.where}={draw.value!r}'
    refusal = _prepare(draw.config, what, traced=traced)
    counts['refused' if refusal else 'accepted'] += 1
  return counts


def test_some_bad_values():
  counts = sum((_count(n, _SOME, traced=False) for n in NAMES), start=_EMPTY)
  assert counts.total() == _SOME * len(NAMES)
  assert counts['refused'] > 0.7 * counts.total()


@pytest.mark.slow
def test_many_bad_values(capsys):
  """Traces what is accepted, and says how many there were."""
  counts = sum((_count(n, _MANY, traced=True) for n in NAMES), start=_EMPTY)
  with capsys.disabled():
    print(
      f'\n{counts.total()} bad values in configs, {counts["refused"]} refused,'
      f' {counts["accepted"]} accepted, 0 tracebacks'
    )
  assert counts.total() >= 1100
  assert counts['refused'] > 0.7 * counts.total()


def _count_arguments(package, every):
  """Builds constructors with bad arguments; counts what became of them."""
  counts = collections.Counter()
  drawn = list(bad_values.draw_arguments(package))
  for name, arguments in drawn[::every]:
    what = f'{name}: {arguments}'
    refusal = _attempt(
      lambda: registry.load(package, name, **arguments),  # noqa: B023
      what,
    )
    counts['refused' if refusal else 'accepted'] += 1
  return counts


@pytest.mark.parametrize('package', ('attacks', 'data', 'defenses', 'models'))
def test_some_bad_arguments_of_constructors(package):
  counts = _count_arguments(package, 11)
  assert counts['refused'] > 0.5 * counts.total() > 20


@pytest.mark.slow
@pytest.mark.parametrize('package', ('attacks', 'data', 'defenses', 'models'))
def test_all_bad_arguments_of_constructors(package, capsys):
  counts = _count_arguments(package, 1)
  with capsys.disabled():
    print(f'\n{counts.total()} arguments in {package}: {dict(counts)}')
  assert counts['refused'] > 0.5 * counts.total() > 300


def test_a_fault_of_ours_is_no_refusal():
  """The harness can fail."""
  broken = mock.patch.object(experiments.sweep, 'grid', side_effect=TypeError)
  with broken, pytest.raises(AssertionError, match='bli: TypeError'):
    _prepare(_config('bli'), 'bli')


@pytest.mark.parametrize('name', NAMES)
def test_another_experiment_names_what_the_config_lacks(name):
  config = _config(name)
  config.sweep = ()
  own = config.experiment
  for other in EXPERIMENTS:
    config.experiment = other
    refusal = _prepare(config, f'{name}: {other}')
    if other.split('.')[0] != own.split('.')[0]:
      assert ' lacks ' in refusal, (other, refusal)
      assert refusal.startswith(other), (other, refusal)
      assert f'of {own}' not in refusal


@pytest.mark.parametrize('name', _KINDS)
def test_an_attack_of_the_other_kind_of_federated_learning(name):
  config = _config(name)
  config.sweep, here = (), _KINDS[name]
  families = dict.fromkeys(('counts', 'reconstruction'), 'horizontal')
  for attack in attacks.names():
    kind = families.get(attack.split('.')[0], 'vertical')
    needs = dict(num=1) if attack == 'decoding.complements' else {}
    config.attacks = (dict(name=attack, **needs),)
    refusal = _prepare(config, f'{name}: {attack}')
    says = f'{attack} is for {kind} FL, and this is {here}; use one of {here}'
    assert (kind != here) == (says in (refusal or '')), refusal
