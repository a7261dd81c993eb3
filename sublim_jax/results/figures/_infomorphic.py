"""The figures of infomorphic networks, as data.

Published values: medians of 10 seeds, read from the vector file of Figure 4 of Schneider et al., ICLR 2025.
"""

from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures._spec import FigureSpec, Panel, Published, only

_WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
# Test accuracy in percent for each of `_WIDTHS`, after 100 epochs.
_PUBLISHED = {
    "lateral heuristic": (1.58, 31.27, 50.51, 64.53, 73.67, 80.50, 83.82, 86.94, 90.24, 92.35, 94.70),
    "lateral optimized": (2.06, 29.58, 50.30, 63.91, 77.58, 85.53, 88.99, 90.99, 92.83, 93.83, 94.95),
    "context heuristic": (18.36, 25.42, 53.51, 76.65, 88.15, 91.64, 92.51, 93.14, 93.74, 93.95, 94.10),
    "context optimized": (19.09, 28.03, 52.91, 79.89, 87.81, 91.86, 92.69, 93.26, 93.67, 93.98, 94.11),
    "trivariate heuristic": (17.87, 26.34, 60.02, 85.46, 90.02, 92.49, 93.39, 93.77, 94.06, 93.47, 94.26),
    "trivariate optimized": (18.88, 26.06, 61.23, 84.42, 90.53, 93.75, 95.21, 96.09, 96.49, 95.79, 95.34),
    "trivariate feedback": (7.65, 17.16, 36.99, 62.13, 80.25, 88.40, 90.48, 92.63, 94.91, 96.31, 96.97),
    "random projection": (13.06, 18.87, 26.43, 39.67, 52.70, 70.87, 80.60, 86.63, 91.17, 93.11, 94.55),
    "backpropagation": (11.25, 35.46, 73.93, 86.13, 91.28, 93.96, 95.41, 96.61, 97.36, 97.81, 98.02),
}
_SPARSE = {200: 95.93, 500: 96.67, 1000: 97.19, 2000: 97.53}
_SPARSE_200 = "trivariate optimized, sparse\n(200 units)"
_READOUT = 0.9185
_NAMES = {
    "feedback": "trivariate feedback",
    "random_projection": "random projection",
    "readout": "read-out only",
    "backprop": "backpropagation",
}
_LEARNS = {"backprop": "backpropagation", "random_projection": "read-out alone", "readout": "read-out alone"}


def _network(model: str, goal: str, sparse: bool) -> str:
    if model in _NAMES:
        return _NAMES[model]
    kind = "trivariate" if model == "context_lateral" else model
    return f"{kind} {goal.replace('_', ' ')}" + (", sparse" if sparse else "")


def _named(final: summary.Rows) -> summary.Rows:
    """Rows with the name of the network, and what trains it."""
    parts = zip(final["model"], final["goal"], final["lateral_inputs"] < final["units"] - 1, strict=True)
    lateral = final["model"].isin(("context_lateral", "lateral", "feedback"))
    names = [_network(model, goal, sparse and has) for (model, goal, sparse), has in zip(parts, lateral, strict=True)]
    return final.assign(network=names, learns=final["model"].map(_LEARNS).fillna("local goals"))


def _several_widths(rows: summary.Rows) -> summary.Rows:
    return rows[(rows["model"] != "readout") & (rows.groupby("network")["units"].transform("nunique") > 1)]


def _one_width(rows: summary.Rows) -> summary.Rows:
    """Rows of 100 hidden units, or of the least number of networks without it, which is added to their names."""
    least = rows.groupby("network")["units"].transform(lambda units: 100 if (units == 100).any() else units.min())
    rows = rows[rows["units"] == least]
    usual = 100 if (rows["units"] == 100).any() else rows["units"].max()
    named = rows["network"] + "\n(" + rows["units"].astype(str) + " units)"
    return rows.assign(network=rows["network"].where(rows["units"].eq(usual) | rows["model"].eq("readout"), named))


def _published(name: str) -> Published:
    values = {width: percent / 100 for width, percent in zip(_WIDTHS, _PUBLISHED[name], strict=True)}
    return Published(values, only(network=name), label="published median")


infomorphic = FigureSpec(
    title="Infomorphic networks: local goals against backpropagation",
    about=(
        "Networks of one hidden layer, each unit of which follows a goal of its own, without backpropagation through "
        "layers; the read-out is trained on labels."
    ),
    labels=(),
    defaults={"model": "context_lateral", "goal": "heuristic", "units": 100, "lateral_inputs": 2000},
    prepare=_named,
    panels=(
        Panel(
            "units",
            ("network",),
            where=_several_widths,
            log={},
            xlabel="hidden units",
            ylabel="test accuracy",
            levels=(),
            published=(
                *map(_published, _PUBLISHED),
                Published(
                    {units: percent / 100 for units, percent in _SPARSE.items()},
                    only(network="trivariate optimized, sparse"),
                    label="published median",
                ),
            ),
        ),
        Panel(
            "network",
            ("learns",),
            where=_one_width,
            categories=True,
            zoom=True,
            ylabel="test accuracy",
            levels=(),
            published=(
                Published(
                    {name: percents[_WIDTHS.index(100)] / 100 for name, percents in _PUBLISHED.items()}
                    | {"read-out only": _READOUT},
                    only(units=100),
                    label="published median",
                ),
                Published({_SPARSE_200: _SPARSE[200] / 100}, only(network=_SPARSE_200), label="published median"),
            ),
        ),
    ),
    published_text="Open diamonds: published medians of 10 seeds after 100 epochs (Schneider et al., ICLR 2025).",
    size=(4.6, 3.4),
    text=(
        "Test accuracy of networks of one hidden layer whose units follow a goal, a weighted sum of information atoms "
        "of their sources; no error is propagated between layers. Hidden units: {units}."
    ),
)


# Accuracy on held-out training images after 100 epochs, 10 seeds; all other atoms: at least 0.9476. Source: the
# authors' notebook goal_sensitivity.ipynb.
_WITHOUT = {"none": 0.9495, "{12}{13}": 0.937, "{1}{3}": 0.940, "{1}{2}{3}": 0.942, "{1}{2}": 0.946, "{1}": 0.946}


def _ranked(final: summary.Rows) -> summary.Rows:
    """Rows with the rank of each drawn goal, the best first; 0 where the goal was not drawn."""
    drawn = final[final["draw"] > 0].groupby("draw")[plots.ACCURACY].mean().rank(ascending=False, method="first")
    return final.assign(rank=final["draw"].map(drawn).fillna(0).astype(int), network="optimized goal")


def _draw_seeds(ax: Axes, rows: summary.Rows) -> None:
    """Draw a dot for every seed of a drawn goal, whose seeds differ too much for an interval, and the means."""
    colour, _ = plots.look(0)
    ax.plot(rows["rank"], rows[plots.ACCURACY], "o", color=colour, ms=3, mew=0, alpha=0.5, label="seeds of drawn goals")
    means = rows.groupby("rank")[plots.ACCURACY].mean()
    ax.plot(means.index, means, color=colour, lw=1, label="mean")
    ax.set_ylim(0, 1)


infomorphic_goals = FigureSpec(
    title="Infomorphic networks: which information atoms matter",
    about=(
        "Networks of one hidden layer, each unit of which follows a goal of its own, without backpropagation through "
        "layers; the read-out is trained on labels."
    ),
    labels=(),
    defaults={"without": "none", "draw": 0},
    prepare=_ranked,
    panels=(
        Panel(
            "without",
            ("network",),
            where=only(draw=0),
            categories=True,
            zoom=True,
            xlabel="atom whose weight is set to 0",
            ylabel="accuracy on held-out images",
            levels=(),
            published=(Published(_WITHOUT, label="published (authors' notebook)"),),
        ),
        Panel(
            column="",
            also=(_draw_seeds,),
            where=lambda rows: rows[rows["draw"] > 0],
            xlabel="drawn goals, the best first",
            ylabel="accuracy of drawn goals",
            levels=(),
        ),
    ),
    published_text="Open diamonds: published values of 10 seeds after 100 epochs.",
    size=(6.0, 3.4),
    text=(
        "Accuracy of infomorphic networks on held-out training images: an optimized goal without one of its atoms at a "
        "time (without: {without}), and goals drawn at random, weights between -1 and 1."
    ),
)


# By the student, its teacher and the teacher's bits.
_PAIRS = {
    ("hidden", "infomorphic", "teacher"): "bits to\nhidden units",
    ("hidden", "infomorphic", "shuffled"): "shuffled\nbits",
    ("hidden", "infomorphic", "untrained"): "bits of an\nuntrained net",
    ("hidden", "mlp", "teacher"): "bits of\nan MLP",
    ("hidden", "mlp", "shuffled"): "an MLP's,\nshuffled",
    ("readout", "infomorphic", "teacher"): "bits to\na read-out",
    ("mlp", "infomorphic", "teacher"): "logits to\nan MLP",
    ("mlp", "mlp", "teacher"): "MLP to\nMLP",
}

_HEADS = {"shared": "", "fresh_class": ", fresh class head", "fresh_aux": ", fresh auxiliary head"}


def _pairs(final: summary.Rows) -> summary.Rows:
    """Rows with the kind of teacher and student, and what they share, as categories."""
    kinds = zip(final["student"], final["teacher"], final["bits"], strict=True)
    pairs = [_PAIRS.get(kind, "\n".join(kind)) for kind in kinds]
    shares = final["hidden"] + " hidden, " + final["context"] + " context" + final["heads"].map(_HEADS)
    return final.assign(pair=pairs, shares=shares)


def _most_bits(rows: summary.Rows) -> summary.Rows:
    return rows[rows["m"] == rows["m"].max()]


def _by_bits(rows: summary.Rows) -> summary.Rows:
    """Rows of students whose hidden units read bits, of teachers that were measured with several numbers of bits."""
    alike = (rows["hidden"] == "shared") & (rows["context"] == "tied") & (rows["bits"] == "teacher")
    rows = rows[alike & (rows["student"] == "hidden") & (rows["heads"] == "shared")]
    return rows[rows.groupby("teacher")["m"].transform("nunique") > 1]


def _pairs_panel(column: str, title: str, ylabel: str = "test accuracy") -> Panel:
    return Panel(
        "pair",
        ("shares",),
        column=column,
        categories=True,
        order=tuple(_PAIRS.values()),
        where=_most_bits,
        levels=(),
        ylabel=ylabel,
        title=title,
    )


infomorphic_transfer = FigureSpec(
    title="Infomorphic networks: does a trait pass without backpropagation?",
    labels=(),
    defaults={
        **{"student": "hidden", "teacher": "infomorphic", "bits": "teacher"},
        **{"hidden": "shared", "context": "tied", "heads": "shared", "m": 1000},
    },
    prepare=_pairs,
    panels=(
        _pairs_panel("at/accuracy_own", "the student's own class head"),
        _pairs_panel("at/accuracy_matched", "the teacher's class head on the student's units"),
        _pairs_panel("at/hidden/{1}{2}", "what image and bits share", "information in bits, on noise"),
        Panel(
            "m",
            ("teacher",),
            column="at/accuracy_matched",
            where=_by_bits,
            log={},
            levels=(),
            xlabel="auxiliary bits",
            ylabel="test accuracy",
            title="the teacher's class head, by the number of bits",
            inside=True,
        ),
    ),
    size=(6.4, 3.2),
    text=(
        "Students that read their teacher's auxiliary bits on noise. Test accuracy with the student's class head and "
        "with the teacher's (signs of units matched on noise, without labels); information that a unit's image and "
        "bits share about its output, measured on noise."
    ),
)
