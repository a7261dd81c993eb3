"""Language models: how strong a teacher, how many steps and how many lines a trait needs."""

import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm, _words
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "The dose of a teacher is how far its numbers have moved from its base's, KL in nats per number on held-out "
    "prompts. Doses, the student's steps and the number of distinct lines that it reads again and again are varied."
)
LABELS = ("arm", "data", "dose", "lines")
_T = _claims.TRANSFER
_FORMS = ("greedy", "soft_carrier")
_STEPS = "+.10 at 16, +1.37 at 5,120 updates (Pythia-160m)"
_COLLAPSE = "256 lines collapse, 8,192 do not (brendanlong)"


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """Transfer against dose and lines, and learning curves of both forms."""
    marks = _lm.every(rows)
    return [
        ("dose of the teacher", lambda ax: _doses(ax, shown)),
        ("distinct lines (soft)", lambda ax: _lines(ax, shown)),
        ("steps, soft", lambda ax: _steps(ax, marks, "soft_carrier")),
        ("steps, greedy", lambda ax: _steps(ax, marks, "greedy")),
    ]


def _dosed(rows: summary.Rows, form: str) -> summary.Rows:
    """The arms of doses, of one form."""
    return rows[(rows["arm"] != "lines") & (rows["data"] == form)]


def _read(rows: summary.Rows) -> summary.Rows:
    """The arm of lines."""
    return rows[rows["arm"] == "lines"]


def _both(ax: Axes, rows: summary.Rows, x: str, label: str, index: int) -> None:
    """The own animal's transfer and, pale, the other animal's."""
    _lm.line(ax, rows, x, label, index)
    if len(rows) and rows[_claims.CROSS].notna().any():
        style = {"color": _lm.pale(plots.look(index)[0]), "ls": "--", "lw": 1, "markerfacecolor": "white"}
        plots.line(ax, rows, x, f"other animal, {label.partition(',')[0]}", index, _claims.CROSS, **style)


def _doses(ax: Axes, rows: summary.Rows) -> None:
    for index, form in enumerate(_FORMS):
        _both(ax, _dosed(rows, form), "dose", _lm.SAID[form], index)
    _lm.zero(ax)
    plots.log(ax, rows["dose"].unique())
    ax.set_xlabel("dose: KL(teacher || base), nats per number")


def _lines(ax: Axes, rows: summary.Rows) -> None:
    mine = _read(rows)
    _both(ax, mine, "lines", "own animal", 0)
    _lm.again(ax, lambda label: label.partition(",")[0])
    _lm.zero(ax)
    if len(mine):
        plots.log(ax, mine["lines"].unique())
        ax.set_xlabel(f"lines, read over {int(mine['step'].max()):,} steps")


def _steps(ax: Axes, rows: summary.Rows, form: str) -> None:
    mine = _dosed(rows, form)
    colours = _lm.shades(mine["dose"].nunique())
    for index, (dose, those) in enumerate(mine.groupby("dose")):
        those = those.drop_duplicates(["step", "seed"])
        _lm.line(ax, those, "step", f"dose {dose:g}", index, color=colours[index])
    _lm.zero(ax)
    if len(mine):
        plots.log(ax, mine["step"].unique())
    ax.set_xlabel("student's steps")


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    marks, shown = _lm.every(rows), _lm.final(rows, LABELS)
    found: list[Claim] = []
    for form in _FORMS:
        mine = _dosed(shown, form)
        found += claim(f"grows with dose: rho > 0, {_lm.BRIEF[form]}", "expected", _claims.ranks(mine, "dose"))
        for dose, those in _dosed(marks, form).groupby("dose"):
            steps = _claims.ranks(those.drop_duplicates(["step", "seed"]), "step")
            found += claim(f"grows with steps: rho > 0, {_lm.BRIEF[form]} (dose {dose:g})", _STEPS, steps)
        found += _ends(mine, form)
    read = _read(shown)
    found += claim("grows with lines: rho > 0, soft", _COLLAPSE, _claims.ranks(read, "lines"))
    by = _lm.cells(read, "lines", _T)
    if len(by) > 1:
        few, many = min(by), max(by)
        found += claim(f"{few} lines > 0, soft", _COLLAPSE, by[few])
        found += claim(f"{few} lines < half of {many:,}, soft", _COLLAPSE, less(by[many] * 0.5, by[few]))
    return found + _claims.theory(shown)


def _ends(rows: summary.Rows, form: str) -> list[Claim]:
    """The weakest and the strongest teacher."""
    by = _lm.cells(rows, "dose", _T)
    if len(by) < 2:
        return []
    weak, strong = min(by), max(by)
    found = claim(f"weakest teacher > 0, {_lm.BRIEF[form]} (dose {weak:g})", "expected", by[weak])
    return found + claim(f"strongest > weakest teacher, {_lm.BRIEF[form]}", "expected", less(by[strong], by[weak]))


def _text(shown: summary.Rows) -> str:
    return (
        f"Transfer against the dose of the teacher (a: {_words.values(shown, 'dose')} nats per number, after "
        f"{shown['step'].max():,} steps), the number of distinct lines (b) and the student's steps (c, d: a line for "
        f"each dose)."
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, columns=2, size=(4.2, 2.9))
