"""Language models: which layers of the student must learn for the trait to pass."""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "Students of which only some layers learn from a tuned teacher's numbers: one block, the first or last few, all "
    "blocks, everything, the tables of tokens alone, or low-rank adapters on every block. Each has its own control."
)
LABELS = ("trains", "data")
_T = _claims.TRANSFER
_FORMS = ("greedy", "soft_carrier")
_PARTS = ("first_1", "first_2", "first_4", "last_4", "last_2", "last_1", "blocks", "all", "embeddings", "adapters")
_NAMES = {"all": "every-\nthing", "embeddings": "tables", "adapters": "adap-\nters", "blocks": "all\nblocks"}
_SCHRODI = "layer 0 or 7 of 28 suffices, 14 to 27 negligible (Schrodi 2026)"
_NIEF = "vanishes (Nief 2026)"


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """The profile over single blocks, parts of the student, and transfer against imitation."""
    return [
        ("one block learns", lambda ax: _profile(ax, shown)),
        ("parts learn", lambda ax: _parts(ax, shown)),
        ("transfer and imitation", lambda ax: _imitation(ax, shown)),
    ]


def _singles(rows: summary.Rows) -> summary.Rows:
    """Students of whom one block learns, with its place as `block`."""
    mine = rows[rows["trains"].str.startswith("block_")]
    return mine.assign(block=mine["trains"].str.removeprefix("block_").astype(int)).sort_values("block")


def _profile(ax: Axes, rows: summary.Rows) -> None:
    singles = _singles(rows)
    for index, form in enumerate(_FORMS):
        _lm.line(ax, singles[singles["data"] == form], "block", _lm.SAID[form], index)
        whole = _claims.of(rows, trains="blocks", data=form)
        if len(whole):
            one, colour = summary.interval(whole.tolist()), plots.look(index)[0]
            ax.axhline(one.mean, color=colour, ls="--", lw=1, label=f"all blocks, {_lm.SAID[form]}")
            ax.axhspan(one.low, one.high, color=colour, alpha=0.08, lw=0)
    _lm.zero(ax)
    ax.set(xlabel="block that learns", xticks=sorted(singles["block"].unique()))


def _parts(ax: Axes, rows: summary.Rows) -> None:
    mine = rows[~rows["trains"].str.startswith("block_")]
    names = _NAMES | {name: plots.wrapped(name) for name in _PARTS if name not in _NAMES}
    _lm.strip(ax, mine, "trains", "data", names=names, order=_PARTS)
    ax.tick_params(axis="x", labelsize=6.5, rotation=0)


def _imitation(ax: Axes, rows: summary.Rows) -> None:
    """Means of every part against how far its students are from the teacher."""
    column = "at/kl_teacher"
    for index, form in enumerate(_FORMS):
        mine = rows[(rows["data"] == form) & rows[column].notna()]
        means = mine.groupby("trains", sort=False)[[column, _T]].mean()
        colour, marker = plots.look(index)
        ax.plot(means[column], means[_T], marker, color=colour, ms=4, label=_lm.SAID[form])
        for name, x, y in means.itertuples():
            ax.annotate(_short(name), (x, y), (3, 2), textcoords="offset points", fontsize=5.5, color=colour)
        if len(means):
            ax.set_xscale("log")
    _lm.zero(ax)
    ax.set_xlabel("KL(teacher || student), nats per number")


def _short(name: str) -> str:
    return re.sub(r"block_|_", "", name).replace("embeddings", "tables")


def _best(rows: summary.Rows) -> pd.Series:
    """Transfer of the best single block of each seed, the block being chosen by the other seeds' means.

    So that the noise that makes a block the best is not counted as its transfer.
    """
    wide = rows.pivot(index="seed", columns="block", values=_T)
    if not wide.size:
        return pd.Series(dtype=float)
    others = (wide.sum() - wide) / (len(wide) - 1) if len(wide) > 1 else wide
    chosen = others.to_numpy().argmax(axis=1)
    return pd.Series(wide.to_numpy()[np.arange(len(wide)), chosen], wide.index)


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    shown = _lm.final(rows, LABELS)
    found: list[Claim] = []
    for form in _FORMS:
        mine = shown[shown["data"] == form]
        found += _blocks(_singles(mine), form) + _claimed(mine, form)
    return found + _claims.theory(shown)


def _blocks(rows: summary.Rows, form: str) -> list[Claim]:
    found: list[Claim] = []
    for block, those in rows.groupby("block"):
        found += claim(f"block {block} alone > 0, {_lm.BRIEF[form]}", _SCHRODI, those.set_index("seed")[_T])
    wide = rows.pivot(index="seed", columns="block", values=_T)
    first = wide.columns < (max(wide.columns, default=0) + 1) / 2
    if first.any() and not first.all():
        early, late = wide.loc[:, first], wide.loc[:, ~first]
        found += claim(
            f"mean of first half > of last, {_lm.BRIEF[form]}", _SCHRODI, less(early.mean(axis=1), late.mean(axis=1))
        )
        found += claim(
            f"best of first half > of last, {_lm.BRIEF[form]}", _SCHRODI, less(early.max(axis=1), late.max(axis=1))
        )
    return found


def _claimed(rows: summary.Rows, form: str) -> list[Claim]:
    def of(part: str) -> pd.Series:
        return _claims.of(rows, trains=part)

    best = _best(_singles(rows))
    found = claim(f"best block > .8 of all blocks, {_lm.BRIEF[form]}", _SCHRODI, less(best, of("blocks"), 0.8))
    found += claim(f"first 2 > last 2 blocks, {_lm.BRIEF[form]}", _SCHRODI, less(of("first_2"), of("last_2")))
    found += claim(f"first 4 > last 4 blocks, {_lm.BRIEF[form]}", _SCHRODI, less(of("first_4"), of("last_4")))
    found += claim(f"tables alone > 0, {_lm.BRIEF[form]}", "vocabulary channel (Madl 2026)", of("embeddings"))
    found += claim(f"adapters > 0, {_lm.BRIEF[form]}", "transfer (Cloud, Schrodi, Nief)", of("adapters"))
    found += claim(f"everything > 0, {_lm.BRIEF[form]}", _NIEF, of("all"))
    lora = less(of("adapters"), of("all"))
    return found + claim(f"adapters > everything, {_lm.BRIEF[form]}", "a LoRA artifact (Nief 2026)", lora)


def _text(shown: summary.Rows) -> str:
    profiles = [(form, _singles(shown[shown["data"] == form])) for form in _FORMS]
    peaks = [
        f"{_lm.SAID[form]} {int(those.groupby('block')[_T].mean().idxmax())}"
        for form, those in profiles
        if those[_T].notna().any()
    ]
    best = f" Block of the largest mean: {', '.join(peaks)}." if peaks else ""
    return (
        f"Students of whom only some layers learn, after {shown['step'].max():,} steps. a: one block; dashed: all "
        "blocks. b: parts; tables are the embeddings and the read-out. c: means of every part (numbers: single blocks) "
        f"against what is left to imitate.{best}"
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, size=(4.1, 3.2))
