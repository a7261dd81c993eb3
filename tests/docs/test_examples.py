"""Every Python example of the README and of the pages runs, page by page, in a folder outside the checkout."""

import functools
import re
from pathlib import Path

import matplotlib as mpl
import pytest

import sublim_jax as sl
from sublim_jax import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if "```python" in page.read_text()]
QUICKSTART = ["--config=quickstart", "--config.preset=smoke", "--workdir=results/quickstart"]


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """An empty folder beside the kept experiments, and configs of toy size."""
    mpl.use("agg")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sl, "base_config", functools.partial(sl.base_config, "smoke"), raising=False)
    return tmp_path


@pytest.mark.e2e
@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
@pytest.mark.filterwarnings("default")
def test_examples_of_a_page_run(page, smoke, in_process):
    text, names = (ROOT / page).read_text("utf-8"), {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if page == "docs/quickstart.md":  # its first example reads the rows of the command above it
        assert main.main(["sublim_jax", *QUICKSTART]) == 0
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        if "def get_config" in block:
            (smoke / "rates.py").write_text(block)
            assert main.main(["sublim_jax", "--config=rates.py", "--config.preset=smoke"]) == 0
