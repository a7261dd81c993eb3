"""Notebooks are pairs of one source, install the package without replacing Colab's JAX, and run at toy size."""

import importlib.util
import re
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import jupytext
import nbclient
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "experiments" / "notebooks").glob("*.py"))


@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_at_toy_size_and_is_one_with_its_pair(path, tmp_path):
    notebook, pair = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in pair.cells], "run: jupytext --sync"
    toy = [cell for cell in notebook.cells if 'preset = "paper"' in cell.source]
    assert len(toy) == 1
    toy[0].source = toy[0].source.replace('preset = "paper"', 'preset = "smoke"')
    if '"smollm2"' in toy[0].source:
        checkpoints = pytest.importorskip("helpers.checkpoints", reason="the package gguf is not installed")
        checkpoints.small_gguf(tmp_path / "small.gguf")
        toy[0].source = toy[0].source.replace('"smollm2"', '"small.gguf"')
    assert max(cell.source.count("\n") for cell in notebook.cells) < 25
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_of_a_notebook_are_finite_and_not_absurd(path):
    cells = [cell for cell in jupytext.read(path.with_suffix(".ipynb")).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [str(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs]
    numbers = re.findall(r"[-+]?\b\d+\.?\d*e[-+]?\d+\b", " ".join(texts))
    assert [number for number in numbers if abs(float(number)) > 1e12] == []
    assert re.findall(r"\b(?:nan|inf)\b", " ".join(texts), re.IGNORECASE) == []


@pytest.mark.parametrize("colab", [True, False])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_code_cell_of_a_notebook_installs_the_package_and_leaves_colabs_jax_alone(path, colab, monkeypatch):
    first, pair = (
        next(cell.source for cell in jupytext.read(file).cells if cell.cell_type == "code")
        for file in (path, path.with_suffix(".ipynb"))
    )
    assert first == pair, "run: jupytext --sync"
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: commands.append(words[2:]))
    exec(first, {})
    assert commands == [], "nothing where the package is there"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(first, {})
    if not colab:
        assert commands == [["pip", "install", "-q", "../.."]]
        return
    package, others = commands
    assert package == ["pip", "install", "-q", "--no-deps", "../.."]
    names = {re.match(r"[\w.-]+", need)[0] for need in others[3:]}
    kept = {"jax", "jaxlib", "flax", "optax", "numpy"}
    wanted = {re.match(r"[\w.-]+", need)[0] for need in metadata.requires("sublim_jax") or [] if "extra ==" not in need}
    assert "jaxtyping" in names and names == wanted - kept and kept < wanted
