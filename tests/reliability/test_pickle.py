"""No file is read by pickle, which runs code that a file names."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from helpers.idx_files import make_tiny, write

import sublim_jax
from sublim_jax import pretrained
from sublim_jax.audit import calibration
from sublim_jax.data import load_dataset
from sublim_jax.engine import params

PACKAGE = Path(sublim_jax.__file__).parent
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "yaml"}


def test_package_imports_no_pickle_and_calls_nothing_that_unpickles():
    """Neither pickle nor a package that reads by it; `numpy.load` with `allow_pickle` only False; no `eval`, `exec`."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & UNSAFE, path
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "pd.read_pickle", "pandas.read_pickle"), path
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("allow_pickle", "False") == "False", path


@pytest.fixture
def no_pickle(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a file was unpickled")

    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def test_readers_of_every_kind_of_file_work_without_pickle(no_pickle, tmp_path):
    load_dataset("kmnist", "idx", folder=str(write(tmp_path / "idx", make_tiny("kmnist"))), verify=False)
    tree = {"layer": {"kernel": np.ones((2, 3), np.float32)}}
    params.save_params(tree, tmp_path / "params.safetensors")
    assert (params.load_params(tmp_path / "params.safetensors")["layer"]["kernel"] == 1).all()
    (tmp_path / "kept").mkdir()
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "kept" / "rows.parquet")
    assert sublim_jax.load(tmp_path / "kept")["a"].tolist() == [1.0]
    assert calibration.load()


def test_load_model_works_without_pickle(no_pickle, tmp_path):
    for package in ("gguf", "tokenizers"):
        pytest.importorskip(package, reason=f"the package {package} is not installed")
    from helpers import checkpoints

    checkpoints.small_gguf(tmp_path / "small.gguf")
    model = pretrained.load_model(tmp_path / "small.gguf")
    path = checkpoints.folder(tmp_path / "m", checkpoints.LLAMA, checkpoints.llama_tensors(checkpoints.LLAMA))
    model.require_tokenizer()._inner.save(str(path / "tokenizer.json"))
    assert pretrained.load_model(path).params


def test_load_params_refuses_a_pickled_file_without_opening_it(no_pickle, tmp_path):
    """What PyTorch and NumPy write by pickle is refused by every reader of parameters and models."""
    from sublim_jax.core.errors import ConfigError

    np.savez(tmp_path / "objects.npz", a=np.array([{"a": 1}], object))
    (tmp_path / "m").mkdir()
    for name in ("objects.npz", "m/pytorch_model.bin", "m/model.safetensors"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(b"\x80\x05cos\nsystem\n(S'true'\ntR.")
    for read, path in (
        (params.load_params, tmp_path / "objects.npz"),
        (params.load_params, tmp_path / "m" / "pytorch_model.bin"),
        (pretrained.load_model, tmp_path / "m"),
        (pretrained.load_model, tmp_path / "m" / "pytorch_model.bin"),
    ):
        with pytest.raises(ConfigError):
            read(path)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
