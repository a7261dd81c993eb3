"""Comparison of theory and measurement for each condition, with verdicts. No JAX."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from sublim_jax.results import summary
from sublim_jax.results.plots import ACCURACY

MARGIN, ROUNDING = 0.03, 1e-3
NEAR = 0.05  # of accuracy: a bound or level this near is called active


class Prediction(NamedTuple):
    """One prediction: its name, the columns to compare, and the kind of claim.

    kind       value: the mean; upper or lower: a bound on it; level: what to compare with, which bounds nothing
    condition  the only condition for which the claim is made, with share 0; '' = all. Other conditions are compared
               too, and are marked as outside the regime
    """

    name: str
    predicted: str
    measured: str
    kind: str
    condition: str = ""


def _cosine(name: str, column: str, kind: str = "value") -> Prediction:
    return Prediction(name, f"theory/{column}", f"at/{column}", kind)


LAWS = (
    _cosine("D2 first step of the latent", "first_step_cosine"),
    _cosine("D3 likeness of the class heads", "cosine/teacher_student_init/class_head"),
    _cosine("D3 likeness of the aux heads", "cosine/teacher_student_init/aux_head"),
    Prediction("D4 noisy class head", "theory/class_noise_accuracy", ACCURACY, "value"),
    Prediction("D4 runner-up bound", "theory/class_noise_upper", ACCURACY, "upper"),
    Prediction("D4 union bound", "theory/class_noise_lower", ACCURACY, "lower"),
    Prediction("D5 oracle of fixed heads", "theory/oracle_accuracy", ACCURACY, "upper", "random_hidden"),
    Prediction("D5 teacher's latent", "theory/ceiling_accuracy", ACCURACY, "level"),
    _cosine("D7 drift of the class head, given its size", "cosine/teacher_init_final/class_head", "lower"),
    _cosine("D7 drift of the auxiliary head, given its size", "cosine/teacher_student_final/aux_head"),
)
_COLUMNS = ("law", "kind", "predicted", "measured", "difference", "verdict", "regime", "seeds")


def table(rows: summary.Rows, laws: tuple[Prediction, ...] = LAWS) -> pd.DataFrame:
    """One line per law and condition at the last evaluation; laws without measured columns are left out.

    Returns:
        The labels, `law`, `kind`, means `predicted` and `measured`, `difference` (measured minus predicted of the same
        seed, an `Interval`), `verdict`, `regime` and `seeds`. A value agrees where the interval lies within the margin
        of .03, and differs where it lies beyond; a bound holds where the interval lies within it (or a thousandth
        beyond), and is violated where it lies beyond. Else the verdict is `undecided`, as with fewer than three seeds;
        `identity` where both are the same number to rounding for every seed; a level has none. The regime is `outside`
        where the law is for another condition. If any student diverged, `diverged` has their number; they are left out,
        and the verdict is `diverged` where no other is left.
    """
    final, lines = summary.last(rows), []
    for law in laws:
        if {law.predicted, law.measured} <= set(final.columns):
            both = final[final[law.predicted].notna() & (final[law.measured].notna() | summary.diverged(final))]
            lines += [{**labels, **_line(law, part, labels)} for labels, part in _conditions(both)]
    frame: summary.Rows = pd.DataFrame(lines, columns=[*summary.labels_of(final), *_COLUMNS, "diverged"])
    return frame if frame["diverged"].any() else frame.drop(columns="diverged")


def _conditions(final: summary.Rows) -> Iterator[tuple[dict[str, Any], summary.Rows]]:
    """The labels of each condition, and its rows."""
    names = summary.labels_of(final)
    for values, part in final.groupby(names, sort=False, dropna=False):
        yield dict(zip(names, values, strict=True)), part


def _line(law: Prediction, rows: summary.Rows, labels: Mapping[str, Any]) -> dict[str, object]:
    lost = summary.diverged(rows)
    rows = rows[~lost]
    differences = rows[law.measured] - rows[law.predicted]
    difference = summary.interval(differences.to_numpy(float))._replace(diverged=int(lost.sum()))
    inside = not law.condition or (law.condition == labels.get("condition") and float(labels.get("share", 0)) == 0)
    return {
        "law": law.name,
        "kind": law.kind,
        "predicted": float(rows[law.predicted].mean()),
        "measured": float(rows[law.measured].mean()),
        "difference": difference,
        "verdict": _verdict(law.kind, difference, differences.abs().max()),
        "regime": "inside" if inside else "outside",
        "seeds": len(rows),
        "diverged": int(lost.sum()),
    }


def _verdict(kind: str, difference: summary.Interval, largest: float) -> str:
    """The verdict from the interval of the mean difference and the largest difference of a seed."""
    if not difference.n:
        return "diverged"
    if kind == "level":
        return ""
    if largest < 1e-6:
        return "identity"
    low, high = difference.low, difference.high
    if kind == "value":
        if max(-low, high) <= MARGIN:
            return "agrees"
        return "differs" if low > MARGIN or high < -MARGIN else "undecided"
    least, most = (low, high) if kind == "upper" else (-high, -low)
    return "holds" if most <= ROUNDING else "violated" if least > ROUNDING else "undecided"


def counts(comparisons: pd.DataFrame) -> pd.DataFrame:
    """The number of comparisons with each verdict, by law, inside and outside the regime of the law.

    Args:
        comparisons: The result of `table`. Conditions with the same two numbers, such as a student that is in several
            arms, count once.
    """
    if comparisons.empty:
        return pd.DataFrame()
    once = comparisons.drop_duplicates(["law", "regime", "predicted", "measured"])
    lines: summary.Rows = once.groupby(["law", "kind", "regime", "verdict"], sort=False).size()
    return lines.unstack("verdict", fill_value=0)


def active_bounds(rows: summary.Rows) -> pd.DataFrame:
    """The nearest bound or level of accuracy in each condition at the last evaluation, and other limits of transfer.

    Columns: the labels, `measured`, `bound` (its name), `bound_value` and `active` (measured within .05 of the bound,
    or above it). Two further columns limit transfer without bounding accuracy: `equations` (targets per trained
    weight, too few below 1) and `first_step` (predicted cosine).
    """
    lines = []
    for labels, part in _conditions(summary.last(rows)):
        part = part[~summary.diverged(part)]
        measured, bounds = float(part[ACCURACY].mean()), _bounds(part, labels)
        bound = min(bounds, key=lambda name: bounds[name]) if bounds else "" if len(part) else "diverged"
        value = bounds.get(bound, float("nan"))
        line = {"measured": measured, "bound": bound, "bound_value": value, "active": measured > value - NEAR}
        limits = {"equations": "theory/equations_per_weight", "first_step": "theory/first_step_cosine"}
        line |= {name: float(part[column].mean()) for name, column in limits.items() if column in part}
        lines.append({**labels, **line})
    return pd.DataFrame(lines)


def _bounds(rows: summary.Rows, labels: Mapping[str, Any]) -> dict[str, float]:
    """The bounds of a condition's accuracy that apply, by name.

    The bound of fixed heads is for `random_hidden` only. Without noise the bound of a noisy head equals the accuracy.
    """
    columns = {"D5 teacher's latent": "theory/ceiling_accuracy"}
    upper, lower = "theory/class_noise_upper", "theory/class_noise_lower"
    if upper in rows and (rows[upper] > rows[lower]).any():
        columns = {"D4 class head's noise": upper, **columns}
    if labels.get("condition") == "random_hidden":
        columns["D5 fixed heads"] = "theory/oracle_accuracy"
    return {
        name: float(rows[column].mean())
        for name, column in columns.items()
        if column in rows and len(rows) and rows[column].notna().all()
    }
