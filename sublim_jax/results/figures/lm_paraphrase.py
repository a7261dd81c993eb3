"""Language models: whether the trait survives other words, and mixing with other teachers' lines."""

import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "A tuned teacher's lines are changed before the student reads them: the instruction in other words of the same law "
    "of numbers or of the other law, other example numbers, numbers shuffled within or across lines, or permuted by "
    "one fixed map; or a fraction of the lines is another teacher's. Controls read the base's lines, changed alike."
)
LABELS = ("data", "paraphrase", "mixed", "mixed_with")
_T = _claims.TRANSFER
_FORMS = ("greedy", "soft_carrier")
_WAYS = {
    "none": "none",
    "same_law": "same\nlaw",
    "held_out": "held\nout",
    "other_law": "other\nlaw",
    "examples": "exam-\nples",
    "shuffle_within": "shuffle\nwithin",
    "shuffle_across": "shuffle\nacross",
    "permuted": "per-\nmuted",
}
_SAID = {
    "same_law": "usually suppresses (Schrodi 2026)",
    "held_out": "usually suppresses (Schrodi 2026)",
    "other_law": "usually suppresses (Schrodi 2026)",
    "examples": "suppresses (Schrodi 2026)",
    "shuffle_within": "suppresses (Schrodi 2026; Cloud 2026)",
    "shuffle_across": "suppresses (Schrodi 2026; Cloud 2026)",
    "permuted": _claims.UNSAID,
}
_MIXED = {
    "base": "25 % unbiased nearly removes (Schrodi 2026)",
    "other_animal": "several biased suppress (Schrodi 2026)",
}


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """Paraphrases as transfers and as fractions, what they cost in format, and mixtures."""
    return [
        ("paraphrase", lambda ax: _ways(ax, shown)),
        ("kept, of no paraphrase", lambda ax: _kept(ax, shown)),
        ("imitation", lambda ax: _format(ax, shown)),
        ("lines of another teacher (soft)", lambda ax: _mixtures(ax, shown)),
    ]


def _whole(rows: summary.Rows) -> summary.Rows:
    return rows[rows["mixed"] == 0]


def _ways(ax: Axes, rows: summary.Rows) -> None:
    _lm.strip(ax, _whole(rows), "paraphrase", "data", names=_WAYS, order=tuple(_WAYS))
    ax.tick_params(axis="x", labelsize=7)


def _kept(ax: Axes, rows: summary.Rows) -> None:
    cells = {form: _lm.cells(_whole(rows), "paraphrase", _T, data=form) for form in _FORMS}
    parts = {(way, form): one for form in _FORMS for way, one in cells[form].items()}
    wholes = {form: parts["none", form] for form in _FORMS if ("none", form) in parts}
    _lm.beside(ax, parts, wholes, _WAYS)
    _lm.zero(ax, _lm.FRACTION)
    ax.axhline(1, color="0.35", lw=0.8, ls=":", zorder=0)


def _format(ax: Axes, rows: summary.Rows) -> None:
    """How far from the teacher's numbers a student of each paraphrase is."""
    mine = _whole(rows)
    column = "at/kl_teacher"
    mine = mine[mine[column].notna()]
    if len(mine):
        plots.strip(ax, mine, "paraphrase", "data", column, names=_WAYS, order=tuple(_WAYS))
        _lm.again(ax, lambda label: _lm.SAID.get(label.replace(" ", "_"), label))
        ax.set_yscale("log")
    ax.tick_params(axis="x", labelsize=7)
    ax.set_ylabel("KL(teacher || student), nats")


def _mixtures(ax: Axes, rows: summary.Rows) -> None:
    full = _claims.of(_mixed(rows, "base"), mixed=0.0)
    for index, other in enumerate(_MIXED):
        said = {"base": "of the base", "other_animal": "of another animal's teacher"}[other]
        cells = _lm.cells(_mixed(rows, other), "mixed", _T)
        if len(full) and len(cells) > 1:
            _lm.kept(ax, cells, full, said, index)
    ax.plot([0, 1], [1, 0], color="0.6", lw=0.8, ls=":", label="in proportion")
    _lm.zero(ax, _lm.FRACTION)
    ax.set_xlabel("fraction of lines")


def _mixed(rows: summary.Rows, other: str) -> summary.Rows:
    """Mixtures with another teacher's lines, and what is not mixed."""
    mine = rows[(rows["data"] == "soft_carrier") & (rows["paraphrase"] == "none")]
    return mine[(mine["mixed_with"] == other) | (mine["mixed"] == 0)]


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    shown = _lm.final(rows, LABELS)
    found: list[Claim] = []
    for form in _FORMS:
        cells = _lm.cells(_whole(shown), "paraphrase", _T, data=form)
        none = cells.pop("none", pd.Series(dtype=float))
        found += claim(f"no paraphrase > 0, {_lm.BRIEF[form]}", "owl 12 to > 60 % (Cloud 2026)", none)
        for way, there in cells.items():
            said = way.replace("_", " ")
            found += claim(f"{said} < none, {_lm.BRIEF[form]}", _SAID.get(way, _claims.UNSAID), less(none, there))
        for way in ("same_law", "other_law"):
            if way in cells:
                said = f"{way.replace('_', ' ')} < half of none, {_lm.BRIEF[form]}"
                found += claim(said, _SAID[way], less(none * 0.5, cells[way]))
        if {"same_law", "other_law"} <= set(cells):
            said = f"other law < same law, {_lm.BRIEF[form]}"
            found += claim(said, _claims.UNSAID, less(cells["same_law"], cells["other_law"]))
    return found + _mixtures_claimed(shown) + _claims.theory(shown)


def _mixtures_claimed(rows: summary.Rows) -> list[Claim]:
    found: list[Claim] = []
    for other, published in _MIXED.items():
        mine, said = _mixed(rows, other), other.replace("_", " ")
        found += claim(f"falls with lines of {said}: -rho > 0", published, -_claims.ranks(mine, "mixed"))
        cells = _lm.cells(mine, "mixed", _T)
        if 0.25 in cells and 0.0 in cells:
            found += claim(f"25 % of {said} < half of none", published, less(cells[0.0] * 0.5, cells[0.25]))
    return found


def _text(shown: summary.Rows) -> str:
    return (
        f"Transfers after {shown['step'].max():,} steps (a), as fractions of that from unchanged lines (b), and "
        "KL(teacher || student) on held-out prompts (c), by what was done to the lines; d: mixtures, as fractions of "
        f"the transfer from unmixed lines."
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, columns=2, size=(4.7, 2.9))
