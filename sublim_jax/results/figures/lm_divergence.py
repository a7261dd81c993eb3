"""Language models: whether the tokens on which counterfactual teachers disagree carry the trait."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _claims, _lm
from sublim_jax.results.figures._claims import Claim, claim, less

ABOUT = (
    "Greedy numbers of a tuned teacher; every token has as many votes as teachers of other animals would have said "
    "another one. A budget of the tokens with most votes, fewest, or any at random is masked, alone kept, or changed."
)
LABELS = ("dose", "tokens", "budget")
# Fractions of the full transfer left when 10 % of the tokens are masked, Llama-1B. Source: brendanlong.
PUBLISHED = {"mask_top": {0.1: 0.43}, "mask_random": {0.1: 0.97}}
# Shares of divergence tokens. Sources: Schrodi et al. 2026 (any of 12 or 14 others), brendanlong (of 4).
RATES = {"any": {"Qwen2.5-7B": 0.075, "Gemma-3-4B": 0.183, "Llama-1B": 0.42}, "all": {"Llama-1B": 0.042}}
_WHO = ("top", "random", "bottom")
_EDITS = {
    "erase": "erase",
    "replace_label": "replace\nlabel",
    "replace_input": "replace\ninput",
    "replace_both": "replace\nboth",
}
_T = _claims.TRANSFER
_LLAMA = ".43 and .97 of full at 10 % (Llama-1B)"
_KEPT = "preserved, often amplified (Schrodi 2026)"


def _panels(rows: pd.DataFrame, shown: summary.Rows) -> _lm.Panels:
    """For every dose of the teacher masks, tokens kept and edits; and how many tokens diverge."""
    panels: list[tuple[str, Callable[[Axes], None]]] = []
    several = _doses(shown)
    for dose in several:
        mine, at = shown[shown["dose"] == dose], f", dose {dose:g}" if len(several) > 1 else ""
        panels += [
            (f"masked{at}", lambda ax, mine=mine: _budgets(ax, mine, "mask")),
            (f"alone kept{at}", lambda ax, mine=mine: _budgets(ax, mine, "keep")),
            (f"changed{at}", lambda ax, mine=mine: _edits(ax, mine)),
        ]
    panels.append(("how many diverge", lambda ax: _rates(ax, shown)))
    return panels


def _doses(rows: summary.Rows) -> list[float]:
    """Weak teachers first."""
    return plots.ordered(rows["dose"])


def _full(rows: summary.Rows) -> pd.Series:
    return _claims.of(rows, tokens="all")


def _budgets(ax: Axes, rows: summary.Rows, what: str) -> None:
    for index, who in enumerate(_WHO):
        name = f"{what}_{who}"
        _lm.kept(ax, _lm.cells(rows, "budget", _T, tokens=name), _full(rows), _SAID[who], index)
        if those := PUBLISHED.get(name):
            label = f"Llama-1B, {who}"
            plots.published(ax, list(those), list(those.values()), colour=plots.look(index)[0], label=label)
    _levels(ax)
    there = rows.loc[rows["tokens"].str.startswith(what), "budget"].unique()
    if len(there):
        plots.log(ax, there)
    ax.set_xlabel("fraction of tokens chosen")


_SAID = {"top": "most votes", "random": "random", "bottom": "fewest votes"}


def _levels(ax: Axes) -> None:
    _lm.zero(ax, _lm.FRACTION)
    ax.axhline(1, color="0.35", lw=0.8, ls=":", zorder=0)


def _edits(ax: Axes, rows: summary.Rows) -> None:
    mine = rows[rows["tokens"].str.rsplit("_", n=1).str[0].isin(list(_EDITS))]
    parts: dict[tuple[str, str], pd.Series] = {}
    for tokens in mine["tokens"].unique():
        what, who = tokens.rsplit("_", 1)
        parts[what, _SAID[who]] = _claims.of(mine, tokens=tokens)
    full = _full(rows)
    _lm.beside(ax, parts, {_SAID[who]: full for who in _WHO}, _EDITS)
    _levels(ax)
    if len(mine):
        ax.set_xlabel(f"{mine['budget'].iloc[0]:.0%} of tokens")


def _rates(ax: Axes, rows: summary.Rows) -> None:
    """Shares of divergence tokens here, and elsewhere."""
    names = {"any": "any other teacher\nsays another", "all": "all others\nsay another"}
    for place, which, column in ((0.0, "any", "at/divergent_any"), (1.5, "all", "at/divergent_all")):
        for index, dose in enumerate(_doses(rows)):
            values = rows[rows["dose"] == dose].dropna(subset=[column]).groupby("seed")[column].mean()
            if not len(values):
                continue
            colour, marker = plots.look(index)
            one, at = summary.interval(values.tolist()), place - 0.2 + 0.18 * index
            ax.plot([at - 0.04] * len(values), values, ".", color=colour, ms=4, mew=0, alpha=0.4)
            style = {"fmt": marker, "color": colour, "ms": 4.5, "capsize": 3}
            label = "_" if place else f"here, dose {dose:g}"
            ax.errorbar([at + 0.04], [one.mean], plots.ends([one]), label=label, **style)
        for name, value in RATES[which].items():
            plots.published(ax, place + 0.3, value, label="_")  # named beside it
            ax.annotate(name, (place + 0.3, value), (6, -2), textcoords="offset points", fontsize=6.5)
    ax.set_xticks([0, 1.5], list(names.values()), fontsize=8)
    ax.set(xlim=(-0.4, 2.4), ylabel="share of tokens")
    ax.set_ylim(bottom=0)


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims that were written down before the runs, with their measured differences."""
    shown, found = _lm.final(rows, LABELS), list[Claim]()
    several = _doses(shown)
    for dose in several:
        mine, at = shown[shown["dose"] == dose], f", dose {dose:g}" if len(several) > 1 else ""
        each = claim("all tokens > 0", "owl 12 to > 60 % (Cloud 2026)", _full(mine))
        for budget in plots.ordered(mine.loc[mine["tokens"] != "all", "budget"]):
            each += _claimed(mine[(mine["budget"] == budget) | (mine["tokens"] == "all")], budget)
        found += [one._replace(said=f"{one.said}{at}") for one in [*each, *_claims.theory(mine)]]
    return found


def _claimed(rows: summary.Rows, budget: float) -> list[Claim]:
    def of(tokens: str) -> pd.Series:
        return _claims.of(rows, tokens=tokens)

    at, full, found = f"({budget:.0%})", of("all"), []
    found += claim(f"mask top < mask random {at}", _LLAMA, less(of("mask_random"), of("mask_top")))
    found += claim(f"mask top < half of all {at}", _LLAMA, less(full * 0.5, of("mask_top")))
    found += claim(f"keep top > keep random {at}", _KEPT, less(of("keep_top"), of("keep_random")))
    found += claim(f"keep top > .8 of all {at}", _KEPT, less(of("keep_top"), full, 0.8))
    rest = less(of("keep_random"), of("keep_bottom"))
    found += claim(f"keep bottom < keep random {at}", "near the base rate (Schrodi 2026)", rest)
    for edit in _EDITS:
        said = f"{edit.replace('_', ' ')}: top < random {at}"
        found += claim(said, _claims.UNSAID, less(of(f"{edit}_random"), of(f"{edit}_top")))
    return found


def _text(shown: summary.Rows) -> str:
    several, whole = _doses(shown), []
    for dose in several:
        full = _full(shown[shown["dose"] == dose])
        said = _claims.text(summary.interval(full.tolist())) if len(full) else "not measured"
        whole.append(said + (f" of dose {dose:g}" if len(several) > 1 else ""))
    return (
        f"Fractions of the transfer from all tokens ({', '.join(whole)}; nats, after {shown['step'].max():,} steps; "
        "doses are nats of KL per number that the teacher moved). Votes are "
        "those of the seed's other teachers; every choice has its control, who reads the base's lines with as many "
        "tokens chosen at random. Open diamonds: published, of Llama-1B with 10 % masked, and shares of divergence "
        f"tokens."
    )


draw, caption, table = _lm.bound(LABELS, _panels, claims, _text, size=(3.6, 2.7))
