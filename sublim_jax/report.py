"""One self-contained HTML file per work folder: what was asked, what came out, and what made it. No JAX."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from sublim_jax import plots, records, summary
from sublim_jax.errors import Refused, unknown

CAPTION = (
    "Means over seeds with 95 % bootstrap intervals (percentile, 10,000 resamples). Dashed: the teacher; dotted: the "
    "untrained net. m is the number of auxiliary logits the student imitates on noise."
)


def write(workdir: str | Path, figure: str = "transfer") -> Path:
    """Draw figure.svg and figure.png from the rows of a work folder and bind everything into report.html.

    Returns the report's path. Raises `Refused` for an unknown figure or a folder without rows.
    """
    workdir = Path(workdir)
    rows, facts = records.load(workdir), records.facts(workdir)
    if figure not in plots.public():
        raise Refused(unknown("config.figure", figure, plots.public()))
    _draw(workdir, figure, rows)
    frame = summary.table(rows)
    page = _page(workdir, facts, [str(name) for name in frame.columns], summary.texts(frame), len(rows))
    _replace(workdir / "report.html", page.encode())
    return workdir / "report.html"


def throughput(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Times of the last run and net-steps a second, as lines of a table."""
    last = facts["runs"][-1]
    seconds = last["seconds"]
    lines = [(name, f"{value:.1f} s") for name, value in seconds.items()]
    if steps := last["student_net_steps"]:
        lines.append(("students", f"{steps:,} net-steps, {steps / seconds['students']:,.0f} a second"))
    return [*lines, ("programs compiled", str(last["programs"])), ("devices", ", ".join(last["devices"]))]


def _draw(workdir: Path, figure: str, rows: Any) -> None:
    with matplotlib.rc_context(plots.STYLE | {"svg.hashsalt": "sublim_jax"}):
        drawn = plots.public()[figure](rows)
        for kind in ("svg", "png"):
            temporary = workdir / f".figure.{os.getpid()}.{kind}"
            # Without the date the same rows give the same file.
            drawn.savefig(temporary, metadata={"Date": None} if kind == "svg" else None, dpi=160)
            os.replace(temporary, workdir / f"figure.{kind}")


def _page(workdir: Path, facts: dict[str, Any], names: list[str], cells: list[list[str]], rows: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sublim_jax", "assets"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    last = facts["runs"][-1]
    svg = base64.b64encode((workdir / "figure.svg").read_bytes()).decode()
    return environment.get_template("report.html.j2").render(
        title=workdir.name,
        command=last.get("command", ""),
        status=last["status"],
        figure=f"data:image/svg+xml;base64,{svg}",
        caption=CAPTION,
        names=names,
        cells=cells,
        rows=rows,
        overrides=last.get("overrides", {}),
        config=json.dumps(facts["config"], indent=1),
        times=throughput(facts),
        started=facts["started"],
        finished=last["finished"],
        data=last.get("data", {}),
        provenance=last.get("provenance", {}),
    )


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
