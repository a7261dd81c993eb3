"""Claims on language models: inequalities between samples of one value for each base seed, with verdicts.

The inequalities were written down before the rows were there. A claim holds where the 95 % interval of its difference
over base seeds lies above 0, is reversed where it lies below 0, and is otherwise not decided, as where a student of one
side has diverged: the seeds that remain are a choice by the outcome.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sublim_jax.results import plots, summary
from sublim_jax.results.summary import Interval

TRANSFER = "at/transfer"
CROSS = "at/cross"
UNPUBLISHED = "not published"
NAMES = {  # values of labels that claims call by another name
    **{"soft_carrier": "soft", "soft": "soft, all tokens", "other_init": "other weights", "blocks": "all blocks"},
    **{"none": "unchanged lines", "embeddings": "tables"},
}
_PUBLISHED_SLOPE = "did not predict (Pythia-160m, PolyPythia-SL)"
_PREDICTIONS = {  # columns of first-order predictions that rank conditions before any training
    "theory/transfer_slope": ("slope of the first update", _PUBLISHED_SLOPE),
    "theory/transfer_adam_slope": ("slope of Adam's first update", _PUBLISHED_SLOPE),
    "first_step": ("first step: rate x its slope", _PUBLISHED_SLOPE),
    "at/coverage": ("coverage", "about .95 (Madl 2026, to 6.9B)"),
}


class Claim(NamedTuple):
    """An inequality, what was published about it, and the difference of its sides, which should be above 0."""

    text: str
    published: str
    difference: Interval

    @property
    def verdict(self) -> str:
        """`holds`, `reversed` or `not decided`; with too few seeds for a verdict it says so."""
        if self.difference.diverged:
            return "not decided"
        if self.difference.n < summary.MIN_SEEDS:
            return f"n < {summary.MIN_SEEDS}"
        return "holds" if self.difference.low > 0 else "reversed" if self.difference.high < 0 else "not decided"


def select(rows: summary.Rows, **labels: Any) -> summary.Rows:
    """The rows whose labels have these values; a tuple or list allows several values."""
    for name, value in labels.items():
        rows = rows[rows[name].isin(value if isinstance(value, (tuple, list)) else [value])]
    return rows


def sample(rows: summary.Rows, column: str = TRANSFER, **labels: Any) -> pd.Series:
    """One value for each base seed, of the first condition with these labels; empty where there is none."""
    values = select(rows, **labels).drop_duplicates("seed").set_index("seed")[column]
    return values.dropna() if column == CROSS else values  # a seed with one animal has no other animal


def samples(rows: summary.Rows, label: str, **labels: Any) -> dict[Any, pd.Series]:
    """The transfers of each value of a label, by seed; numbers come sorted."""
    rows = select(rows, **labels)
    return {value: sample(rows, **{label: value}) for value in plots.ordered(rows[label])}


def difference(left: pd.Series, right: pd.Series) -> pd.Series:
    """The paired difference of the seeds that both samples have."""
    seeds = left.index.intersection(right.index)
    return left.loc[seeds] - right.loc[seeds]


def evaluate(inequalities: Mapping[str, str], named: Mapping[Any, pd.Series], suffix: str = "") -> list[Claim]:
    """The claims of which both sides were measured; of the two differences of `|a| < b` the one nearest to failing.

    Args:
        inequalities: What was published about each inequality: `adapters > 0`, `keep top > .8 of all`, ...
        named: Samples by value of a label, which inequalities call by `NAMES` or with blanks for underscores.
        suffix: Text after each inequality that distinguishes these samples from others.
    """
    named = {NAMES.get(name, str(name).replace("_", " ")): values for name, values in named.items()}
    claims = []
    for inequality, published in inequalities.items():
        differences = _differences(inequality, named)
        if differences and all(len(values) for values in differences):
            intervals = [summary.interval(values.to_numpy(float)) for values in differences]
            weakest = min(intervals, key=lambda interval: interval.mean if np.isnan(interval.low) else interval.low)
            claims.append(Claim(inequality + suffix, published, weakest))
    return claims


def _differences(inequality: str, named: Mapping[str, pd.Series]) -> list[pd.Series]:
    """What an inequality says to be above 0; empty where a sample is missing."""
    left, sign, right = re.split(" ([<>]) ", inequality)
    fraction, _, whole = right.rpartition(" of ")
    name = left.strip("|")
    if name not in named or whole not in {*named, "0"}:
        return []
    value = named[name]
    bound = value * 0 if whole == "0" else named[whole] * float({"": "1", "half": ".5"}.get(fraction, fraction))
    differences = [difference(value, bound) if sign == ">" else difference(bound, value)]
    return differences if name == left else [*differences, difference(bound, -value)]


def ratio(part: pd.Series, whole: pd.Series) -> Interval:
    """Mean of a part over mean of the whole, of the seeds that both have; NaN where the whole may be 0.

    The interval is that of the ratio's linear expansion: each seed's deviation of its part from the ratio times its
    whole, over the mean of the wholes.
    """
    paired = pd.concat([part, whole], axis=1, keys=["part", "whole"], join="inner")
    parts, wholes = (paired.dropna()[name].to_numpy(float) for name in paired)
    lost, full = len(paired) - len(parts), summary.interval(wholes)
    if not (full.mean if np.isnan(full.low) else full.low) > 0:
        return Interval(np.nan, np.nan, np.nan, len(parts), lost)
    mean = parts.mean() / wholes.mean()
    return summary.interval(mean + (parts - mean * wholes) / wholes.mean())._replace(diverged=lost)


def rank_correlations(rows: summary.Rows, x: str, min_conditions: int = 3) -> pd.Series:
    """Spearman's rank correlation of a column with the transfer over the conditions, one for each base seed."""
    by_seed = rows.groupby("seed")[[x, TRANSFER]]
    values = {seed: part.corr("spearman", min_conditions).loc[x, TRANSFER] for seed, part in by_seed}
    return pd.Series(values, dtype=float).dropna()


def theory(rows: summary.Rows) -> list[Claim]:
    """Whether first-order predictions (slopes, and the first step at the learning rate) rank conditions by transfer."""
    plain, adam = (name for name in _PREDICTIONS if name.startswith("theory/"))
    if {plain, adam} <= set(rows.columns):
        adaptive = rows["optimizer"].isin(["adam", "sign"])
        rows = rows.assign(first_step=rows["lr"] * rows[adam].where(adaptive, rows[plain]))
    claims = []
    for column, (name, published) in _PREDICTIONS.items():
        if column in rows:
            correlation = f"{name} ranks conditions: rho"
            claims += evaluate({f"{correlation} > 0": published}, {correlation: rank_correlations(rows, column, 4)})
    return claims


def signed(interval: Interval, digits: int = 2) -> str:
    """A mean with its interval, with signs and so many digits."""
    if not interval.n:
        return str(interval)
    if np.isnan(interval.low):
        return f"{interval.mean:+.{digits}f}"
    return f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def table(claims: Iterable[Claim], rows: summary.Rows, labels: Sequence[str]) -> pd.DataFrame:
    """The claims with their verdicts, and below them the transfer of every condition and the trait's probability."""
    lines = [(c.text, c.published, _measured(c.difference), c.verdict) for c in claims]
    if rows[TRANSFER].notna().any():
        conditions = plots.series(rows.assign(data=rows["data"].replace(NAMES)), labels)
        lines += [_condition(label, part) for label, part in conditions]
    return pd.DataFrame(lines, columns=["claim, or condition", "published", "here", "verdict"])


def _condition(label: str, rows: summary.Rows) -> tuple[str, str, str, str]:
    own = summary.interval(rows[TRANSFER].to_numpy(float))
    living = rows[rows[TRANSFER].notna()]
    before, after, cross = (living[f"at/{name}"].mean() for name in ("probability_control", "probability", "cross"))
    other = "" if np.isnan(cross) else f"; other animal {cross:+.2f}"
    lost = f", {own.diverged} of {len(rows)} diverged" if own.n and own.diverged else ""
    return f"transfer: {label}", "", f"{signed(own)}{other}{lost}", f"P {before:.3f} to {after:.3f}" if own.n else ""


def _measured(difference: Interval) -> str:
    """A difference with its interval, the number of seeds and the number of diverged seeds."""
    number = f", n = {difference.n}" if difference.n else ""
    lost = f", {difference.diverged} diverged" if difference.n and difference.diverged else ""
    return f"{signed(difference)}{number}{lost}"
