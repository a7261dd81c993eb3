"""One self-contained HTML file per work folder: what was asked, what came out, and what made it. No JAX."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd

from sublim_jax import plots, records, summary

CAPTION = (
    "Means over seeds with 95 % bootstrap intervals (percentile, 10,000 resamples; too narrow where seeds are few). "
    "Dashed: the teacher; dotted: the untrained net. m is the number of auxiliary logits the student imitates on noise."
)


def write(workdir: str | Path, figure: str = "transfer") -> Path:
    """Draw figure.svg and figure.png from the rows of a work folder and bind everything into report.html.

    Returns the report's path. Raises `Refused` for an unknown figure or a folder without rows.
    """
    workdir, drawn = Path(workdir), plots.pick(figure)
    rows, facts = records.load(workdir), records.facts(workdir)
    with matplotlib.rc_context(plots.STYLE | {"svg.hashsalt": "sublim_jax"}):
        image = drawn(rows)
        for kind in ("svg", "png"):
            sink = io.BytesIO()
            # Without the date the same rows give the same file.
            image.savefig(sink, format=kind, metadata={"Date": None} if kind == "svg" else None, dpi=160)
            records.replace(workdir / f"figure.{kind}", sink.getvalue())
    records.replace(workdir / "report.html", _page(workdir, facts, rows).encode())
    return workdir / "report.html"


def times(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Seconds by kind of work over all runs of a folder, net-steps a second and programs, as lines of a table."""
    runs = [run for run in facts["runs"] if "seconds" in run]  # a killed run left none
    names = dict.fromkeys(name for run in runs for name in run["seconds"])
    seconds = {name: sum(run["seconds"].get(name, 0.0) for run in runs) for name in names}
    lines = [(name, f"{value:.1f} s") for name, value in seconds.items()]
    for name in ("teachers", "students"):
        if steps := sum(run["steps"].get(name, 0) for run in runs):
            lines.append((f"{name}' net-steps", f"{steps:,}, {steps / seconds[name]:,.0f} a second"))
    return [*lines, ("programs compiled", str(sum(run["programs"] for run in runs))), ("runs", str(len(facts["runs"])))]


def _page(workdir: Path, facts: dict[str, Any], rows: pd.DataFrame) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sublim_jax", "assets"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    last = facts["runs"][-1] if facts["runs"] else {}
    svg = base64.b64encode((workdir / "figure.svg").read_bytes()).decode()
    frame = summary.texts(summary.table(rows))
    return environment.get_template("report.html.j2").render(
        title=workdir.name,
        command=last.get("command", ""),
        status=last.get("status", "unknown"),
        figure=f"data:image/svg+xml;base64,{svg}",
        caption=CAPTION,
        names=[str(name) for name in frame.columns],
        cells=frame.values.tolist(),
        rows=len(rows),
        overrides=last.get("overrides", {}),
        config=json.dumps(last.get("resolved", facts["config"]), indent=1),
        times=times(facts),
        started=facts["started"],
        finished=last.get("finished", "not yet"),
        data=last.get("data", {}),
        provenance={"devices": ", ".join(last.get("devices", [])), **last.get("provenance", {})},
    )
