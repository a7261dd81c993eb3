"""Claims on language models: inequalities between samples of one value for each base seed, with verdicts.

The inequalities were written down before the rows were there. A claim holds where the 95 % bootstrap interval of its
difference over base seeds lies above 0, is reversed where it lies below 0, and is otherwise not settled.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sublim_jax.results import plots, summary
from sublim_jax.results.summary import Interval

TRANSFER = "at/transfer"
CROSS = "at/cross"
UNPUBLISHED = "not published"
MIN_SEEDS = 5  # for a verdict: a bootstrap interval of two seeds ends at the two seeds
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


def average_animals(rows: pd.DataFrame) -> summary.Rows:
    """One row for each condition, step and base seed: the mean over its animals, missing where one animal's is.

    Animals of a seed share its base, prompts and control student, so they are not independent; the base seed is the
    unit. Every seed has equally many animals, so resampling these rows is the cluster bootstrap over base seeds.
    """
    by = [name for name in summary.labels_of(rows) if name != "animal"] + ["seed", "step"]
    groups: Any = rows.groupby(by, sort=False, dropna=False)[[name for name in rows if "/" in str(name)]]
    complete = groups.count().eq(groups.size(), axis=0)
    return groups.mean().where(complete).reset_index()


class Claim(NamedTuple):
    """An inequality, what was published about it, and the difference of its sides, which should be above 0."""

    text: str
    published: str
    difference: Interval

    @property
    def verdict(self) -> str:
        """`holds`, `reversed` or `not settled`; with too few seeds for a verdict it says so."""
        if self.difference.n < MIN_SEEDS:
            return f"n < {MIN_SEEDS}"
        return "holds" if self.difference.low > 0 else "reversed" if self.difference.high < 0 else "not settled"


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
        if differences and all(values.notna().any() for values in differences):
            intervals = summary.intervals([values.to_numpy(float) for values in differences])
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
    """Mean of a part over mean of the whole, bootstrapped over seeds in pairs; NaN where the whole may be 0."""
    seeds = part.index.intersection(whole.index)
    parts, wholes = part.loc[seeds].to_numpy(float), whole.loc[seeds].to_numpy(float)
    undefined = Interval(np.nan, np.nan, np.nan, len(seeds))
    full = summary.interval(wholes.tolist()) if len(seeds) else undefined
    if not (full.mean if np.isnan(full.low) else full.low) > 0:
        return undefined
    mean = float(parts.mean() / wholes.mean())
    if len(seeds) < 2 or not np.isfinite(parts).all():
        return undefined._replace(mean=mean)
    ends = stats.bootstrap(
        (parts, wholes),
        lambda parts, wholes, axis: parts.mean(axis) / wholes.mean(axis),
        paired=True,
        n_resamples=summary.RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(ends.low), float(ends.high), len(seeds))


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


def signed(interval: Interval) -> str:
    """A mean with its interval, with signs."""
    if np.isnan(interval.low):
        return f"{interval.mean:+.2f}"
    return f"{interval.mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def table(claims: Iterable[Claim], rows: summary.Rows, labels: Sequence[str]) -> pd.DataFrame:
    """The claims with their verdicts, and below them the transfer of every condition and the trait's probability."""
    lines = [(c.text, c.published, f"{signed(c.difference)}, n = {c.difference.n}", c.verdict) for c in claims]
    if rows[TRANSFER].notna().any():
        conditions = plots.series(rows.assign(data=rows["data"].replace(NAMES)), labels)
        lines += [_condition(label, part) for label, part in conditions]
    return pd.DataFrame(lines, columns=["claim, or condition", "published", "here", "verdict"])


def _condition(label: str, rows: summary.Rows) -> tuple[str, str, str, str]:
    own, cross = summary.intervals([rows[TRANSFER].to_numpy(float), rows[CROSS].to_numpy(float)])
    before, after = rows["at/probability_control"].mean(), rows["at/probability"].mean()
    other = "" if np.isnan(cross.mean) else f"; other animal {cross.mean:+.2f}"
    return f"transfer: {label}", "", f"{signed(own)}{other}", f"P {before:.3f} to {after:.3f}"
