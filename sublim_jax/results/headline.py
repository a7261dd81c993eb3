"""What came out of a sweep, in a few sentences computed from its rows. No JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sublim_jax.results import figures, plots, summary, theory_table

TRANSFER = "at/transfer"
_VERDICTS = {
    **{"yes": "agree with the rows", "no": "do not agree with the rows", "holds": "hold", "agrees": "agree"},
    **{"differs": "differ", "identity": "are identities", "undecided": "are undecided", "violated": "are violated"},
    **{"not settled": "are not settled", "reversed": "are reversed"},
}
_MOST = 12  # conditions whose means an alternative text names


def headline(rows: pd.DataFrame, figure: Any) -> str:
    """The conditions with the highest and the lowest transfer, and how many claims and predictions hold.

    Args:
        rows: The rows of a sweep.
        figure: A figure, as `figures.pick` returns it.
    """
    means, quantity, unit = _means(rows, figure)
    return " ".join(filter(None, (_extremes(means, quantity, unit), _levels(rows), _verdicts(rows, figure))))


def alternative_text(rows: pd.DataFrame, figure: Any) -> str:
    """A text that replaces the figure: its title, what came out, and the means of the first conditions."""
    means, quantity, unit = _means(rows, figure)
    shown = "; ".join(f"{name}: {_number(value, unit)}" for name, value in list(means.items())[:_MOST])
    more = f"; and {len(means) - _MOST} more in the table" if len(means) > _MOST else ""
    listed = f" Means of {quantity}: {shown}{more}." if shown else ""
    return f"{figures.title(figure)}. {headline(rows, figure)}{listed}"


def _means(rows: pd.DataFrame, figure: Any) -> tuple[dict[str, float], str, str]:
    """The mean at the last evaluation of each condition, in words; what it is the mean of, and its unit."""
    language = TRANSFER in rows and hasattr(figure, "final")
    column, quantity, unit = (
        (TRANSFER, "transfer", " nats") if TRANSFER in rows else (plots.ACCURACY, "student test accuracy", "")
    )
    final: Any = figure.final(rows) if language else summary.last(rows)
    if column not in final or not len(final):
        return {}, quantity, unit
    names = [name for name in summary.labels_of(final) if name != "animal" and final[name].nunique(dropna=False) > 1]
    names = [name for name in names if name in rows]  # without columns that a figure derives
    usual = {name: final[name].mode().iloc[0] if len(names) > 3 else None for name in names}
    groups = final.groupby(names, sort=False, dropna=False)[column] if names else [((), final[column])]
    means: dict[str, float] = {}
    for key, values in groups:
        if (text := _words(names, key, usual)) in means:
            text = _words(names, key, dict.fromkeys(names))
        means[text] = float(values.mean())
    return {name: mean for name, mean in means.items() if mean == mean}, quantity, unit


def _words(names: Sequence[str], key: Any, usual: Mapping[str, Any]) -> str:
    """A condition in words; of many labels only those that have not their usual value."""
    values = dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))
    kept = {name: value for name, value in values.items() if name in ("condition", "m") or value != usual[name]}
    return ", ".join(plots.label_text(name, value) for name, value in (kept or values).items()) or "students"


def _number(value: float, unit: str) -> str:
    return f"{value:+.2f}{unit}" if unit else f"{value:.3f}"


def _extremes(means: dict[str, float], quantity: str, unit: str) -> str:
    if not means:
        return ""
    high, low = max(means, key=lambda name: means[name]), min(means, key=lambda name: means[name])
    if len(means) == 1:
        return f"Mean {quantity}: {_number(means[high], unit)}."
    return (
        f"The highest mean {quantity} is {_number(means[high], unit)} ({high}), the lowest {_number(means[low], unit)} "
        f"({low}), of {len(means)} conditions."
    )


def _levels(rows: pd.DataFrame) -> str:
    columns = {"the teacher": "at/teacher_accuracy", "an untrained net": "at/untrained_accuracy"}
    final: Any = summary.last(rows)
    found = {name: float(final[column].mean()) for name, column in columns.items() if column in final}
    texts = [f"{name} {value:.3f}" for name, value in found.items() if value == value]
    return f"For comparison, on average: {', '.join(texts)}." if texts else ""


def _verdicts(rows: pd.DataFrame, figure: Any) -> str:
    if hasattr(figure, "claims"):
        claims = figure.claims(rows)
        # Claims of theorem1 end with the word `yes` or `no`.
        verdicts = [getattr(claim, "verdict", "") or claim[-1] for claim in claims]
        return _counted("claims", verdicts)
    single = [name for name in rows if rows[name].dtype == np.float32]  # as kept rows have it
    laws = theory_table.table(rows.astype(dict.fromkeys(single, np.float64)))
    inside = laws[(laws["regime"] == "inside") & (laws["verdict"] != "")]
    return _counted("comparisons with theory inside its regime", inside["verdict"].tolist())


def _counted(what: str, verdicts: Sequence[str]) -> str:
    if not verdicts:
        return ""
    counts = pd.Series(list(verdicts), dtype=object).value_counts()
    words = {verdict: _VERDICTS.get(str(verdict), f"not judged ({verdict})") for verdict in counts.index}
    texts = [f"{count} {words[verdict]}" for verdict, count in counts.items()]
    return f"Of {len(verdicts)} {what}: {', '.join(texts)}."
