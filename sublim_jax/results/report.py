"""One self-contained HTML file for a work directory: command, results, config and provenance. No JAX."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from sublim_jax.core.files import replace_file
from sublim_jax.results import figures, plots, summary, svg, theory_table
from sublim_jax.results.headline import alternative_text, headline
from sublim_jax.results.rows import load
from sublim_jax.results.stored_config import metadata


def write(workdir: str | Path, figure: str = "transfer") -> Path:
    """Draw figure.svg and figure.png from the rows of a work directory, write report.html and return its path.

    Args:
        workdir: The work directory.
        figure: The name of the figure, one of `figures.names()`.

    Raises:
        ConfigError: The figure is unknown, or the directory has no rows.
    """
    workdir, drawn = Path(workdir), figures.pick(figure)
    rows, facts = load(workdir), metadata(workdir)
    files = plots.images(lambda: drawn.draw(rows))
    for kind, content in files.items():
        replace_file(workdir / f"figure.{kind}", content)
    page = _page(workdir, facts, rows, drawn)
    replace_file(workdir / "report.html", page.encode())
    return workdir / "report.html"


def template(name: str) -> jinja2.Template:
    """A Jinja template of `templates`; values are escaped, and a missing value is an error."""
    loader = jinja2.PackageLoader("sublim_jax.results", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)


_ROOT = Path(__file__).parents[2]  # of a checkout
_DOCUMENTS = {"Theory": "docs/theory.md", "Story of the kept experiment": "experiments/{name}/story.md"}
_FILES = {
    **{"rows": "Rows (Parquet)", "rows.parquet": "Rows (Parquet)", "config.json": "Config (JSON)"},
    **{"story.md": "Story", "figure.svg": "Figure (SVG)", "figure.png": "Figure (PNG)"},
}


def links(folder: Path, name: str, *files: str) -> list[tuple[str, str]]:
    """Texts and relative addresses of files that are there.

    Args:
        folder: Where the page is.
        name: Name of the experiment, whose story is linked.
        *files: Paths from `folder`.
    """
    own = [(_FILES.get(file, file), file) for file in files if (folder / file).exists()]
    documents = [(text, _ROOT / file.format(name=name)) for text, file in _DOCUMENTS.items()]
    return own + [
        (text, Path(os.path.relpath(path, folder.resolve())).as_posix()) for text, path in documents if path.exists()
    ]


def safe_id(name: str) -> str:
    """A name as an identifier of HTML and CSS."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", f"x{name}" if not name[:1].isalpha() else name)


def times(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Seconds by kind of work, net-steps per second and compiled programs over all runs, as lines of a table."""
    runs = [run for run in facts["runs"] if "seconds" in run]  # a killed run left none
    names = dict.fromkeys(name for run in runs for name in run["seconds"])
    seconds = {name: sum(run["seconds"].get(name, 0.0) for run in runs) for name in names}
    lines = [(name, f"{value:.1f} s") for name, value in seconds.items()]
    for name in ("teachers", "students"):
        if steps := sum(run["steps"].get(name, 0) for run in runs):
            rate = f", {steps / seconds[name]:,.0f} a second" if name in seconds else ""  # timed with what else is done
            lines.append((f"{name}' net-steps", f"{steps:,}{rate}"))
    return [*lines, ("programs compiled", str(sum(run["programs"] for run in runs))), ("runs", str(len(facts["runs"])))]


def _lines(provenance: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in provenance.items():
        parts = [f"{key} {each}" for key, each in value.items()] if isinstance(value, dict) else [str(value)]
        yield name, ", ".join(parts)


def _page(workdir: Path, facts: dict[str, Any], rows: pd.DataFrame, drawn: Any) -> str:
    run = facts["runs"][-1] if facts["runs"] else {}
    name = str(run.get("resolved", facts["config"]).get("name") or workdir.name)
    laws = summary.texts(theory_table.table(rows))
    return template("report.html.j2").render(
        title=workdir.resolve().name,
        headline=headline(rows, drawn),
        links=links(workdir, name, "rows", "config.json", "figure.svg", "figure.png"),
        run=run,
        drawing=svg.drawing(lambda: drawn.draw(rows), "figure", alternative_text(rows, drawn)),
        caption=drawn.caption(rows),
        about=figures.about(drawn),
        claims=figures.claims(drawn, rows),
        table=figures.table(drawn, rows),
        laws=laws,
        bounds=summary.texts(theory_table.active_bounds(rows)) if len(laws) else laws,
        rows=len(rows),
        config=json.dumps(run.get("resolved", facts["config"]), indent=1),
        times=times(facts),
        started=facts["started"],
        provenance=list(_lines({"devices": ", ".join(run.get("devices", [])), **run.get("provenance", {})})),
    )
