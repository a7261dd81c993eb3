"""Redraw all kept experiments from their rows, and write one page with all of them.

    python -m experiments.gallery [--out=experiments/gallery.html]
    python -m experiments.gallery --keep=results/figure5 [--name=figure5]

The first writes figure.svg and figure.png into every folder with a rows.parquet, and one HTML file that needs no other
file. The page and the SVG files are built and not kept in git. The second copies the rows of a finished work directory
to experiments/NAME/rows.parquet, and its config and provenance to config.json. A folder may have a story.md (paragraphs
and tables), and a figure module of its own, compare.py.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markdown_it
import markupsafe
import numpy as np
import pandas as pd

from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.results import figures, headline, plots, report, summary, svg

HERE = Path(__file__).parent
DONE, BAD = 0, 2
PAPERS = (
    "Brockers et al. 2026: figures 2 to 6",
    "Cloud et al. 2026: image classifiers and Theorem 1",
    "Language models: the claims of Cloud et al. 2026 and of later work",
    "Own experiments on image classifiers",
)


def keep(workdir: str | Path, name: str = "", folder: Path = HERE) -> Path:
    """Copy the rows of a finished work directory, measurements as float32, and its config; returns the new folder.

    Raises `ConfigError` for a directory without rows or config, or whose last run has not finished.
    """
    rows, facts = results.load(workdir), results.metadata(workdir)
    ended = [run.get("status", "unknown") for run in facts["runs"]]
    if "done" not in ended:
        raise ConfigError(
            f"keep={workdir}: is not finished (status {', '.join(ended) or 'unknown'}); run it again first"
        )
    last = facts["runs"][ended.index("done")]
    final = summary.last(rows)
    labels = [name for name in summary.labels_of(final) if name != "animal"]  # of which each seed has its own
    seeds = final.groupby(labels, dropna=False)["seed"].nunique()
    asked = last.get("resolved", {}).get("seeds", int(seeds.max()))
    if (seeds != asked).any():
        raise ConfigError(f"keep={workdir}: has conditions with {seeds.min()} of {asked} seeds; run it again first")
    name = name or last.get("resolved", {}).get("name") or Path(workdir).resolve().name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"name={name!r}: must be the name of a folder, of letters, digits, '_', '-' and '.'")
    (folder / name).mkdir(parents=True, exist_ok=True)
    # What was computed in float64 is kept so: the law of theorem1 is in digits that float32 has not.
    kind = np.float64 if last.get("resolved", {}).get("study") == "theorem1" else np.float32
    measured = {column: kind for column in rows if "/" in str(column) and rows[column].dtype == np.float64}
    rows.astype(measured).to_parquet(folder / name / "rows.parquet", compression="zstd", index=False)
    (folder / name / "config.json").write_text(json.dumps(without_paths(facts), indent=1) + "\n")
    return folder / name


def without_paths(value: Any) -> Any:
    """The same value with every absolute path in its texts shortened to the last name."""
    if isinstance(value, dict):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return re.sub(r"(^|[\s='\"])[/~][^\s'\"]*/", r"\1", value) if isinstance(value, str) else value


def write(out: Path, folder: Path = HERE) -> Path:
    """Redraw every experiment of a folder and write the page; raises `ConfigError` if there is none."""
    kept = sorted(path.parent for path in folder.glob("*/rows.parquet"))
    if not kept:
        raise ConfigError(f"{folder}: holds no experiment (no */rows.parquet); keep one with --keep=WORKDIR")
    entries = sorted((entry(each, out.parent) for each in kept), key=lambda each: each["title"])
    papers = [(paper, [one for one in entries if one["paper"] == paper]) for paper in PAPERS]
    page = report.template("gallery.html.j2").render(papers=[pair for pair in papers if pair[1]])
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, page.encode())
    return out


def _paper(name: str) -> str:
    """The heading of the contents under which an experiment stands."""
    starts = {"figure": 0, "cloud": 1, "theorem1": 1, "lm_": 2}
    return PAPERS[next((place for start, place in starts.items() if name.startswith(start)), 3)]


def entry(folder: Path, page: Path | None = None) -> dict[str, Any]:
    """Redraw one experiment, and return the values of its section of a page in the folder `page`."""
    facts = results.metadata(folder) if (folder / "config.json").exists() else {"config": {}, "runs": []}
    module = _module(folder, facts)
    rows = _rows(folder / "rows.parquet")
    for kind, content in plots.images(lambda: module.draw(rows)).items():
        replace_file(folder / f"figure.{kind}", content)
    frame = figures.table(module, rows)
    last = facts["runs"][-1] if facts["runs"] else {}
    story = folder / "story.md"
    return {
        "name": folder.name,
        "title": figures.title(module),
        "paper": _paper(folder.name),
        "headline": headline.headline(rows, module),
        "drawing": svg.drawing(
            lambda: module.draw(rows), report.safe_id(folder.name), headline.alternative_text(rows, module)
        ),
        "links": _links(folder, page or folder),
        "caption": module.caption(rows),
        "story": markupsafe.Markup(rendered(story.read_text())) if story.exists() else "",
        "columns": [str(name) for name in frame.columns],
        "cells": frame.values.tolist(),
        "command": last.get("command", ""),
        "facts": provenance(facts, rows),
    }


def _links(folder: Path, page: Path) -> list[tuple[str, str]]:
    """Texts and addresses of an experiment's files, from the folder of the page."""
    here = os.path.relpath(folder.resolve(), page.resolve())
    files = report.links(folder, "", "rows.parquet", "config.json", "story.md", "figure.svg", "figure.png")
    return [(text, Path(os.path.normpath(Path(here) / address)).as_posix()) for text, address in files]


def _module(folder: Path, facts: dict[str, Any]) -> Any:
    """The figure of an experiment: its own compare.py, the figure of its name, or the one that its config names."""
    own = folder / "compare.py"
    if own.exists():
        spec = importlib.util.spec_from_file_location(f"{folder.name}_compare", own)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if folder.name in figures.names():
            vars(module)["title"] = figures.title(figures.pick(folder.name))
        return module
    named = facts["runs"][-1].get("resolved", {}).get("figure", "") if facts["runs"] else ""
    return figures.pick(folder.name if folder.name in figures.names() or not named else named)


def _rows(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error


def rendered(text: str) -> str:
    """Markdown as HTML: paragraphs, lists, tables; neither HTML, images nor links, since the page is to stand alone."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    page = parser.disable(["link", "image", "autolink", "reference"]).render(text)
    box = '<div class="scroll" tabindex="0" role="region" aria-label="Table of the story"><table>'
    return page.replace("<table>", box).replace("</table>", "</table></div>")


def provenance(facts: dict[str, Any], rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Seeds, versions, machine and times of an experiment, as lines of a table."""
    lines = [("rows", f"{len(rows):,}"), ("seeds", str(rows["seed"].nunique()))]
    if not facts["runs"]:
        return lines
    made = facts["runs"][-1].get("provenance", {})
    versions = ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items())
    texts = {"commit": made.get("commit", ""), "machine": made.get("machine", ""), "versions": versions}
    texts["devices"] = ", ".join(facts["runs"][-1].get("devices", []))
    return [*lines, *((name, value) for name, value in texts.items() if value), *report.times(facts)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; every error is one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="WORKDIR", help="copy the rows of this work folder")
    parser.add_argument("--name", default="", help="of the folder they are copied to; default: the config's name")
    parser.add_argument("--folder", type=Path, default=HERE, help="where experiments are kept")
    parser.add_argument("--out", type=Path, help="the page; default gallery.html in that folder")
    options = parser.parse_args(argv)
    try:
        if options.keep is not None:
            print(f"kept: {keep(options.keep, options.name, options.folder)}")
        else:
            print(f"gallery: {write(options.out or options.folder / 'gallery.html', options.folder)}")
        return DONE
    except (ConfigError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD


if __name__ == "__main__":
    sys.exit(main())
