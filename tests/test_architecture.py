"""The floors: imports only go down, pure floors touch no file, clock or log."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sublim_jax"
FLOORS = [
    {"errors", "types", "keys", "trees"},
    {"streams", "nets", "inits", "losses", "similarity", "theory", "answers", "guards", "optimizers"},
    {"train", "metrics", "predictions", "coverage"},
    {"population", "first_steps"},
    {
        *("idx", "data", "sweep", "units", "records", "checkpoint", "progress", "summary", "programs", "cluster"),
        *("shelf", "agreement", "calibration", "auditing", "lm"),
    },
    {"run", "theorem1", "language"},
    {
        *(
            "allowed",
            "arms",
            "config",
            "lm_config",
            "phases",
            "figures",
            "plots",
            "report",
            "prepare_tfds",
            "command",
            "main",
        ),
        *("audit", "personas"),
    },
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.parent.name != "assets")


def name_of(path):
    return path.parts[0].removesuffix(".py")


def imports_of(path):
    """Full dotted names of everything a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path):
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("sublim_jax.")}


def imports_any(path, *packages):
    return {name for name in imports_of(path) if name.split(".")[0] in packages}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_file_is_on_a_floor_and_not_too_long(path):
    name = name_of(path)
    assert name in FLOOR or name == "__init__"
    assert name != "utils"
    assert len((PACKAGE / path).read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) in FLOOR], ids=str)
def test_imports_go_down(path):
    name = name_of(path)
    for other in ours(path) - {name}:
        assert FLOOR[other] <= FLOOR[name], f"{name} (floor {FLOOR[name]}) imports {other} (floor {FLOOR[other]})"
    if FLOOR[name] == 1:
        assert not {other for other in ours(path) - {name} if FLOOR[other] == 1}, "floor 1 files stand alone"
    if FLOOR[name] <= 3:
        banned = imports_any(path, "os", "pathlib", "io", "time", "datetime", "logging", "tempfile", "absl", "random")
        assert not banned, "floors 0-3 touch no file, clock or log"
        assert "open(" not in (PACKAGE / path).read_text() and "print(" not in (PACKAGE / path).read_text()
    if FLOOR[name] <= 5:
        assert not imports_any(path, "ml_collections") and "absl.flags" not in imports_of(path)
    assert "main" not in ours(path) or name == "main"


PURE = ("world", "data", "divergence", "speak", "measures", "arms", "training", "teachers")


def test_language_below_the_shelf_touches_no_file():
    for name in PURE:
        path = Path("lm") / f"{name}.py"
        assert not imports_any(path, "os", "pathlib", "io", "time", "datetime", "logging", "tempfile", "absl", "random")
        assert "open(" not in (PACKAGE / path).read_text() and "print(" not in (PACKAGE / path).read_text()


def test_named_bans():
    for name in ("losses", "similarity"):
        assert not imports_any(Path(f"{name}.py"), "flax")
    assert not imports_any(Path("similarity.py"), "optax")
    for path in (one for one in MODULES if one.parts[0] == "theory"):  # a prediction may not look at the outcome
        assert not imports_any(path, "flax", "optax"), path
        assert ours(path) <= {"theory", "types", "keys", "errors", "trees"}, path
    assert not ours(Path("population.py")) & {"sweep", "records", "config", "run"}
    for name in ("plots", "report", "summary", "records", "errors", "agreement", "calibration"):
        assert not imports_any(Path(f"{name}.py"), "jax", "flax", "optax", "orbax")
        assert not ours(Path(f"{name}.py")) - {"agreement", "figures", "plots", "records", "summary", "errors"}, name
    for path in (one for one in MODULES if one.parts[0] == "figures"):
        assert not imports_any(path, "jax", "flax", "optax", "orbax")
        assert ours(path) <= {"figures", "plots", "summary", "errors"}, path
