"""Comparison of theory and measurement for each condition, with verdicts. No JAX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from sublim_jax.results import summary

_ACCURACY = "at/student_accuracy"


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


LAWS = (
    Prediction("D2 first step of the latent", "theory/first_step_cosine", "at/first_step_cosine", "value"),
    *(
        Prediction(
            f"D3 likeness of the {head.replace('_', ' ')}s",
            f"theory/cosine/teacher_student_init/{head}",
            f"at/cosine/teacher_student_init/{head}",
            "value",
        )
        for head in ("class_head", "aux_head")
    ),
    Prediction("D4 noisy class head", "theory/class_noise_accuracy", _ACCURACY, "value"),
    Prediction("D4 runner-up bound", "theory/class_noise_upper", _ACCURACY, "upper"),
    Prediction("D4 union bound", "theory/class_noise_lower", _ACCURACY, "lower"),
    Prediction("D5 oracle of fixed heads", "theory/oracle_accuracy", _ACCURACY, "upper", "random_hidden"),
    Prediction("D5 teacher's latent", "theory/ceiling_accuracy", _ACCURACY, "level"),
    Prediction(
        "D7 drift of the class head, given its size",
        "theory/cosine/teacher_init_final/class_head",
        "at/cosine/teacher_init_final/class_head",
        "lower",
    ),
    Prediction(
        "D7 drift of the auxiliary head, given its size",
        "theory/cosine/teacher_student_final/aux_head",
        "at/cosine/teacher_student_final/aux_head",
        "value",
    ),
)


def table(rows: summary.Rows, laws: tuple[Prediction, ...] = LAWS) -> pd.DataFrame:
    """One line per law and condition at the last evaluation; laws without measured columns are left out.

    Columns: the labels, `law`, `kind`, `predicted` and `measured` (means over seeds), `difference` (measured -
    predicted of the same seed, an `Interval`), `verdict`, `regime`, `seeds`. With m the margin .03: a value agrees
    where the interval lies within +-m, and differs where it lies beyond; a bound holds where the interval lies within
    it (or a thousandth beyond), and is violated where it lies beyond. Else the verdict is `undecided`, as with fewer
    than three seeds; `identity` where both are the same number to rounding for every seed; a level has none. A regime
    is `outside` where the law is for another condition.
    """
    final = summary.last(rows)
    labels = summary.labels_of(final)
    there = [law for law in laws if law.predicted in final and law.measured in final]
    found = []
    for law in there:
        use = final[final[law.predicted].notna() & final[law.measured].notna()]
        for name, those in use.groupby(labels, sort=False, dropna=False):
            point = dict(zip(labels, name if isinstance(name, tuple) else (name,), strict=True))
            found.append({**point, **_line(law, those, point)})
    columns = [*labels, "law", "kind", "predicted", "measured", "difference", "verdict", "regime", "seeds"]
    return pd.DataFrame(found, columns=columns)


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """The number of comparisons with each verdict, by law, inside and outside the regime of the law.

    Conditions with the same two numbers, such as a student that is in several arms, count once.
    """
    if found.empty:
        return pd.DataFrame()
    found = found.drop_duplicates(["law", "regime", "predicted", "measured"])
    lines: summary.Rows = found.groupby(["law", "kind", "regime", "verdict"], sort=False).size()
    return lines.unstack("verdict", fill_value=0)


def _line(law: Prediction, rows: summary.Rows, point: Mapping[str, Any]) -> dict[str, object]:
    difference = summary.interval(list(rows[law.measured] - rows[law.predicted]))
    return {
        "law": law.name,
        "kind": law.kind,
        "predicted": float(rows[law.predicted].mean()),
        "measured": float(rows[law.measured].mean()),
        "difference": difference,
        "verdict": _verdict(law.kind, difference, list(rows[law.measured] - rows[law.predicted])),
        "regime": "inside" if _inside(law, point) else "outside",
        "seeds": len(rows),
    }


def _inside(law: Prediction, point: Mapping[str, Any]) -> bool:
    return not law.condition or (law.condition == point.get("condition") and float(point.get("share", 0)) == 0)


MARGIN, ROUNDING = 0.03, 1e-3


def _verdict(kind: str, difference: summary.Interval, each: Sequence[float]) -> str:
    if kind == "level":
        return ""
    if max(map(abs, each)) < 1e-6:
        return "identity"
    if len(each) < 3:
        return "undecided"
    if kind == "value":
        if max(-difference.low, difference.high) <= MARGIN:
            return "agrees"
        return "differs" if difference.low > MARGIN or difference.high < -MARGIN else "undecided"
    sign = 1 if kind == "upper" else -1
    least, most = sorted((sign * difference.low, sign * difference.high))
    return "holds" if most <= ROUNDING else "violated" if least > ROUNDING else "undecided"


BOUNDS = {
    "D4 class head's noise": "theory/class_noise_upper",
    "D5 teacher's latent": "theory/ceiling_accuracy",
    "D5 fixed heads": "theory/oracle_accuracy",
}
NEAR = 0.05  # of accuracy: a bound or level this near is called active


def active_bounds(rows: summary.Rows) -> pd.DataFrame:
    """The nearest bound or level of accuracy in each condition at the last evaluation, and other limits of transfer.

    Columns: the labels, `measured`, `bound` (its name), `bound_value` and `active` (measured within .05 of the bound,
    or above it); the bound of fixed heads counts for `random_hidden` only, that of a noisy class head only where it is
    noisy. Two further columns limit transfer without bounding accuracy: `equations` (targets per trained weight, too
    few below 1) and `first_step` (predicted cosine).
    """
    final = summary.last(rows)
    labels, found = summary.labels_of(final), []
    for name, those in final.groupby(labels, sort=False, dropna=False):
        point = dict(zip(labels, name if isinstance(name, tuple) else (name,), strict=True))
        random = point.get("condition") == "random_hidden"
        means = {
            bound: float(those[column].mean())
            for bound, column in BOUNDS.items()
            if column in those and those[column].notna().all() and _counts(bound, those, random)
        }
        measured = float(those[_ACCURACY].mean())
        bound = min(means, key=lambda key: means[key]) if means else ""
        value = means.get(bound, float("nan"))
        line = {"measured": measured, "bound": bound, "bound_value": value, "active": measured > value - NEAR}
        also = {"equations": "theory/equations_per_weight", "first_step": "theory/first_step_cosine"}
        line |= {told: float(those[column].mean()) for told, column in also.items() if column in those}
        found.append({**point, **line})
    return pd.DataFrame(found)


def _counts(bound: str, rows: summary.Rows, random: bool) -> bool:
    """Whether a bound applies to these rows; without noise the bound of a noisy head equals the accuracy."""
    if "fixed" in bound:
        return random
    return "noise" not in bound or bool((rows["theory/class_noise_upper"] > rows["theory/class_noise_lower"]).any())
