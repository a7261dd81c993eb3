"""The README and the pages of the site agree with the code and with each other."""

import ast
import re
from pathlib import Path

import pytest

from sublim_jax import results
from sublim_jax.config import base_config, grid, infomorphic_config
from sublim_jax.config import llm as llm_config
from sublim_jax.config import lm as lm_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/*/story.md")})
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def test_pages_readme_and_build_are_short_and_hold_their_commands():
    texts = [(ROOT / name).read_text("utf-8") for name in ("README.md", "BUILD.md")]
    for text in texts:
        assert len(text.splitlines()) <= 120
        assert "pip install -e . && python -m sublim_jax.main --config=configs/quickstart.py" in text
        assert "pip install -e '.[dev]' && pytest" in text


@pytest.mark.parametrize("name", NAMES)
def test_pages_link_to_files(name):
    page = ROOT / name
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [one for one in targets if "://" not in one and not (page.parent / one).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_pages_have_examples_of_15_lines(name):
    for code in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL):
        ast.parse(code)
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 15


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_pages_name_config_fields_that_exist(name):
    bases = base_config(), lm_config.base(), infomorphic_config(), llm_config.base()
    known = {name for config in bases for name in results.flatten(config.to_dict())}
    sections = {field.split(".")[0] for field in known}
    found = re.findall(r"(?:^|[`\s(-])config\.(\w+(?:\.\w+)*)", (ROOT / name).read_text("utf-8"))
    wrong = [one for one in found if one.split(".")[0] in sections and one not in known | sections]
    assert [one for one in wrong if not one.startswith(("arms.", "presets.", grid.OWN_NUMBERS))] == []


def test_pages_of_experiments_list_every_config():
    page = (ROOT / "docs/experiments.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {path.stem for path in ROOT.glob("configs/*.py")}
