"""Pictures of the hidden units of an infomorphic network, from arrays: information over training, receptive fields."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from sublim_jax.core.errors import ConfigError
from sublim_jax.results import plots


def draw_atoms(
    values: Float[np.ndarray, "times units atoms"],
    names: Sequence[str],
    epochs: Sequence[int | float],
    shown: int | Sequence[str] = 6,
) -> Figure:
    """Draw the information atoms of every hidden unit over training: a line for each unit, the median over them.

    Args:
        values: Bits, for instance of `metrics.infomorphic.unit_atoms` for the parameters after each of `epochs`.
        names: Names of the atoms.
        epochs: Increasing times, from 0.
        shown: Names of the atoms to draw, or how many: those with the largest mean magnitude at the last time.

    Raises:
        ConfigError: The sizes of `values` are not those of `epochs` and `names`, or an atom is not there.
    """
    values = np.asarray(values)
    if values.ndim != 3 or (values.shape[0], values.shape[2]) != (len(epochs), len(names)):
        raise ConfigError(f"values: shape {values.shape}; must be [{len(epochs)} epochs, units, {len(names)} atoms]")
    largest = np.argsort(-np.abs(values[-1]).mean(0), kind="stable").tolist()
    chosen = [names[index] for index in sorted(largest[:shown])] if isinstance(shown, int) else list(shown)
    if wrong := [name for name in chosen if name not in names]:
        raise ConfigError(f"shown: {wrong[0]!r} is not an atom; {', '.join(names)} are allowed")
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots.panels(len(chosen), size=(2.6, 2.1), sharex=True, sharey=True)
        for ax, name in zip(axes, chosen, strict=True):
            units = values[:, :, names.index(name)]
            ax.plot(epochs, units, color=plots.COLOURS[0], lw=0.6, alpha=0.35)
            ax.plot(epochs, np.median(units, 1), color="black", lw=1.8)
            ax.axhline(0, color="0.6", lw=0.6)
            ax.set(title=name, xscale="symlog", xlabel="epochs", ylabel="bits")
            ax.set_xticks(epochs, [plots.plain(epoch) for epoch in epochs])
            ax.set_xticks([], minor=True)
        plots.outer(axes)
    return figure


def preferred_classes(params: Mapping[str, Any]) -> list[tuple[tuple[int, ...], int]]:
    """Return the classes that the context of each hidden unit sets apart from the others, and their sign.

    The context of a class is its weight plus the bias; the unit's output tends to the sign of it. A goal says nothing
    about the sign of an output, so that the smaller of both groups of classes is named, of equal ones that of class 0.

    Args:
        params: Parameters of an infomorphic network with a context of one number for each class.

    Returns:
        For each unit the group of classes, and 1 or -1, the sign of their contexts; no classes and 1 where the contexts
        of all classes have one sign.

    Raises:
        ConfigError: The network has no context.
    """
    if "context" not in params:
        raise ConfigError(f"params: layers {', '.join(params)}; a layer 'context' is needed")
    contexts = np.asarray(params["context"]["kernel"]) + np.asarray(params["context"]["bias"])  # [classes, units]
    groups = []
    for positive in (contexts > 0).T:
        few = positive.sum() < (~positive).sum() or (positive.sum() == (~positive).sum() and positive[0])
        classes = tuple(np.flatnonzero(positive if few else ~positive).tolist())
        groups.append((classes, 1 if few or not classes else -1))
    return groups


def draw_receptive_fields(
    params: Mapping[str, Any], image: tuple[int, int] = (28, 28), most: int = 60, columns: int = 10
) -> Figure:
    """Draw the feedforward weights of hidden units as images, sorted by the classes that their contexts prefer.

    The title of an image names the classes of `preferred_classes`. Red pixels speak for them and blue ones against
    them: weights of units of sign -1 are drawn negated. Each image has its own scale. Units whose context has one sign
    for all classes come last, as "none". Networks without context have units in the order of their index.

    Args:
        params: Parameters of one network, for instance of `sublim_jax.params`.
        image: Height and width of the inputs.
        most: Number of units to draw, the first.
        columns: Images in a row.

    Raises:
        ConfigError: The network has no hidden layer, or inputs of another size.
    """
    if "hidden_0" not in params:
        raise ConfigError(f"params: layers {', '.join(params)}; a layer 'hidden_0' is needed")
    kernel = np.asarray(params["hidden_0"]["kernel"])[:, :most]
    if kernel.shape[0] != image[0] * image[1]:
        raise ConfigError(f"image={image}: has {image[0] * image[1]} pixels; the units have {kernel.shape[0]} inputs")
    titles, signs, units = [str(unit) for unit in range(kernel.shape[1])], [1] * kernel.shape[1], range(kernel.shape[1])
    if "context" in params:
        groups, contexts = preferred_classes(params)[: kernel.shape[1]], len(params["context"]["kernel"])
        signs, titles = [sign for _, sign in groups], ["".join(map(str, classes)) or "none" for classes, _ in groups]
        units = sorted(units, key=lambda unit: (len(groups[unit][0]) or contexts, groups[unit][0]))
    down = -(-len(units) // columns)
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(0.85 * columns, 1.02 * down), layout="constrained")
        axes = figure.subplots(down, columns, squeeze=False).ravel()
        for ax in axes:
            ax.axis("off")
        for ax, unit in zip(axes, units, strict=False):
            limit = np.abs(kernel[:, unit]).max() or 1
            ax.imshow(signs[unit] * kernel[:, unit].reshape(image), cmap="RdBu_r", vmin=-limit, vmax=limit)
            ax.set_title(titles[unit], fontsize=8, pad=2)
    return figure
