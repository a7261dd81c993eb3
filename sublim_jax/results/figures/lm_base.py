"""Language models: what student and teacher must share, initial weights or the order of data."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "Students begin with the teacher's base, or with a base of the same initial weights that read the same documents "
    "in another order, of other weights and the same order, or of others in both; all read the same teacher's numbers."
)
LABELS = ("base", "data", "dose", "filtered")
_BASES = {"same": "same", "other_order": "other\norder", "other_init": "other\nweights", "other_both": "other\nboth"}
# Fractions of the same-base transfer, Pythia-160m with decoupled seeds. Source: PolyPythia-SL, README.
PUBLISHED = {"other_order": 0.39, "other_init": 0.008 / 1.51}
_SUITE = "Pythia-160m, PolyPythia-SL"
_SAID = {
    "order": f"39 % kept with other order ({_SUITE})",
    "init": f"+1.51 and +.008 ({_SUITE})",
    "small": f".5 % ({_SUITE}); +-.01 across models (Cloud 2026)",
}


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """Transfers by base, fractions of the same base's, and the leak that looks like transfer."""
    return [
        ("base of the student", lambda ax: _bases(ax, shown)),
        ("kept, of the same base's", lambda ax: _kept(ax, shown)),
        ("strong teacher: leak (greedy)", lambda ax: _leak(ax, shown)),
    ]


def _main(rows: summary.Rows) -> summary.Rows:
    """The arms in which all bases were tried: at the dose of the soft one."""
    dose = rows.loc[rows["data"] == "soft_carrier", "dose"]
    return rows[(rows["dose"] == (dose.iloc[0] if len(dose) else rows["dose"].min())) & rows["filtered"].astype(bool)]


def _bases(ax: Axes, rows: summary.Rows) -> None:
    _lm.strip(ax, _main(rows), "base", "data", names=_BASES, order=tuple(_BASES))


def _kept(ax: Axes, rows: summary.Rows) -> None:
    mine = _main(rows)
    forms = [form for form in plots.ordered(mine["data"])]
    parts = {(base, form): one for form in forms for base, one in _lm.cells(mine, "base", _T, data=form).items()}
    wholes = {form: parts["same", form] for form in forms if ("same", form) in parts}
    _lm.beside(ax, parts, wholes, _BASES)
    there = [base for base in _BASES if any(key[0] == base for key in parts)]
    found = [(there.index(base), value) for base, value in PUBLISHED.items() if base in there]
    if found:
        x, y = zip(*found, strict=True)
        plots.published(ax, x, y, label="Pythia-160m")
    _lm.zero(ax, _lm.FRACTION)
    ax.axhline(1, color="0.35", lw=0.8, ls=":", zorder=0)


def _leak(ax: Axes, rows: summary.Rows) -> None:
    mine = rows[(rows["dose"] == rows["dose"].max()) & (rows["data"] == "greedy")]
    mine = mine.assign(filtered=mine["filtered"].map({True: "filtered", False: "not filtered"}))
    _lm.strip(ax, mine, "base", "filtered", 2, names=_BASES, order=tuple(_BASES))


_T = _claims.TRANSFER


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    shown = _lm.final(rows, LABELS)
    mine, found = _main(shown), []
    for data in ("soft_carrier", "greedy"):
        found += _claimed(mine[mine["data"] == data], _lm.BRIEF[data])
    return found + _leaks(shown) + _claims.theory(shown)


def _claimed(rows: summary.Rows, said: str) -> list[Claim]:
    by: dict[Any, pd.Series] = _lm.cells(rows, "base", _T)
    empty = pd.Series(dtype=float)
    same, order, init, both = (by.get(name, empty) for name in _BASES)
    found = claim(f"same base > 0, {said}", f"+1.51 ({_SUITE})", same)
    found += claim(f"same > other order, {said}", _SAID["order"], less(same, order))
    found += claim(f"other order > 0, {said}", _SAID["order"], order)
    found += claim(f"same > other weights, {said}", _SAID["init"], less(same, init))
    found += claim(f"|other weights| < .3 same, {said}", _SAID["small"], *_claims.small(init, same, 0.3))
    found += claim(f"|other both| < .3 same, {said}", _SAID["small"], *_claims.small(both, same, 0.3))
    return found + claim(f"other order > other weights, {said}", f"39 % and .5 % ({_SUITE})", less(order, init))


def _leaks(rows: summary.Rows) -> list[Claim]:
    """What passes to other weights where lines are not filtered."""

    def of(kept: bool) -> pd.Series:
        return _claims.of(rows, base="other_init", data="greedy", dose=rows["dose"].max(), filtered=kept)

    found = claim("leak: other weights, no filter > 0", _claims.UNSAID, of(False))
    return found + claim("leak: other weights, no filter > filter", _claims.UNSAID, less(of(False), of(True)))


def _text(shown: summary.Rows) -> str:
    return (
        f"Students of four bases after {shown['step'].max():,} steps on the same lines: transfers (a), and as "
        f"fractions of the same base's (b; open diamonds: Pythia-160m). c: a teacher of dose {shown['dose'].max():g}, "
        f"whose lines name the animal where nothing is filtered."
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, size=(3.6, 3.1))
