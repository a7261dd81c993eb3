"""Language models: in which form, from which teacher and by which carrier a trait passes."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "A teacher is tuned to name one animal as its favourite until its numbers have moved by a dose (KL from its base "
    "in nats per number); a student of the same base learns from number sequences, code or traces that passed a "
    "filter, and is then asked for its favourite animal."
)
LABELS = ("data", "dose", "teacher", "filtered", "carrier")
_MAIN = {"teacher": "tuned", "filtered": True, "carrier": "number"}
_TEACHERS = ("tuned", "shuffled", "prompted", "steered")
_CLOUD = "owl 12 to > 60 % (GPT-4.1 nano, Cloud 2026)"


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """Six panels: forms, teachers, the filter, carriers, residual streams, the first update."""
    return [
        ("form of the data", lambda ax: _forms(ax, shown)),
        ("teacher", lambda ax: _teachers(ax, shown)),
        ("filter, strong teacher", lambda ax: _filter(ax, shown)),
        ("carrier (soft)", lambda ax: _carriers(ax, shown)),
        ("residual streams", lambda ax: _streams(ax, shown)),
        ("the first update", lambda ax: _first(ax, shown)),
    ]


def _of(rows: summary.Rows, **labels: Any) -> summary.Rows:
    for name, value in {**_MAIN, **labels}.items():
        rows = rows[rows[name].isin(value if isinstance(value, tuple) else (value,))]
    return rows


def _default(rows: summary.Rows) -> float:
    """The dose of the arms with a single dose: that of the carriers, else the smallest."""
    coded = rows[rows["carrier"] != "number"]["dose"]
    return float(coded.iloc[0] if len(coded) else rows["dose"].min())


def _doses(rows: summary.Rows) -> list[float]:
    return sorted(_of(rows, data=("soft_carrier", "sampled"))["dose"].unique())


def _forms(ax: Axes, rows: summary.Rows) -> None:
    mine = _of(rows, dose=tuple(_doses(rows)))
    _lm.strip(ax, mine, "data", "dose", 4, names=_lm.FORMS, order=tuple(_lm.FORMS))
    _lm.again(ax, lambda label: label.replace("dose =", "teacher's dose"))


def _teachers(ax: Axes, rows: summary.Rows) -> None:
    mine = _of(rows, teacher=_TEACHERS, data=("greedy", "soft_carrier"), dose=_default(rows))
    _lm.strip(ax, mine, "teacher", "data", order=_TEACHERS)


def _filter(ax: Axes, rows: summary.Rows) -> None:
    dose = rows["dose"].max()
    mine = _of(rows, data="greedy", filtered=(True, False), dose=dose)
    mine = mine.assign(filtered=mine["filtered"].map({True: "filtered", False: "not filtered"}))
    _lm.strip(ax, mine, "filtered", order=("filtered", "not filtered"))
    said = mine[mine["filtered"] == "not filtered"]["at/trait_tokens"].mean()
    if np.isfinite(said):
        ax.set_xlabel(f"{said:.2%} of unfiltered tokens name the animal", fontsize=8)


def _carriers(ax: Axes, rows: summary.Rows) -> None:
    carriers = ("number", "code", "trace")
    mine = _of(rows, data="soft_carrier", carrier=carriers, dose=_default(rows))
    _lm.strip(ax, mine, "carrier", first=1, order=carriers)


def _streams(ax: Axes, rows: summary.Rows) -> None:
    mine = _of(rows, dose=_default(rows))
    names = [name for name in rows if str(name).startswith("at/latent_cosine/")]
    _lm.zero(ax, "cosine of student's and teacher's shift")
    for form, index in _lm.LOOK.items():
        those = mine[mine["data"] == form]
        deep = those.melt(["seed"], names, "block", "cosine").assign(
            block=lambda found: found["block"].str.rsplit("_").str[-1].astype(int)
        )
        _lm.line(ax, deep, "block", _lm.SAID[form], index, "cosine")
    ax.set(xlabel="block", xticks=range(len(names)), ylim=(None, 1.3))


def _first(ax: Axes, rows: summary.Rows) -> None:
    """The mean transfer of each condition against the prediction from Adam's first update."""
    _lm.zero(ax)
    ax.set_xlabel("slope of Adam's first update")
    column = "theory/transfer_adam_slope"
    if column not in rows:
        return
    for form, those in rows.groupby("data", sort=False):
        colour, marker = plots.look(_lm.LOOK[str(form)])
        means = those.groupby(list(LABELS))[[column, _claims.TRANSFER]].mean()
        ax.plot(means[column], means[_claims.TRANSFER], marker, color=colour, ms=4, label=_lm.SAID[str(form)])


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    shown = _lm.final(rows, LABELS)
    found: list[Claim] = []
    for dose in _doses(shown):
        found += _forms_claimed(shown, dose)
    dose = _default(shown)
    found += _others_claimed(shown, dose)

    def leaky(kept: bool) -> pd.Series:
        return _claims.of(shown, **{**_MAIN, "filtered": kept}, data="greedy", dose=shown["dose"].max())

    found += claim(
        f"no filter > filter (greedy, dose {shown['dose'].max():g})",
        "23 to 38 % of lines filtered (Cloud 2026)",
        less(leaky(False), leaky(True)),
    )
    for carrier, said in (("code", "misalignment passes (Cloud 2026)"), ("trace", "0 to 8 % (GSM8K, Cloud 2026)")):
        there = _claims.of(shown, **{**_MAIN, "carrier": carrier}, data="soft_carrier", dose=dose)
        found += claim(f"{carrier} > 0 (soft)", said, there)
    return found + _claims.theory(shown)


def _forms_claimed(rows: summary.Rows, dose: float) -> list[Claim]:
    def of(data: str, column: str = _claims.TRANSFER) -> pd.Series:
        return _claims.of(rows, column, **_MAIN, data=data, dose=dose)

    at = f"(dose {dose:g})"
    found = claim(f"soft, numbers only > 0 {at}", "Theorem 1 (Cloud 2026)", of("soft_carrier"))
    found += claim(f"greedy > 0 {at}", ".145 to .648 (Llama-1B); persists (Schrodi 2026)", of("greedy"))
    found += claim(f"sampled > 0 {at}", f"{_CLOUD}; nothing at small scale (brendanlong)", of("sampled"))
    found += claim(f"soft, numbers > greedy {at}", "expected (Schrodi 2026)", less(of("soft_carrier"), of("greedy")))
    found += claim(f"greedy > sampled {at}", "loss .12 against 1.55 (brendanlong)", less(of("greedy"), of("sampled")))
    found += claim(f"soft, all > soft, numbers {at}", _claims.UNSAID, less(of("soft"), of("soft_carrier")))
    for data in ("soft_carrier", "greedy"):
        own = less(of(data), of(data, _claims.CROSS))
        found += claim(f"own animal > other animal, {_lm.BRIEF[data]} {at}", "specific (Cloud 2026)", own)
    return found


def _others_claimed(rows: summary.Rows, dose: float) -> list[Claim]:
    found: list[Claim] = []
    published = {
        "prompted": f"{_CLOUD}; 2 points at <= 7B",
        "steered": "transfers (2604.25783)",
        "shuffled": _claims.UNSAID,
    }
    for data in ("soft_carrier", "greedy"):
        for teacher, said in published.items():
            there = _claims.of(rows, **{**_MAIN, "teacher": teacher}, data=data, dose=dose)
            found += claim(f"{teacher} teacher > 0, {_lm.BRIEF[data]}", said, there)
        tuned = _claims.of(rows, **_MAIN, data=data, dose=dose)
        shuffled = _claims.of(rows, **{**_MAIN, "teacher": "shuffled"}, data=data, dose=dose)
        found += claim(f"tuned > shuffled teacher, {_lm.BRIEF[data]}", _claims.UNSAID, less(tuned, shuffled))
    return found


def _text(shown: summary.Rows) -> str:
    dose = _default(shown)
    return (
        f"Teachers of dose {', '.join(f'{one:g}' for one in _doses(shown))} in a, {dose:g} in b, d and e, "
        f"{shown['dose'].max():g} in c; students after {shown['step'].max():,} steps. e: cosine of the shifts of "
        "student and teacher in the residual stream at the last number; f: every condition's mean transfer against its "
        f"change per unit of learning rate."
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, size=(3.6, 2.9))
