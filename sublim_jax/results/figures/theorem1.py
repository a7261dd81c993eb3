"""Theorem 1: a student's first step, and where the theorem stops."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import only

ABOUT = (
    "Cloud et al. 2026, Theorem 1: the teacher is the common initial net moved by -eps times the gradient of its "
    "loss. The student's step is measured in float64 and compared with the theorem's prediction to leading order in "
    "eps."
)
_MISSING: dict[str, Any] = {
    **{"arm": "none", "condition": "same", "net_activation": "relu", "teacher_frozen": "none", "loss": "mse"},
    **{"sees": "aux", "optimizer": "sgd", "batch": 0, "samples": 0, "eps": 1e-3, "alpha": 1.0},
    **{f"at/{name}": np.nan for name in ("inner", "ratio", "cosine", "norm", "loss_change", "positive")},
    **{f"theory/{name}": np.nan for name in ("inner", "loss_change", "positive")},
}
# The theorem wants a smooth net: where units begin to cross kinks, |ratio - 1| goes over from c eps to a larger C eps.
_KINKED = ("relu", "leaky_relu")
Claim = tuple[str, str, str]


_expansions, _descents = only(arm="expansion"), only(arm="descent")


def _first_steps(rows: summary.Rows) -> summary.Rows:
    """First steps at small eps that imitate logits without sampling, from all arms."""
    rows = rows[(rows["step"] == 1) & (rows["samples"] == 0) & (rows["eps"] <= 0.01) & (rows["alpha"] == 1)]
    rows = rows[(rows["optimizer"] == "sgd") & (rows["teacher_frozen"] == "none")]
    return rows.drop_duplicates([name for name in summary.labels_of(rows) if name != "arm"] + ["seed"])


def draw(rows: pd.DataFrame) -> Figure:
    """Six panels: the law, its sign, the teacher's loss, and three ways in which the theorem stops."""
    figure, axes = plots.panels(6, size=(3.7, 3.2))
    rows = summary.labelled(rows, **_MISSING)
    for ax, (title, panel) in zip(axes, _PANELS.items(), strict=True):
        panel(ax, rows)
        ax.set_title(title)
    plots.inner_legends(axes)
    return figure


def _medians(ax: Axes, rows: summary.Rows, by: Sequence[str], x: str, values: pd.Series, band: bool = True) -> None:
    """Median of values over seeds against a logarithmic x, a line for each group, with a band of 5 to 95 %."""
    for index, (name, part) in enumerate(rows.assign(values=values).groupby(by, sort=False)):
        quantiles = part.groupby(x)["values"].quantile([0.05, 0.5, 0.95]).unstack()
        colour, marker = plots.look(index)
        ax.plot(quantiles.index, quantiles[0.5], color=colour, marker=marker, ms=3, lw=1, label=", ".join(name))
        if band:
            ax.fill_between(quantiles.index, quantiles[0.05], quantiles[0.95], color=colour, alpha=0.15, lw=0)
    if len(rows):
        ax.set_xscale("log")


def _law(ax: Axes, rows: summary.Rows) -> None:
    rows = _expansions(rows)
    _medians(ax, rows, ["net_activation"], "eps", (rows["at/ratio"] - 1).abs(), band=False)
    if len(rows):
        line = np.array([1e-5, 1.0])
        ax.plot(line, 0.1 * line, color="0.3", ls="--", lw=1, label="slope 1")
        ax.set_yscale("log")
    ax.set(xlabel="eps", ylabel="|inner product / prediction - 1|")


def _sign(ax: Axes, rows: summary.Rows) -> None:
    firsts, bins = _first_steps(rows), np.linspace(-0.2, 0.5, 71).tolist()
    groups = {
        "shared weights": firsts["condition"] == "same",
        "independent, aux": (firsts["condition"] == "random") & (firsts["sees"] == "aux"),
        "independent, all logits": (firsts["condition"] == "random") & (firsts["sees"] == "all"),
    }
    for colour, (name, chosen) in zip(plots.COLOURS, groups.items(), strict=False):
        if len(values := firsts.loc[chosen, "at/cosine"].dropna()):
            label = f"{name}: {(values < 0).sum():,} of {len(values):,} below 0"
            weights = np.full(len(values), 1 / len(values)).tolist()
            ax.hist(values, bins, color=colour, alpha=0.6, label=label, weights=weights)
    ax.axvline(0, color="0.3", lw=0.8)
    ax.set(xlabel="cosine of student's step and teacher's", ylabel="share of students")
    ax.set_ylim(0, ax.get_ylim()[1] * 1.25)


def _descent(ax: Axes, rows: summary.Rows) -> None:
    rows = _descents(rows)
    _medians(ax, rows, ["loss", "sees"], "alpha", rows["at/loss_change"] / rows["theory/loss_change"])
    ax.axhline(1, color="0.3", ls="--", lw=0.8)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(xlabel="alpha (eps = 0.01)", ylabel="fall of the teacher's loss / prediction", ylim=(-1, 1.6))


def _many_steps(ax: Axes, rows: summary.Rows) -> None:
    rows = only(arm=("sgd", "adam"))(rows)
    for index, ((optimizer, condition), part) in enumerate(rows.groupby(["optimizer", "condition"], sort=False)):
        colour, marker = plots.look(index)
        weights = "shared" if condition == "same" else "independent"
        for dash, (eps, curve) in zip(("-", "--", ":"), part.groupby("eps"), strict=False):
            means = curve.groupby("step")["at/cosine"].mean()
            label = f"{optimizer}, {weights}, eps = {eps:g}"
            ax.plot(means.index, means, color=colour, ls=dash, marker=marker, ms=3, lw=1, label=label)
    if len(rows):
        ax.set_xscale("log")
        ax.set_ylim(top=ax.get_ylim()[1] * 1.7)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(xlabel="student's steps", ylabel="mean cosine to the teacher's displacement")


def _signs(rows: summary.Rows) -> Any:
    """For sampled labels: share of positive inner products, its prediction, and eps sqrt(samples quadratic)."""
    rows = rows[rows["samples"] > 0]
    at = rows["eps"] * np.sqrt(rows["samples"] * rows["batch"] * rows["theory/inner"])
    names = ["eps", "samples", "batch"]
    return rows.assign(at=at).groupby(names)[["at", "at/positive", "theory/positive"]].mean().reset_index()


def _samples(ax: Axes, rows: summary.Rows) -> None:
    signs = _signs(rows)
    for index, (count, part) in enumerate(signs.groupby("samples")):
        colour, marker = plots.look(index)
        label = f"{count} {'label' if count == 1 else 'labels'} an input"
        ax.plot(part["at"], part["at/positive"], marker, color=colour, ms=4, label=label)
    if len(signs):
        line = np.geomspace(signs["at"].min(), signs["at"].max(), 200)
        ax.plot(line, stats.norm.cdf(line), color="0.3", lw=1, label="Φ, predicted")
        ax.set_xscale("log")
    ax.set(xlabel="eps √(inputs · labels · prediction)", ylabel="share of positive inner products")


def _large_eps(ax: Axes, rows: summary.Rows) -> None:
    rows = _expansions(rows)
    _medians(ax, rows, ["net_activation"], "eps", rows["at/cosine"])
    if len(rows):
        ax.set_xlim(left=1e-3)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(xlabel="eps", ylabel="cosine of student's step and teacher's")


_PANELS = {
    "(a) the law": _law,
    "(b) sign": _sign,
    "(c) teacher's loss": _descent,
    "(d) many steps": _many_steps,
    "(e) sampled labels": _samples,
    "(f) large eps": _large_eps,
}


def _errors(rows: summary.Rows) -> pd.DataFrame:
    """Median over seeds of |ratio - 1|, activation by eps."""
    rows = _expansions(rows)
    errors = rows.assign(error=(rows["at/ratio"] - 1).abs())
    return errors.pivot_table("error", "net_activation", "eps", "median", sort=False).sort_index(axis=1)


def slopes(rows: summary.Rows) -> dict[str, float]:
    """Slope of log |ratio - 1| against log eps, by activation, where eps is from 1e-5 to 0.1.

    Below it lies float noise for activations that deviate little, above it the next order.
    """
    errors: Any = _errors(rows)
    errors = errors.loc[:, (errors.columns >= 0.99e-5) & (errors.columns <= 0.101)]
    if errors.shape[1] < 2:
        return {}
    log = np.log10(errors.columns.to_numpy(float))
    return {str(name): float(np.polyfit(log, np.log10(values), 1)[0]) for name, values in errors.iterrows()}


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims of the theorem for which there are rows, with the measured values and whether they agree."""
    rows = summary.labelled(rows, **_MISSING)
    firsts = _first_steps(rows)
    random = firsts[firsts["condition"] == "random"]
    checks: list[tuple[Callable[..., Claim], Any]] = [
        (_slopes_agree, slopes(rows)),
        (_ratio_agrees, _errors(rows) if slopes(rows) else []),
        (_shared_agree, firsts.loc[firsts["condition"] == "same", "at/cosine"].dropna()),
        (partial(_independent_agree, random), only(arm="activation", net_activation="relu")(random)),
        (_loss_falls, _descents(rows)),
        (_zero_without_trunk, rows[(rows["teacher_frozen"] != "none") & (rows["sees"] == "aux")]),
        (_samples_agree, _signs(rows)),
    ]
    return [check(measured) for check, measured in checks if len(measured)]


def _claim(claim: str, measured: str, agrees: Any) -> Claim:
    return claim, measured, "yes" if agrees else "no"


def _slopes_agree(by_activation: dict[str, float]) -> Claim:
    text = ", ".join(f"{name} {value:.2f}" for name, value in by_activation.items())
    smooth = [value for name, value in by_activation.items() if name not in _KINKED] or list(by_activation.values())
    kinked = " (the claim is about smooth ones)" if len(smooth) < len(by_activation) else ""
    return _claim("|ratio - 1| falls as eps", f"slopes {text}{kinked}", all(0.8 < slope < 1.2 for slope in smooth))


def _ratio_agrees(errors: pd.DataFrame) -> Claim:
    best = errors.min(axis=1)
    text = f"smallest median |ratio - 1| {best.min():.0e} to {best.max():.0e}"
    return _claim("ratio -> 1", text, best.max() < 1e-5)


def _shared_agree(cosines: pd.Series) -> Claim:
    negative = int((cosines < 0).sum())
    text = f"{negative} of {len(cosines):,} below 0, smallest cosine {cosines.min():.3g}"
    return _claim("shared weights: inner product >= 0", text, negative == 0)


def _independent_agree(rows: summary.Rows, relu: summary.Rows) -> Claim:
    """The test takes one net, because conditions that share seeds are not independent; the text counts all of them."""
    positive = int((relu["at/cosine"] > 0).sum())
    p = stats.binomtest(positive, len(relu)).pvalue
    texts = [f"relu net {positive} of {len(relu)} above 0 (binomial p = {p:.2g})"]
    for sees, cosines in rows.groupby("sees", sort=False)["at/cosine"]:
        texts.append(f"{sees}: {(cosines > 0).sum()} of {len(cosines)} in all, mean {cosines.mean():.3f}")
    return _claim("independent weights: random sign", "; ".join(texts), p >= 0.05)


def _loss_falls(rows: summary.Rows) -> Claim:
    rows = rows.assign(falls=rows["at/loss_change"] < 0)
    small = rows.loc[rows["alpha"] <= 1, "falls"]
    share = rows.groupby(["loss", "sees", "alpha"])["falls"].mean()
    largest = share[share >= 0.5].reset_index().groupby(["loss", "sees"])["alpha"].max()
    until = ", ".join(f"{' '.join(name)} {alpha:g}" for name, alpha in largest.items())
    text = f"falls in {small.mean():.1%} of {len(small):,} (alpha <= 1); in half of the seeds until alpha = {until}"
    return _claim("the teacher's loss falls for small alpha", text, small.all())


def _zero_without_trunk(rows: summary.Rows) -> Claim:
    largest = float(rows["at/inner"].abs().max())
    text = f"largest |inner product| {largest:g} in {len(rows)} students, largest step {rows['at/norm'].max():.1g}"
    return _claim("class head alone moved, auxiliary logits imitated: 0", text, largest == 0)


def _samples_agree(signs: summary.Rows) -> Claim:
    off = float((signs["at/positive"] - signs["theory/positive"]).abs().max())
    low, high = signs["at/positive"].min(), signs["at/positive"].max()
    text = f"share of positive signs {low:.2f} to {high:.2f}; at most {off:.3f} from Φ(eps √(inputs labels q))"
    return _claim("sampled labels: sign by chance (not in the theorem)", text, off < 0.05)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """The claims with the measured values."""
    return pd.DataFrame(claims(rows), columns=["claim", "measured", "agrees"])


def caption(rows: pd.DataFrame) -> str:
    """The caption of the figure that these rows give."""
    seeds = len(set(rows["seed"]))
    over = "One seed" if seeds == 1 else f"Over {seeds} seeds, float64"
    short = {
        "|ratio - 1| falls as eps": "(a)",
        "shared weights: inner product >= 0": "(b) shared weights",
        "independent weights: random sign": "independent",
        "the teacher's loss falls for small alpha": "(c)",
    }
    measured = "".join(f"{short[claim]}: {text}. " for claim, text, _ in claims(rows) if claim in short)
    return (
        f"{over}. {measured}Bands of (c), (f): 5 to 95 % of seeds; (d) displacement after many steps; (e) signs of "
        "draws, 100 a seed in full size."
    )
