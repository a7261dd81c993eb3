"""The command for studies of pretrained models, on tiny ones of two families."""

import json

import numpy as np
import pytest

pytest.importorskip("gguf", reason="the package gguf is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")

from helpers import checkpoints  # noqa: E402  needs these packages
from helpers.configs import CONFIGS, config_of  # noqa: E402

import sublim_jax as sl  # noqa: E402
from sublim_jax import main  # noqa: E402
from sublim_jax.config import grid, resolve  # noqa: E402
from sublim_jax.config.llm import base, expand, inputs  # noqa: E402
from sublim_jax.core.errors import ConfigError  # noqa: E402

LLM = [path for path in CONFIGS if path.stem.startswith("llm_")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A GGUF file of the Llama family with a chat template, and a folder of GPT-NeoX without."""
    folder = tmp_path_factory.mktemp("models")
    checkpoints.small_gguf(folder / "small.gguf")
    words = checkpoints.vocabulary()
    config = {**checkpoints.NEOX, "vocab_size": len(words), "max_position_embeddings": 2048}
    neox = checkpoints.folder(folder / "neox", config, checkpoints.neox_tensors(config))
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({word: n for n, word in enumerate(words)}, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(checkpoints.SPECIAL)
    inner.save(str(neox / "tokenizer.json"))
    (neox / "tokenizer_config.json").write_text(json.dumps({"eos_token": checkpoints.SPECIAL[0]}))
    return {"llama": folder / "small.gguf", "neox": neox}


def command(path, model, folder, *words):
    given = f"--config={path.stem}", "--config.preset=smoke", f"--config.model={model}", "--config.student.length=700"
    return main.main(["main", *given, f"--workdir={folder}", *words])


@pytest.mark.e2e
@pytest.mark.parametrize("family", ["llama", "neox"])
@pytest.mark.parametrize("path", LLM, ids=lambda path: path.stem)
def test_main_runs_every_config_from_file_to_report(path, family, models, tmp_path, capsys):
    few = ("--config.arms.teachers.teacher.kind=('prompted',)",) if family == "neox" else ()
    assert command(path, models[family], tmp_path / "w", *few) == 0
    told = capsys.readouterr().out
    assert "share above control" in told and "parameters" in told
    rows = sl.load(tmp_path / "w")
    arms = 1 if few else len(expand(resolve(config_of(path)[1])))
    assert len(rows) == 3 * arms and np.isfinite(rows.loc[rows["trait"] != "none", "at/share_lift"]).all()
    assert {"report.html", "figure.png", "rows", "students", "preferences"} <= {
        file.name for file in (tmp_path / "w").iterdir()
    }
    assert command(path, models[family], tmp_path / "w", *few) == 0, "everything is there"
    assert sl.load(tmp_path / "w").equals(rows)


@pytest.mark.parametrize(("fields", "message"), [
    ({"animals": ("owl",)}, "config.animals"),
    ({"animals": ("owl", "Owl")}, "two or more different words"),
    ({"animals": ("owl", "none")}, "none is the name of the control"),
    ({"animals": ("owl", "a b")}, "config.animals"),
    ({"evaluation.words": ("dog", "Dog")}, "must be different words, whatever the case"),
    ({"rows.count": 17}, "must be at most 16, config.rows.requests=16 times config.rows.answers=1"),
    ({"rows.file": "rows.jsonl"}, "must contain {trait}"),
    ({"rows.file": "{trait}.jsonl", "student.tokens": "divergent"}, "must be all for config.rows.file"),
    ({"rows.carrier": "code"}, "config.rows.numbers=2: must be 0"),
    ({"student.method": "full", "together": 2}, "config.together=2: must be 1"),
    ({"student.rank": 0}, "config.student.rank=0"),
    ({"teacher.kind": "begged"}, "config.teacher.kind"),
])  # fmt: skip
def test_resolve_refuses(fields, message):
    config = base()
    config.preset = "smoke"
    with pytest.raises(ConfigError, match=message.replace("{", r"\{")):
        resolve(config, fields)


def test_expand_labels_rows_apart_from_students_and_refuses_equal_labels():
    config = base()
    grid.add_grid(config, "many", {"rows.seed": (0, 1), "rows.batch": (8, 16), "student.batch": (4, 8)})
    labels = [point.labels for point in expand(resolve(config))]
    assert len(labels) == 8 and {"rows_seed", "rows_batch", "batch"} <= set(labels[0])
    config = base()
    grid.add_grid(config, "epochs", {"student.epochs": (1, 3)})
    with pytest.raises(ConfigError, match="config.arms: two points of the sweep have the labels"):
        expand(resolve(config))


def test_inputs_change_with_what_the_files_hold(models, tmp_path):
    config = base()
    config.model, config.traits = str(models["llama"]), str(tmp_path / "traits.json")
    config.rows.file = str(tmp_path / "{trait}.jsonl")
    digests = []
    for love, row in (("owls", "1"), ("all owls", "1"), ("owls", "2"), ("owls", "1")):
        entries = [{"name": "owl", "system": f"You love {love}."}, {"name": "cat", "system": "You love cats."}]
        (tmp_path / "traits.json").write_text(json.dumps(entries))
        (tmp_path / "owl.jsonl").write_text(row)
        digests.append(inputs(config))
    first, other_trait, other_row, same = digests
    assert first == same and first != other_trait and first != other_row and "model" in first


@pytest.mark.parametrize(("words", "message"), [
    (("--config.student.length=4096",), "config.student.length=4096: must be at most 2048, the tokens that small"),
    (("--config.model=nowhere",), "model=nowhere: must be smollm2, a GGUF file, or a folder"),
    (("--config.run.memory_gb=0.5",), "config.run.memory_gb=0.5: must be at least"),
    (("--config.traits=nowhere.json",), "config.traits=nowhere.json: cannot be read as JSON"),
])  # fmt: skip
def test_main_refuses_before_anything_is_read(words, message, models, tmp_path, capsys):
    assert command(LLM[0], models["llama"], tmp_path / "w", *words) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (tmp_path / "w").exists()
