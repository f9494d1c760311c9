"""Runs a Flower app on this machine: a server and its clients, as processes.

  python examples/flower/federation.py examples/flower/horizontal runs/flower

They speak to 127.0.0.1 alone: no Ray, no telemetry, no packages installed. What
the server stores is in FOLDER/server, what clients store in FOLDER/clients, and
what each process said in FOLDER/logs.
"""

import argparse
from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time


def main() -> int:
  """Runs an app to its end; returns the exit code of `flwr run`."""
  parser = argparse.ArgumentParser(
    description='Runs a Flower app on this machine.'
  )
  parser.add_argument('app', type=pathlib.Path)
  parser.add_argument('folder', type=pathlib.Path, help='that is made')
  parser.add_argument('--clients', type=int, default=2)
  parser.add_argument('--timeout', type=float, default=600, help='seconds')
  values = parser.parse_args()
  folder = values.folder.resolve()
  (folder / 'logs').mkdir(parents=True)
  (folder / 'flower').mkdir()
  server, *clients = _free_addresses(1 + values.clients)
  (folder / 'flower' / 'config.toml').write_text(
    f'[superlink.here]\naddress = "{server}"\ninsecure = true\n'
  )
  config = f'folder="{folder / "server"}" num-clients={values.clients}'
  run = ['flwr', 'run', values.app, 'here', '--stream', '--run-config', config]
  with contextlib.ExitStack() as stack:
    command = _server_command(server)
    stack.enter_context(_process(command, folder, 'server'))
    _wait(server)
    for i, address in enumerate(clients):
      node = f'partition-id={i} num-partitions={len(clients)}'
      node += f' folder="{folder / "clients"}"'
      command = _client_command(server, address, node)
      stack.enter_context(_process(command, folder, f'client{i}'))
    done = subprocess.run(run, env=_environ(folder), timeout=values.timeout)
  return done.returncode


def _server_command(address) -> list[str]:
  return [
    *('flower-superlink', '--insecure', '--port', address.split(':')[1]),
    '--disable-runtime-dependency-installation',
  ]


def _client_command(server, address, node_config) -> list[str]:
  return [
    *('flower-supernode', '--insecure', '--superlink', server),
    *('--port', address.split(':')[1], '--node-config', node_config),
  ]


@contextlib.contextmanager
def _process(command, folder, name) -> Iterator[None]:
  """Runs a command, which ends with its children when the context does."""
  with open(folder / 'logs' / f'{name}.txt', 'w') as log:
    process = subprocess.Popen(
      command,
      stdout=log,
      stderr=log,
      env=_environ(folder),
      start_new_session=True,
    )
    try:
      yield
    finally:
      os.killpg(process.pid, signal.SIGTERM)
      process.wait()


def _environ(folder) -> dict[str, str]:
  """Returns an environment in which commands are those of this Python."""
  scripts = pathlib.Path(sys.executable).parent
  return {
    **os.environ,
    'PATH': f'{scripts}{os.pathsep}{os.environ["PATH"]}',
    'FLWR_HOME': str(folder / 'flower'),
    'FLWR_DISABLE_UPDATE_CHECK': '1',
    'FLWR_TELEMETRY_ENABLED': '0',
    'OMP_NUM_THREADS': '1',
  }


def _free_addresses(num) -> list[str]:
  """Finds ports of this machine that no one listens to."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
    for one in sockets:
      one.bind(('127.0.0.1', 0))
    return [f'127.0.0.1:{one.getsockname()[1]}' for one in sockets]


def _wait(address, seconds=120) -> None:
  """Waits until a server accepts connections."""
  host, port = address.split(':')
  for _ in range(10 * seconds):
    with contextlib.suppress(OSError):
      socket.create_connection((host, port)).close()
      return
    time.sleep(0.1)
  raise TimeoutError(f'{address} does not answer in {seconds} s; see logs/.')


if __name__ == '__main__':
  sys.exit(main())
