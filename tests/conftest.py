"""Strictness for every test: no silent broadcasting, our warnings are errors.

Four CPU devices, so that sharded and single-device results can be compared; and
a compilation cache in the user's cache directory, so that only the first run
pays for compiling the larger models. Compiling takes most of the time: XLA's
older emitters and fewer of LLVM's passes shorten it.
"""

import os
import pathlib

from absl import flags
import jax
import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CACHE = os.environ.get('XDG_CACHE_HOME', '~/.cache')

_HASTE = (
  '--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1'
)
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_HASTE}'
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update(
  'jax_compilation_cache_dir',
  os.path.join(os.path.expanduser(_CACHE), 'labelleak', 'jax'),
)
# Most tests compile many small programs, which the default would not keep.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def pytest_configure(config):
  flags.FLAGS.mark_as_parsed()  # as absltest.main() would, for create_tempdir
  # A warning counts as ours when it points at our code (stacklevel included).
  config.addinivalue_line('filterwarnings', r'error:::labelleak(\..*)?$')


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """Drops a file's programs: each maps memory, and Linux allows 65530 maps.

  All of them together pass that, and XLA then dies of a segmentation fault.
  """
  yield
  jax.clear_caches()


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The directory of sample data and papers that does not ship with the code.

  LABELLEAK_SHARED names it, `../shared` beside the repository is the default.
  """
  path = pathlib.Path(
    os.environ.get('LABELLEAK_SHARED', _ROOT.parent / 'shared')
  )
  if not path.is_dir():
    pytest.skip(f'no shared data at {path}; set LABELLEAK_SHARED')
  return path
