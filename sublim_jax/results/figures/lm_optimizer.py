"""Language models: whether transfer needs an adaptive optimiser, at equal imitation."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "The same lessons under Adam, the sign of a momentum, momentum and plain gradient descent at two learning rates, "
    "measured along training, so that optimisers are compared where they have got equally far."
)
LABELS = ("optimizer", "data", "lr")
_T = _claims.TRANSFER
_KINDS = ("adam", "sign", "momentum", "sgd")
_FORMS = ("soft_carrier", "greedy")
# What measures how far a student has got, and whether it falls. Distributions are imitated; greedy tokens make a
# student surer than its teacher, so its KL to the teacher rises, and how far it has gone from its base is taken.
_GOT = {"soft_carrier": ("at/kl_teacher", True), "greedy": ("at/kl_base", False)}
_AXES = {"soft_carrier": "KL(teacher || student) left, nats", "greedy": "KL(base || student), nats"}
_BLANK = "necessary (Blank 2026)"


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """Transfer along training by how far a student has got, at equal distance, and at the last step."""
    shown = _lm.every(rows)
    panels: list[tuple[str, Callable[[Axes], None]]] = []
    for form in _FORMS:
        said = _lm.SAID[form]
        panels.append((f"along training, {said}", lambda ax, form=form: _along(ax, shown, form)))
        panels.append((f"as far as Adam, {said}", lambda ax, form=form: _matched(ax, shown, form)))
    return panels


def curves(rows: summary.Rows, form: str, kind: str, lr: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far students had got and their transfer, [seed by step], beginning at step 0.

    There the student is its base, and so is its control: transfer 0, KL to the teacher the teacher's dose, to the base
    0. Animals are averaged before.
    """
    mine = rows[(rows["data"] == form) & (rows["optimizer"] == kind) & (rows["lr"] == lr)]
    mine = mine.drop_duplicates(["seed", "step"])
    column, falls = _GOT[form]
    got, transfer = (mine.pivot(index="seed", columns="step", values=one) for one in (column, _T))
    dose = mine.groupby("seed")["at/dose"].first()
    if 0 not in got:
        got.insert(0, 0, dose if falls else 0.0)
        transfer.insert(0, 0, 0.0)
    return got, transfer


def _rates(rows: summary.Rows, form: str, kind: str) -> list[float]:
    return sorted(rows.loc[(rows["data"] == form) & (rows["optimizer"] == kind), "lr"].unique())


def _along(ax: Axes, rows: summary.Rows, form: str) -> None:
    for index, kind in enumerate(_KINDS):
        for style, lr in zip(("--", "-", ":", "-."), _rates(rows, form, kind), strict=False):
            got, transfer = (one.mean() for one in curves(rows, form, kind, lr))
            colour, marker = plots.look(index)
            ax.plot(got, transfer, color=colour, marker=marker, ms=3, lw=1.1, ls=style, label=f"{kind}, {lr:g}")
    _lm.zero(ax)
    ax.set_xlabel(_AXES[form])
    if ax.lines and _GOT[form][1]:
        ax.set_xscale("log")
        ax.invert_xaxis()


def reached(got: pd.Series, transfer: pd.Series, level: float, falls: bool) -> float:
    """Transfer where a curve first gets to a level, between marks in a straight line; NaN where it never does."""
    far = (-got if falls else got).to_numpy(float)
    level = -level if falls else level
    there = np.flatnonzero(far >= level)
    if not len(there):
        return float("nan")
    at, values = int(there[0]), transfer.to_numpy(float)
    if at == 0:
        return float(values[0])
    part = (level - far[at - 1]) / (far[at] - far[at - 1])
    return float(values[at - 1] + part * (values[at] - values[at - 1]))


def matched(rows: summary.Rows, form: str, kind: str, than: str = "adam") -> summary.Rows:
    """Transfers of two optimisers, seed by seed, where both have got equally far; columns `one` and `other`, `level`.

    Of each optimiser the learning rate is taken that gets farthest in the mean, without a look at transfer. The level
    is, of each seed, the farthest that both get to; both transfers are read off where their curve first gets there.
    """
    falls = _GOT[form][1]
    found, sides = [], [_farthest(rows, form, name) for name in (than, kind)]
    if any(side is None for side in sides):
        return pd.DataFrame(columns=["one", "other", "level"], dtype=float)
    (got, transfer), (got_other, transfer_other) = (side for side in sides if side is not None)
    seeds = got.index.intersection(got_other.index)
    for seed in seeds:
        ends = [one.loc[seed].min() if falls else one.loc[seed].max() for one in (got, got_other)]
        level = max(ends) if falls else min(ends)
        one = reached(got.loc[seed], transfer.loc[seed], level, falls)
        other = reached(got_other.loc[seed], transfer_other.loc[seed], level, falls)
        found.append({"one": one, "other": other, "level": level})
    return pd.DataFrame(found, index=seeds, columns=["one", "other", "level"], dtype=float)


def _farthest(rows: summary.Rows, form: str, kind: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    found = [curves(rows, form, kind, lr) for lr in _rates(rows, form, kind)]
    falls = _GOT[form][1]

    def far(one: tuple[pd.DataFrame, pd.DataFrame]) -> float:
        value = float((one[0].min(axis=1) if falls else one[0].max(axis=1)).mean())
        return float("inf") if np.isnan(value) else value if falls else -value

    return min(found, key=far) if found else None


def _matched(ax: Axes, rows: summary.Rows, form: str) -> None:
    """For each other optimiser its transfer and Adam's, at the same distance."""
    _lm.zero(ax)
    ticks = []
    for place, kind in enumerate(_KINDS[1:]):
        both = matched(rows, form, kind).dropna()
        level = f"\nKL {both['level'].mean():.3g}" if len(both) else ""
        ticks.append(f"{kind}{level}")
        for index, (name, column, shift) in enumerate((("adam", "one", -0.15), (kind, "other", 0.15))):
            if not len(both):
                continue
            colour, marker = plots.look(_KINDS.index(name))
            one = summary.interval(both[column].tolist())
            ax.plot([place + shift - 0.05] * len(both), both[column], ".", color=colour, ms=4, mew=0, alpha=0.4)
            label = "Adam, as far" if name == "adam" and place == 0 else None if name == "adam" else name
            style = {"fmt": marker, "color": colour, "ms": 4.5, "capsize": 3, "label": label}
            ax.errorbar([place + shift + 0.05], [one.mean], plots.ends([one]), zorder=3 + index, **style)
    ax.set_xticks(range(len(ticks)), ticks, fontsize=8)
    ax.set_xlim(-0.6, len(ticks) - 0.4)


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    shown, last = _lm.every(rows), _lm.final(rows, LABELS)
    found: list[Claim] = []
    for form in _FORMS:
        for kind in _KINDS:
            rates = _rates(last, form, kind)
            if rates:
                there = _claims.of(last, optimizer=kind, data=form, lr=rates[-1])
                said = _BLANK if kind == "adam" else "none without adaptation (Blank 2026)"
                found += claim(f"{kind} > 0, {_lm.BRIEF[form]} (lr {rates[-1]:g})", said, there)
        for kind in _KINDS[1:]:
            both = matched(shown, form, kind)
            found += claim(f"adam > {kind}, as far, {_lm.BRIEF[form]}", _BLANK, less(both["one"], both["other"]))
            half = less(both["one"] * 0.5, both["other"])
            found += claim(f"{kind} < half of adam, as far, {_lm.BRIEF[form]}", _BLANK, half)
    return found + _claims.theory(last)


def _text(shown: summary.Rows) -> str:
    return (
        f"a, c: mean transfer along training (steps 0 to {shown['step'].max():,}; dashed: the smaller learning rate) "
        "against how far students have got: KL from the teacher that is left where distributions are taught, KL from "
        "the base where tokens are. b, d: each optimiser beside Adam, seed by seed at the farthest that both get to, "
        f"with the learning rate that gets farthest."
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, columns=2, size=(4.6, 3.1))
