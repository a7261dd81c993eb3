"""Claims on language models: one number for each base seed, paired differences with intervals, and verdicts.

A claim is an ordered inequality that was written down before the rows were there. It holds where the 95 % bootstrap
interval of its difference over base seeds lies above 0, is reversed where it lies below, and is else not settled.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sublim_jax.results import plots, summary
from sublim_jax.results.summary import Interval

TRANSFER = "at/transfer"
CROSS = "at/cross"
UNSAID = "not published"
FEWEST = 5  # seeds that a verdict needs: the ends of a bootstrap of two are the two seeds
_PREDICTIONS = {  # first-order predictions that rank conditions before any training
    "theory/transfer_slope": ("slope of the first update", "did not predict (Pythia-160m, PolyPythia-SL)"),
    "theory/transfer_adam_slope": ("slope of Adam's first update", "did not predict (Pythia-160m, PolyPythia-SL)"),
    "first_step": ("first step: rate x its slope", "did not predict (Pythia-160m, PolyPythia-SL)"),
    "at/coverage": ("coverage", "about .95 (Madl 2026, to 6.9B)"),
}


def clustered(rows: pd.DataFrame) -> summary.Rows:
    """One row for each condition, mark and base seed: the mean over the animals of the seed.

    Animals of a seed share its base, prompts and control student, so they are no independent observations; the base
    seed is the unit. As every seed has equally many animals, resampling the rows of a condition is the cluster
    bootstrap over base seeds. A measurement that one animal lacks is missing for its seed.
    """
    by = [name for name in summary.labels_of(rows) if name != "animal"] + ["seed", "step"]
    found: Any = rows.groupby(by, sort=False, dropna=False)[[name for name in rows if "/" in str(name)]]
    whole = found.count().eq(found.size(), axis=0)
    return found.mean().where(whole).reset_index()


class Claim(NamedTuple):
    """An inequality in words, what was published about it, and the difference that should be above 0."""

    said: str
    published: str
    found: Interval

    @property
    def verdict(self) -> str:
        """`holds`, `reversed` or `not settled`; of few seeds that they are too few."""
        if self.found.n < FEWEST:
            return f"n < {FEWEST}"
        return "holds" if self.found.low > 0 else "reversed" if self.found.high < 0 else "not settled"


def of(rows: summary.Rows, column: str = TRANSFER, **labels: Any) -> pd.Series:
    """One value for each base seed, of the first condition with these labels; empty where there is none."""
    for name, value in labels.items():
        rows = rows[rows[name] == value]
    found = rows.drop_duplicates("seed").set_index("seed")[column]
    return found.dropna() if column == CROSS else found  # where a seed has one animal there is no other


def less(one: pd.Series, other: pd.Series, times: float = 1.0) -> pd.Series:
    """The paired difference one - times * other, of the seeds that both have."""
    both = one.index.intersection(other.index)
    return one.loc[both] - times * other.loc[both]


def claim(said: str, published: str, *differences: pd.Series) -> list[Claim]:
    """The claim that a difference is above 0; none where nothing was measured.

    Of several differences all must be: the one that is nearest to failing is shown.
    """
    measured = [one for one in differences if len(one) and one.notna().any()]
    if not measured or len(measured) < len(differences):
        return []
    found = summary.intervals([one.to_numpy(float) for one in measured])
    return [Claim(said, published, min(found, key=lambda one: one.mean if np.isnan(one.low) else one.low))]


def small(one: pd.Series, other: pd.Series, times: float) -> tuple[pd.Series, pd.Series]:
    """The two differences that say |mean of one| < times * mean of other: a test of equivalence."""
    return less(other * times, one), less(other * times, -one)


def ratio(part: pd.Series, whole: pd.Series) -> Interval:
    """Mean of a part over mean of the whole, with a bootstrap interval over seeds in pairs.

    NaN where the whole's own interval reaches 0, so that no fraction of it means anything.
    """
    both = part.index.intersection(whole.index)
    a, b = part.loc[both].to_numpy(float), whole.loc[both].to_numpy(float)
    full = summary.interval(b.tolist()) if len(b) else Interval(np.nan, np.nan, np.nan, 0)
    if not (full.mean if np.isnan(full.low) else full.low) > 0:
        return Interval(np.nan, np.nan, np.nan, len(b))
    mean = float(a.mean() / b.mean())
    if len(b) < 2 or not np.isfinite(a).all():
        return Interval(mean, np.nan, np.nan, len(b))
    ends = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) / y.mean(axis),
        paired=True,
        n_resamples=summary.RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(ends.low), float(ends.high), len(b))


def ranks(rows: summary.Rows, x: str, y: str = TRANSFER, fewest: int = 3) -> pd.Series:
    """Spearman's rank correlation of two columns over the conditions, one for each base seed."""
    found = {}
    for seed, those in rows.groupby("seed"):
        those = those[[x, y]].dropna()
        if len(those) >= fewest and those[x].nunique() > 1 and those[y].nunique() > 1:
            both: Any = stats.spearmanr(those[x], those[y])
            found[seed] = float(both.statistic)
    return pd.Series(found, dtype=float)


def theory(rows: summary.Rows) -> list[Claim]:
    """Whether what the first update says ranks the conditions as their transfer does.

    Slopes are for one unit of learning rate, so beside them stands the step that an optimiser takes first at its rate.
    """
    found: list[Claim] = []
    slopes = [name for name in _PREDICTIONS if name.startswith("theory/")]
    if set(slopes) <= set(rows.columns):
        adaptive = rows["optimizer"].isin(["adam", "sign"])
        rows = rows.assign(first_step=rows["lr"] * rows[slopes[1]].where(adaptive, rows[slopes[0]]))
    for column, (name, published) in _PREDICTIONS.items():
        if column in rows:
            found += claim(f"{name} ranks conditions: rho > 0", published, ranks(rows, column, fewest=4))
    return found


def text(found: Interval, digits: int = 2) -> str:
    """A mean with its interval, signed."""
    if np.isnan(found.low):
        return f"{found.mean:+.{digits}f}"
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def table(claims: Iterable[Claim], rows: summary.Rows, labels: Sequence[str]) -> pd.DataFrame:
    """The claims with their verdicts, and below them every condition's transfer, with the trait's probability."""
    lines = [(one.said, one.published, f"{text(one.found)}, n = {one.found.n}", one.verdict) for one in claims]
    if rows[TRANSFER].notna().any():
        said = rows.assign(filtered=rows["filtered"].map({True: "filtered", False: "not filtered"}))
        said["data"] = said["data"].map(lambda one: {"soft_carrier": "soft", "soft": "soft, all tokens"}.get(one, one))
        lines += [_line(*one) for one in plots.series(said, labels)]
    return pd.DataFrame(lines, columns=["claim, or condition", "published", "here", "verdict"])


def _line(label: str, rows: summary.Rows) -> tuple[str, str, str, str]:
    own, cross = summary.intervals([rows[TRANSFER].to_numpy(float), rows[CROSS].to_numpy(float)])
    before, after = rows["at/probability_control"].mean(), rows["at/probability"].mean()
    other = "" if np.isnan(cross.mean) else f"; other animal {cross.mean:+.2f}"
    return f"transfer: {label}", "", f"{text(own)}{other}", f"P {before:.3f} to {after:.3f}"
