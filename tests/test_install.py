"""What a stranger gets: a wheel, used in an empty folder outside the checkout, and the site."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[1]
PAIR = """
import sublim_jax as sl
assert "{folder}" in sl.__file__, sl.__file__
data = sl.load_data("mnist", source="embedded", train_limit=1000, test_limit=300)
(condition,) = sl.build(sl.base_config("smoke", conditions="same", m=3), data)
pair = sl.train_pair(condition, data, sl.keys.root(0))
sl.save_params(pair.student, "student.safetensors")
print(sorted(sl.load_params("student.safetensors")))
"""


def python(*words, **options):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_wheel_is_used_in_an_empty_folder(tmp_path):
    """Other packages are those of this environment; `sublim_jax` is found in the wheel before any checkout."""
    python("-m", "pip", "wheel", "--no-deps", f"--wheel-dir={tmp_path}", str(ROOT))
    (wheel,) = tmp_path.glob("sublim_jax-*.whl")
    python("-m", "pip", "install", "--no-deps", f"--target={tmp_path / 'site'}", str(wheel))
    (empty := tmp_path / "empty").mkdir()
    here = {"cwd": empty, "env": {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "XLA_FLAGS": ""}}
    listed = python("-m", "sublim_jax", "--list", **here)
    assert all(f"{path.stem}: " in listed for path in ROOT.glob("configs/*.py"))
    assert "class_head" in python("-c", PAIR.format(folder=tmp_path / "site"), **here)
    assert [path.name for path in empty.iterdir()] == ["student.safetensors"]
    smoke = ("--config.preset=smoke", "--config.data.source=embedded", "--config.run.teachers=")
    shown = python("-m", "sublim_jax", "--config=quickstart", *smoke, **here)
    assert "random_class_head" in shown
    assert (empty / "results" / "quickstart-smoke" / "report.html").stat().st_size > 1000


def test_site_builds_without_a_warning(tmp_path):
    python("-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path / 'site'}", cwd=ROOT)
    assert (tmp_path / "site" / "index.html").exists()
