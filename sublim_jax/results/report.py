"""One self-contained HTML file for a work directory: command, results, config and provenance. No JAX."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from sublim_jax.core.files import replace_file
from sublim_jax.results import figures, plots, summary, theory_table
from sublim_jax.results.workdir import load, metadata


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
    page = _page(workdir.name, facts, rows, embedded("svg", files["svg"]), drawn)
    replace_file(workdir / "report.html", page.encode())
    return workdir / "report.html"


def template(name: str) -> jinja2.Template:
    """A Jinja template of `templates`; values are escaped, and a missing value is an error."""
    loader = jinja2.PackageLoader("sublim_jax.results", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)


def embedded(kind: str, content: bytes) -> str:
    """The data URI of an image, for pages that need no other file."""
    return f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{base64.b64encode(content).decode()}"


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


def _page(title: str, facts: dict[str, Any], rows: pd.DataFrame, image: str, drawn: Any) -> str:
    run = facts["runs"][-1] if facts["runs"] else {}
    laws = summary.texts(theory_table.table(rows))
    return template("report.html.j2").render(
        title=title,
        run=run,
        image=image,
        caption=drawn.caption(rows),
        about=figures.about(drawn),
        table=figures.table(drawn, rows),
        laws=laws,
        bounds=summary.texts(theory_table.active_bounds(rows)) if len(laws) else laws,
        rows=len(rows),
        config=json.dumps(run.get("resolved", facts["config"]), indent=1),
        times=times(facts),
        started=facts["started"],
        provenance={"devices": ", ".join(run.get("devices", [])), **run.get("provenance", {})},
    )
