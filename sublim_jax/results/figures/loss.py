"""What pulls the student: losses and temperatures."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("m", "loss", "temperature", "sees")
# Cloud et al.'s protocol, m = 3, auxiliary logits only: mean and half-width of an interval (None where not reported).
PUBLISHED = {
    "barathvelmu": {"KL": (0.451, 0.028), "MSE": (0.566, 0.003), "KL,\nT = 2": (0.455, None)},
    "Jiang et al.": {"MSE": (0.271, 0.033)},
    "Cloud et al. 2026": {"KL": (0.5283, 0.0221)},
}
_MARKERS = ("D", "s", "o")
_NAMES = {"mse": "MSE", "kl": "KL", "cosine": "Cosine", "huber": "Huber"}
_SEES = {"aux": "auxiliary logits only", "all": "all logits", "class": "class logits only"}


def _final(rows: summary.Rows) -> summary.Rows:
    """The last mark with the loss and, of KL, its temperature as `kind`."""
    final = summary.labelled(_words.last(rows, LABELS), loss="kl", temperature=1.0, sees="aux")
    pairs = zip(final["loss"], final["temperature"], strict=True)
    kinds = [f"{_NAMES.get(loss, loss)}" + (f",\nT = {t:g}" if loss == "kl" and t != 1 else "") for loss, t in pairs]
    return final.assign(kind=kinds)


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by loss, one panel for each set of logits the student sees, one colour per m."""
    final = _final(rows)
    sees = list(final["sees"].unique())
    figure, axes = plots.panels(len(sees), columns=2, size=(4.6, 3.2), sharey=True)
    for ax, name in zip(axes, sees, strict=True):
        those = final[final["sees"] == name]
        places = plots.strip(ax, those, "kind", "m")
        sources = PUBLISHED.items() if name == "aux" else ()
        for index, (source, values) in enumerate(sources):
            for kind, (mean, half) in values.items():
                if (kind, 3) in places:
                    x = places[kind, 3] + 0.05 * (index + 1)
                    plots.published(ax, x, mean, half, label=f"published, {source}", marker=_MARKERS[index])
        plots.levels(ax, those)
        ax.set_title(_SEES.get(name, name))
    plots.accuracy(axes[0])
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    known = {kind for values in PUBLISHED.values() for kind in values}
    drawn = (final["kind"].isin(known) & (final["m"] == 3) & (final["sees"] == "aux")).any()
    said = (
        f"Student test accuracy by the loss that pulls its logits to the teacher's (temperature 1 unless said), m = "
        f"{_words.values(final, 'm')}. Dots: seeds. {_words.means(final, 'bars')}"
    )
    if drawn:
        said += " Open markers: published values of the same protocol, m = 3."
    if ((final["loss"] == "kl") & (final["m"] == 1) & (final["sees"] == "aux")).any():
        said += " With m = 1 the softmax of the one auxiliary logit is constant: KL cannot learn."
    return f"{said} {_words.LEVELS}{_words.left_out(rows, LABELS)}"
