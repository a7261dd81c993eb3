"""Theorem 1: a student's first step, and where the theorem stops."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from sublim_jax.results import plots, summary

ABOUT = (
    "Cloud et al. 2026, Theorem 1: a teacher stands eps times minus its loss's gradient away from where both began; "
    "measured is the student's step in float64, and beside it what the theorem says to leading order in eps."
)
LABELS = ("arm", "condition", "net_activation", "loss", "sees", "eps", "alpha", "batch", "samples", "optimizer")
_TITLES = ("(a) the law", "(b) sign", "(c) teacher's loss", "(d) many steps", "(e) sampled labels", "(f) large eps")
_MISSING: dict[str, Any] = {
    "arm": "none",
    "condition": "same",
    "net_activation": "relu",
    "teacher_frozen": "none",
    "loss": "mse",
    "sees": "aux",
    "stream": "uniform",
    "optimizer": "sgd",
    "batch": 0,
    "samples": 0,
    "eps": 1e-3,
    "alpha": 1.0,
}
_MEASURED = ("inner", "ratio", "cosine", "norm", "loss_change", "positive")
# The theorem wants a smooth net: where units begin to cross kinks, |ratio - 1| goes over from c eps to a larger C eps.
_KINKED = ("relu", "leaky_relu")
_COLUMNS = [f"at/{name}" for name in _MEASURED] + [
    f"theory/{name}" for name in ("inner", "cosine", "loss_change", "positive")
]


def _filled(rows: summary.Rows) -> summary.Rows:
    return summary.labelled(rows, **_MISSING, **dict.fromkeys(_COLUMNS, np.nan))


def _arm(rows: summary.Rows, *names: str) -> summary.Rows:
    return rows[rows["arm"].isin(names)]


def _firsts(rows: summary.Rows) -> summary.Rows:
    """First steps at small eps on what the teacher says, of every arm that varies what there is to vary."""
    rows = rows[(rows["step"] == 1) & (rows["samples"] == 0) & (rows["eps"] <= 0.01) & (rows["alpha"] == 1)]
    rows = rows[(rows["optimizer"] == "sgd") & (rows["teacher_frozen"] == "none")]
    return rows.drop_duplicates([name for name in summary.labels_of(rows) if name != "arm"] + ["seed"])


def _cells(rows: summary.Rows) -> list[str]:
    return [name for name in summary.labels_of(rows) if name not in ("arm", "eps", "alpha")]


def draw(rows: pd.DataFrame) -> Figure:
    """Six panels: the law, its sign, the teacher's loss, and three ways in which the theorem stops."""
    figure, axes = plots.panels(6, size=(3.7, 3.2))
    rows = _filled(rows)
    drawn = _law, _sign, _descent, _steps, _samples, _far
    for ax, panel, title in zip(axes, drawn, _TITLES, strict=True):
        panel(ax, rows)
        ax.set_title(title)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=6.5, handlelength=1.6, labelspacing=0.25)
    return figure


def _errors(rows: summary.Rows) -> pd.DataFrame:
    """Median over seeds of |ratio - 1|, activation by eps."""
    mine = _arm(rows, "expansion")
    error: Any = mine.assign(error=(mine["at/ratio"] - 1).abs())
    return error.groupby(["net_activation", "eps"], sort=False)["error"].median().unstack("eps").sort_index(axis=1)


def _law(ax: Axes, rows: summary.Rows) -> None:
    found = _errors(rows)
    for index, (name, values) in enumerate(found.iterrows()):
        colour, marker = plots.look(index)
        ax.plot(found.columns, values, color=colour, marker=marker, ms=3, lw=1, label=str(name))
    if len(found):
        line = np.array([1e-5, 1.0])
        ax.plot(line, 0.1 * line, color="0.3", ls="--", lw=1, label="slope 1")
        ax.set_xscale("log")
        ax.set_yscale("log")
    ax.set_xlabel("eps")
    ax.set_ylabel("|inner product / prediction - 1|")


def _sign(ax: Axes, rows: summary.Rows) -> None:
    firsts = _firsts(rows)
    bins = np.linspace(-0.2, 0.5, 71).tolist()
    groups = ("same", "shared weights", ("aux", "class", "all")), ("random", "independent, aux", ("aux",))
    for index, (name, said, sees) in enumerate((*groups, ("random", "independent, all logits", ("all",)))):
        values = firsts.loc[(firsts["condition"] == name) & firsts["sees"].isin(sees), "at/cosine"].dropna()
        if len(values):
            below = int((values < 0).sum())
            label = f"{said}: {below:,} of {len(values):,} below 0"
            ax.hist(
                values,
                bins,
                color=plots.COLOURS[index],
                alpha=0.6,
                label=label,
                weights=[1 / len(values)] * len(values),
            )
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set_xlabel("cosine of student's step and teacher's")
    ax.set_ylabel("share of students")
    ax.set_ylim(0, ax.get_ylim()[1] * 1.25)


def _descent(ax: Axes, rows: summary.Rows) -> None:
    mine = _arm(rows, "descent")
    for index, (name, those) in enumerate(mine.groupby(["loss", "sees"], sort=False)):
        share = those.assign(share=those["at/loss_change"] / those["theory/loss_change"])
        found = share.groupby("alpha")["share"].quantile([0.05, 0.5, 0.95]).unstack()
        colour, marker = plots.look(index)
        ax.plot(found.index, found[0.5], color=colour, marker=marker, ms=3, lw=1, label=", ".join(name))
        ax.fill_between(found.index, found[0.05], found[0.95], color=colour, alpha=0.15, lw=0)
    if len(mine):
        ax.set_xscale("log")
    ax.axhline(1, color="0.3", ls="--", lw=0.8)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_ylim(-1, 1.6)
    ax.set_xlabel("alpha (eps = 0.01)")
    ax.set_ylabel("fall of the teacher's loss / prediction")


def _steps(ax: Axes, rows: summary.Rows) -> None:
    mine = _arm(rows, "sgd", "adam")
    groups = mine.groupby(["optimizer", "condition"], sort=False)
    for index, ((optimizer, condition), those) in enumerate(groups):
        for style, (eps, some) in zip(("-", "--", ":"), those.groupby("eps"), strict=False):
            found = some.groupby("step")["at/cosine"].mean()
            colour, marker = plots.look(index)
            said = f"{optimizer}, {'shared' if condition == 'same' else 'independent'}, eps = {eps:g}"
            ax.plot(found.index, found, color=colour, ls=style, marker=marker, ms=3, lw=1, label=said)
    if len(mine):
        ax.set_xscale("log")
        ax.set_ylim(top=ax.get_ylim()[1] * 1.7)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_xlabel("student's steps")
    ax.set_ylabel("mean cosine to the teacher's displacement")


def _signs(rows: summary.Rows) -> Any:
    """Of sampled labels: share of positive inner products, its prediction, and eps sqrt(samples quadratic)."""
    mine = rows[rows["samples"] > 0]
    at = mine["eps"] * np.sqrt(mine["samples"] * mine["batch"] * mine["theory/inner"])
    names = ["eps", "samples", "batch"]
    return mine.assign(at=at).groupby(names)[["at", "at/positive", "theory/positive"]].mean().reset_index()


def _samples(ax: Axes, rows: summary.Rows) -> None:
    found = _signs(rows)
    for index, (count, those) in enumerate(found.groupby("samples")):
        colour, marker = plots.look(index)
        ax.plot(
            those["at"],
            those["at/positive"],
            marker,
            color=colour,
            ms=4,
            label=f"{count} {'label' if count == 1 else 'labels'} an input",
        )
    if len(found):
        line = np.geomspace(found["at"].min(), found["at"].max(), 200)
        ax.plot(line, stats.norm.cdf(line), color="0.3", lw=1, label="Φ, predicted")
        ax.set_xscale("log")
    ax.set_xlabel("eps √(inputs · labels · prediction)")
    ax.set_ylabel("share of positive inner products")


def _far(ax: Axes, rows: summary.Rows) -> None:
    mine = _arm(rows, "expansion")
    for index, (name, those) in enumerate(mine.groupby("net_activation", sort=False)):
        found = those.groupby("eps")["at/cosine"].quantile([0.05, 0.5, 0.95]).unstack()
        colour, marker = plots.look(index)
        ax.plot(found.index, found[0.5], color=colour, marker=marker, ms=3, lw=1, label=str(name))
        ax.fill_between(found.index, found[0.05], found[0.95], color=colour, alpha=0.15, lw=0)
    if len(mine):
        ax.set_xscale("log")
        ax.set_xlim(left=1e-3)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_xlabel("eps")
    ax.set_ylabel("cosine of student's step and teacher's")


def slopes(rows: summary.Rows) -> dict[str, float]:
    """Slope of log |ratio - 1| against log eps, by activation, where eps is from 1e-5 to 0.1.

    Below it lies float noise for activations that deviate little, above it the next order.
    """
    found = _errors(rows)
    found: Any = found.loc[:, (found.columns >= 0.99e-5) & (found.columns <= 0.101)]
    if found.shape[1] < 2:
        return {}
    log = np.log10(found.columns.to_numpy(float))
    return {str(name): float(np.polyfit(log, np.log10(values), 1)[0]) for name, values in found.iterrows()}


def claims(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What the theorem claims, what was measured, and whether that agrees, as far as the rows say."""
    rows, found = _filled(rows), []
    firsts = _firsts(rows)
    if sloped := slopes(rows):
        said = ", ".join(f"{name} {value:.2f}" for name, value in sloped.items())
        smooth = [value for name, value in sloped.items() if name not in _KINKED] or list(sloped.values())
        kinked = " (smooth ones are meant)" if len(smooth) < len(sloped) else ""
        good = _yes(all(0.8 < one < 1.2 for one in smooth))
        found.append(("|ratio - 1| falls as eps", f"slopes {said}{kinked}", good))
        best = _errors(rows).min(axis=1)
        found.append(
            ("ratio -> 1", f"smallest median |ratio - 1| {best.min():.0e} to {best.max():.0e}", _yes(best.max() < 1e-5))
        )
    same = firsts[firsts["condition"] == "same"]["at/cosine"].dropna()
    if len(same):
        low = f"{(same < 0).sum()} of {len(same):,} below 0, smallest cosine {same.min():.3g}"
        found.append(("shared weights: inner product >= 0", low, _yes(not (same < 0).any())))
    found += _independent(firsts[firsts["condition"] == "random"])
    found += _falls(rows) + _zeros(rows) + _sampled(rows)
    return found


def _independent(rows: summary.Rows) -> list[tuple[str, str, str]]:
    """Of one net, because seeds that serve many conditions are not independent; all of them in words."""
    own = rows[rows["arm"] == "activation"]
    relu = own[own["net_activation"] == "relu"]
    ups = (relu["at/cosine"] > 0).sum()
    if not len(relu):
        return []
    p = stats.binomtest(int(ups), len(relu)).pvalue
    said = f"relu net {ups} of {len(relu)} above 0 (binomial p = {p:.2g})"
    for sees, those in rows.groupby("sees", sort=False):
        said += (
            f"; {sees}: {(those['at/cosine'] > 0).sum()} of {len(those)} in all, mean {those['at/cosine'].mean():.3f}"
        )
    return [("independent weights: random sign", said, _yes(p >= 0.05))]


def _yes(agrees: Any) -> str:
    return "yes" if agrees else "no"


def _falls(rows: summary.Rows) -> list[tuple[str, str, str]]:
    mine = _arm(rows, "descent")
    if not len(mine):
        return []
    low = mine[mine["alpha"] <= 1]
    falls = (low["at/loss_change"] < 0).mean()
    share = mine.assign(falls=mine["at/loss_change"] < 0).groupby(["loss", "sees", "alpha"])["falls"].mean()
    until = share[share >= 0.5].reset_index().groupby(["loss", "sees"])["alpha"].max()
    said = ", ".join(f"{' '.join(name)} {alpha:g}" for name, alpha in until.items())
    text = f"falls in {falls:.1%} of {len(low):,} (alpha <= 1); in half of the seeds until alpha = {said}"
    return [("the teacher's loss falls for small alpha", text, _yes(falls == 1))]


def _zeros(rows: summary.Rows) -> list[tuple[str, str, str]]:
    mine: Any = rows[(rows["teacher_frozen"] != "none") & (rows["sees"] == "aux")]
    if not len(mine):
        return []
    largest = float(mine["at/inner"].abs().max())
    text = f"largest |inner product| {largest:g} in {len(mine)} students, largest step {mine['at/norm'].max():.1g}"
    return [("class head alone moved, auxiliary logits imitated: 0", text, _yes(largest == 0))]


def _sampled(rows: summary.Rows) -> list[tuple[str, str, str]]:
    found = _signs(rows)
    if not len(found):
        return []
    off = float((found["at/positive"] - found["theory/positive"]).abs().max())
    low, high = found["at/positive"].min(), found["at/positive"].max()
    text = f"share of positive signs {low:.2f} to {high:.2f}; at most {off:.3f} from Φ(eps √(inputs labels q))"
    return [("sampled labels: sign by chance (not in the theorem)", text, _yes(off < 0.05))]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Claim by claim what was measured."""
    return pd.DataFrame(claims(rows), columns=["claim", "measured", "agrees"])


def caption(rows: pd.DataFrame) -> str:
    """The caption of the figure that these rows give."""
    seeds = len(set(rows["seed"]))
    over = "One seed" if seeds == 1 else f"Over {seeds} seeds, float64"
    short = {"|ratio - 1| falls as eps": "(a)", "shared weights: inner product >= 0": "(b) shared weights"}
    short |= {"independent weights: random sign": "independent", "the teacher's loss falls for small alpha": "(c)"}
    said = [f"{short[claim]}: {measured}" for claim, measured, _ in claims(rows) if claim in short]
    return (
        f"{over}. {'. '.join(said)}{'. ' if said else ''}Bands of (c), (f): 5 to 95 % of seeds; (d) displacement after "
        "many steps; (e) signs of draws, 100 a seed in full size."
    )
