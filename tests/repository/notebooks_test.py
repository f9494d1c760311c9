"""Every notebook of colab/ runs, is short, and is committed without outputs."""

import ast
import pathlib
import sys

from absl.testing import parameterized
from jupyter_client import kernelspec, manager
import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [(p,) for p in sorted((ROOT / 'colab').glob('*.ipynb'))]


def _read(path):
  notebook = nbformat.read(path, as_version=4)
  return notebook, [c for c in notebook.cells if c.cell_type == 'code']


class _ThisInterpreter(kernelspec.KernelSpecManager):
  """Kernels of the interpreter that runs the tests, whatever is installed."""

  def get_kernel_spec(self, kernel_name):
    command = [sys.executable, '-m', 'ipykernel_launcher']
    return kernelspec.KernelSpec(
      argv=[*command, '-f', '{connection_file}'],
      env={'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
      display_name=kernel_name,
      language='python',
    )


class NotebooksTest(parameterized.TestCase):
  def test_there_are_notebooks(self):
    self.assertNotEmpty(FILES)

  @parameterized.parameters(*FILES)
  def test_is_valid_and_stripped(self, path):
    notebook, code = _read(path)
    nbformat.validate(notebook)
    for cell in code:
      self.assertEmpty(cell.outputs, cell.source)
      self.assertIsNone(cell.execution_count, cell.source)

  @parameterized.parameters(*FILES)
  def test_is_short_and_public(self, path):
    _, code = _read(path)
    self.assertLessEqual(len(code), 12)
    sources = [c.source for c in code]
    self.assertEqual(sum('# @param' in s for s in sources), 1)
    self.assertEqual(sum('%pip' in s for s in sources), 1)
    for source in sources:
      if '%pip' in source:
        continue
      for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
          self.assertFalse(node.attr.startswith('_'), node.attr)

  @parameterized.parameters(*FILES)
  @pytest.mark.slow
  def test_runs(self, path):
    notebook, _ = _read(path)
    client = nbclient.NotebookClient(
      notebook,
      km=manager.AsyncKernelManager(
        kernel_name='python3', kernel_spec_manager=_ThisInterpreter()
      ),
      timeout=900,
      resources={'metadata': {'path': str(path.parent)}},
    )
    client.execute()  # raises what a cell raises
    outputs = [o for c in notebook.cells for o in c.get('outputs', ())]
    self.assertNotEmpty(
      [o for o in outputs if 'image/png' in o.get('data', {})]
    )
