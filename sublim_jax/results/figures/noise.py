"""What the student sees: noise of several kinds, images, and mixtures of both."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("m", "stream", "resolution", "images", "alpha")
# barathvelmu/subliminal-learning, README: Cloud et al.'s protocol with m = 3, 25 models x 5 seeds.
PUBLISHED = {("Uniform\nnoise", 3): 0.451, ("Gaussian\nnoise", 3): 0.447, ("MNIST\nimages", 3): 0.146}
_KINDS = {"uniform": "Uniform\nnoise", "gaussian": "Gaussian\nnoise", "epochs": "MNIST\nimages"}
_ORDER = ("uniform", "gaussian", "perlin", "images", "epochs")
_IMAGES = {"fashion_mnist": "Fashion-\nMNIST", "none": "MNIST\nimages", "": "MNIST\nimages"}
_ENDS = {"uniform": 0.0, "epochs": 1.0}  # a mixture's alpha at which it is one of the plain kinds
_MORE = {"at/cka": "CKA to the teacher, test images", "at/aux_mse": "imitation error (mean square)"}


def kinds(rows: summary.Rows) -> summary.Rows:
    """The rows of everything but mixtures at the last mark, with the `kind` of input."""
    final = summary.labelled(_words.last(rows, LABELS), stream="uniform", resolution=8, images="none")
    final = final[final["stream"] != "mixture"]

    def kind(row: tuple[str, int, str]) -> str:
        stream, resolution, images = row
        if stream == "perlin":
            return f"Perlin,\n{resolution} cells"
        return _IMAGES.get(images, images) if stream == "images" else _KINDS.get(stream, stream)

    labels = zip(final["stream"], final["resolution"], final["images"], strict=True)
    found = final.assign(kind=[kind(row) for row in labels])
    place = found["stream"].map({name: place for place, name in enumerate(_ORDER)}).fillna(-1)
    return found.assign(place=place).sort_values(["place", "resolution"], kind="stable")


def mixtures(rows: summary.Rows) -> summary.Rows:
    """The rows of mixtures at the last mark against `alpha`, with noise alone as 0 and images alone as 1."""
    final = summary.labelled(_words.last(rows, LABELS), stream="uniform", alpha=0.5)
    if not (final["stream"] == "mixture").any():
        return final.iloc[:0]
    alpha = final["stream"].map(_ENDS).fillna(final["alpha"]).astype(float)
    return final.assign(alpha=alpha)[final["stream"].isin(["mixture", *_ENDS])]


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by kind of input and against the share of images; below, likeness to the teacher by kind."""
    plain, mixed = kinds(rows), mixtures(rows)
    more = {column: label for column, label in _MORE.items() if _words.has(plain, column)} if len(plain) else {}
    count = bool(len(plain)) + bool(len(mixed)) + len(more)
    figure, axes = plots.panels(count, columns=2, size=(5.0, 3.0))
    rest = list(axes)
    if len(plain):
        _by_kind(rest.pop(0), plain)
    if len(mixed):
        ax = rest.pop(0)
        _words.against(ax, mixed, "alpha", ("m",))
        plots.levels(ax, mixed)
        plots.accuracy(ax)
        ax.set_xlabel("α of α · image + (1 − α) · uniform noise")
    for ax, (column, label) in zip(rest, more.items(), strict=True):
        plots.strip(ax, plain, "kind", "m", column)
        ax.set_ylabel(label)
        if column == "at/aux_mse" and (plain[column] > 0).all():
            ax.set_yscale("log")
    plots.legend(figure, axes[:1])
    return figure


def _by_kind(ax: Axes, plain: summary.Rows) -> None:
    places = plots.strip(ax, plain, "kind", "m")
    for key, value in PUBLISHED.items():
        if key in places:
            plots.published(ax, places[key] + 0.12, value, label="published (barathvelmu, m = 3)")
    plots.levels(ax, plain)
    plots.accuracy(ax)


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = summary.labelled(_words.last(rows, LABELS), stream="uniform")
    plain, mixed = kinds(rows), mixtures(rows)
    drawn = any(one in PUBLISHED for one in zip(plain["kind"], plain["m"], strict=True))
    source = "a public replication of Cloud et al.'s protocol (barathvelmu), m = 3"
    blend = f", and against the share α = {_words.values(mixed, 'alpha')} of images in a mixture" if len(mixed) else ""
    return (
        f"Student test accuracy by what the student sees ({_words.values(final, 'stream')}; m = "
        f"{_words.values(final, 'm')}){blend}; its likeness to the teacher. Dots: seeds. "
        f"{_words.means(final, 'bars and bands')} {_words.diamonds(drawn, source)}{_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
