"""What a move of modules could break without a test of results noticing."""

import ast
import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sublim_jax
from sublim_jax.engine import plan as plan_module
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.plan import make_plan
from sublim_jax.results.provenance import provenance
from sublim_jax.training import losses, streams

PACKAGE = Path(sublim_jax.__file__).parent


def test_functions_of_every_subpackage_are_ours(tiny):
    """Twins (conditions that differ only in a class head that no gradient reaches) are trained once, not one by one."""
    assert plan_module._ours(losses.mse) and plan_module._ours(streams.Perlin(4)) and not plan_module._ours(np.mean)
    group = make_plan(tiny(conditions=("same", "random_class_head"), m=(3,)), (28, 28)).groups[0]
    assert group.untrained_layers == ("class_head",) and group.unique_knobs.size == 1 and group.knobs.size == 2
    assert plan_module._named(streams.Perlin(4)) == "Perlin(resolution=4)" and plan_module._named(losses.mse) == "mse"


def test_the_commit_is_known_inside_a_checkout():
    try:
        command = ("git", "rev-parse", "HEAD")
        head = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no checkout")
    assert provenance()["commit"].removesuffix("+dirty") == head


def test_kept_teachers_belong_to_the_code_of_every_module_that_trains(monkeypatch):
    """A byte changed in any file that decides a teacher's numbers gives another digest."""
    read, before = Path.read_bytes, teacher_cache.source_digest()
    for stem in (
        "keys",
        "trees",
        "streams",
        "inits",
        "losses",
        "step",
        "population",
        "mlp",
        "cnn",
        "heads",
        "types",
        "decoder",
    ):
        assert len([path for path in PACKAGE.rglob(f"{stem}.py") if "theory" not in path.parts]) == 1, stem
        monkeypatch.setattr(Path, "read_bytes", lambda path, stem=stem: read(path) + b" " * (path.stem == stem))
        assert teacher_cache.source_digest() != before, stem
    monkeypatch.setattr(Path, "read_bytes", read)
    assert teacher_cache.source_digest() == before


def test_commands_are_printed_by_names_that_can_be_run():
    """Every module that a command is said to go on with can be given to `python -m`."""
    named = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("resume_command", "run_command"):
                named.add(ast.literal_eval(node.args[-1]) if isinstance(node.args[-1], ast.Constant) else None)
    assert named >= {"main", "audit", "pretrained"}
    for name in named - {None}:
        spec = importlib.util.find_spec(f"sublim_jax.{name}")
        assert spec is not None
        if spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"sublim_jax.{name}.__main__")
        assert spec is not None and 'if __name__ == "__main__":' in Path(spec.origin).read_text()
