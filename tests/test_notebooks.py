"""Notebooks are pairs of one source, and run at toy size."""

from pathlib import Path

import jupytext
import nbclient
import pytest

pytestmark = pytest.mark.e2e
NOTEBOOKS = sorted((Path(__file__).parent.parent / "experiments" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_at_toy_size_and_is_one_with_its_pair(path, tmp_path):
    notebook, pair = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in pair.cells], "run: jupytext --sync"
    toy = [cell for cell in notebook.cells if 'preset = "paper"' in cell.source]
    assert len(toy) == 1
    toy[0].source = toy[0].source.replace('preset = "paper"', 'preset = "smoke"')
    assert max(cell.source.count("\n") for cell in notebook.cells) < 25
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
