"""The gallery: work folders are kept without what is private to a machine, and the page needs no other file."""

import html
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.rows import keep, rows_of, workdir_of

from sublim_jax import results
from sublim_jax.core.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import gallery

    return gallery


def test_keep_copies_all_rows_as_float32_and_the_facts_without_paths(gallery, tmp_path):
    rows = rows_of(share=0.1)
    where = gallery.keep(workdir_of(tmp_path / "work", rows, name="figure5"), folder=tmp_path / "kept")
    assert where == tmp_path / "kept" / "figure5"
    found = pd.read_parquet(where / "rows.parquet")
    assert list(found.columns) == list(rows.columns) and found["at/cka"].dtype == np.float32
    assert found["share"].dtype == np.float64, "a label must compare equal to the number the config has"
    np.testing.assert_allclose(found["at/cka"], rows["at/cka"], atol=1e-7)
    text = (where / "config.json").read_text()
    assert "/home" not in text and "--workdir=toy" in text
    assert results.metadata(where)["runs"][0]["provenance"]["commit"] == "abc"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/me/data", "data"),
        ("x --workdir=/a/b/c --data='/d e/f'", "x --workdir=c --data='/d e/f'"),
        ("~/results/one", "one"),
        ("results/figure5", "results/figure5"),
        ("https://example.org/a", "https://example.org/a"),
        ("m = 3/4", "m = 3/4"),
    ],
)
def test_without_paths_drops_folders_of_absolute_paths(gallery, text, told):
    assert gallery.without_paths({"a": [text, 3]}) == {"a": [told, 3]}


@pytest.mark.e2e
def test_write_holds_every_experiment_and_needs_no_other_file(gallery, tmp_path):
    story = (
        "First **line**.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[link](http://x.org) ![i](http://x.org/i.png) <script>"
    )
    keep(tmp_path / "cloud", rows_of(sees="aux"), story_md=story)
    gallery.keep(workdir_of(tmp_path / "work", rows_of()), "figure2", tmp_path)
    out = gallery.write(tmp_path / "page.html", tmp_path)
    page = out.read_text()
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert len({address for address in addresses if address.startswith("#")} & {"#cloud", "#figure2"}) == 2
    files = [address for address in addresses if not address.startswith("#")]
    assert files and all((tmp_path / address).exists() for address in files)
    assert "<script" not in page and "<link" not in page and "<img" not in page and not re.search(r"url\((?!#)", page)
    assert "<strong>line</strong>" in page and "<td>1</td>" in page
    assert page.index("Figure 2: which layer") < page.index("Cloud et al. 2026: six groups")
    assert "commit</th><td>abc" in page and "61.5 s" in page and "--workdir=toy" in page
    assert "over 3 seeds" in html.unescape(page) and out.stat().st_size < 400_000
    for name in ("cloud", "figure2"):
        assert (tmp_path / name / "figure.svg").exists() and (tmp_path / name / "figure.png").exists()


@pytest.mark.e2e
def test_entry_takes_the_figure_of_the_folder_its_name_or_its_config(gallery, tmp_path):
    own = '"""Mine."""\nfrom sublim_jax.results.figures import pick\n\ndraw = pick("transfer").draw\n'
    own += 'def caption(rows):\n    return "By hand."\n'
    keep(tmp_path / "mine", rows_of(), compare_py=own)
    gallery.keep(workdir_of(tmp_path / "work", rows_of(), figure="cloud"), "cloud_again", tmp_path)
    gallery.keep(workdir_of(tmp_path / "work", rows_of(), figure="cloud"), "figure2", tmp_path)
    assert gallery.entry(tmp_path / "mine")["caption"] == "By hand."
    assert gallery.entry(tmp_path / "mine")["title"] == "Mine"
    assert gallery.entry(tmp_path / "cloud_again")["title"].startswith("Cloud")
    assert gallery.entry(tmp_path / "figure2")["title"].startswith("Figure 2")
    with pytest.raises(ConfigError, match="'what' is none of activation"):
        gallery.entry(keep(tmp_path / "what", rows_of()))


def test_draw_of_the_kept_figure_2_has_its_crosses(gallery):
    module = gallery._module(ROOT / "experiments" / "figure2", {"runs": []})
    rows = pd.read_parquet(ROOT / "experiments" / "figure2" / "rows.parquet")
    marks = [line.get_marker() for ax in module.draw(rows).axes for line in ax.lines]
    assert marks.count("x") == 6 and marks.count("D") == 1 + 3, "crosses, then our fifth condition and the authors'"
    assert "Crosses" in module.caption(rows) and module.title.startswith("Figure 2")


def test_main_refuses_in_one_line_with_exit_code_2(gallery, tmp_path, capsys):
    running = workdir_of(tmp_path / "running", rows_of(), status="running")
    done = workdir_of(tmp_path / "done", rows_of())
    broken = keep(tmp_path / "broken" / "cloud", rows_of())
    (broken / "rows.parquet").write_text("no")
    (empty := tmp_path / "empty").mkdir()
    for words, said in {
        (f"--folder={empty}",): "holds no experiment",
        (f"--keep={empty}", f"--folder={empty}"): "holds no rows",
        (f"--keep={running}", f"--folder={empty}"): "is not finished (status running)",
        (f"--keep={done}", "--name=../up", f"--folder={empty}"): "must be the name of a folder",
        (f"--folder={broken.parent}",): "cannot be read",
    }.items():
        assert gallery.main(words) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert list(empty.iterdir()) == []


@pytest.mark.e2e
def test_main_as_a_command_imports_no_jax(tmp_path):
    keep(tmp_path / "transfer", rows_of())
    words = [sys.executable, "-m", "experiments.gallery", f"--folder={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "gallery.html").exists(), done.stderr
    code = "import sys; from experiments import gallery; assert 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert done.stdout == f"gallery: {tmp_path / 'gallery.html'}\n"
