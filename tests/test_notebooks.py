"""Notebooks are pairs of one source, and run at toy size."""

import re
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_of_a_notebook_are_finite_and_not_absurd(path):
    cells = [cell for cell in jupytext.read(path.with_suffix(".ipynb")).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [str(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs]
    numbers = re.findall(r"[-+]?\b\d+\.?\d*e[-+]?\d+\b", " ".join(texts))
    assert [number for number in numbers if abs(float(number)) > 1e12] == []
    assert re.findall(r"\b(?:nan|inf)\b", " ".join(texts), re.IGNORECASE) == []
