"""The figures of infomorphic networks show the rows of their configs, with published values at their places."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sublim_jax.config import grid, resolve
from sublim_jax.results import figures, plots
from sublim_jax.results.figures import _infomorphic

ROOT = Path(__file__).parents[2]


def rows_of(name, preset):
    """Rows as a run of a config would leave them, with random accuracies."""
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    config.preset = preset
    random, rows = np.random.default_rng(0), []
    for point in grid.expand(resolve(config)):
        rows += [{**point.labels, "seed": seed, "step": 94, plots.ACCURACY: random.uniform()} for seed in range(3)]
    return pd.DataFrame(rows)


def drawn_y(figure):
    return np.concatenate([np.asarray(line.get_ydata(), float) for ax in figure.axes for line in ax.lines])


@pytest.mark.parametrize("preset", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("name", ["infomorphic", "infomorphic_goals"])
def test_draw_shows_the_mean_of_every_network(name, preset):
    rows, module = rows_of(name, preset), figures.pick(name)
    figure, caption = module.draw(rows), module.caption(rows)
    labels = [label for label in rows if label not in ("arm", "seed", "step", plots.ACCURACY)]
    means = rows.groupby(labels)[plots.ACCURACY].mean()
    shown = drawn_y(figure)
    near = np.array([np.nanmin(np.abs(shown - mean)) < 1e-9 for mean in means])
    one_width = name == "infomorphic" and preset == "paper"  # read-outs have no width and stand beside 100 units
    assert near.all() or (one_width and near.sum() >= len(means) - 1)
    assert "3 seeds" in caption and caption.endswith(".") and "nan" not in caption
    assert ("Open diamonds" in caption) == (name == "infomorphic_goals" or preset != "smoke")


def test_infomorphic_marks_published_medians_beside_each_network():
    rows = rows_of("infomorphic", "laptop")
    (ax,) = figures.pick("infomorphic").draw(rows).axes
    published = {name: percents[6] / 100 for name, percents in _infomorphic._PUBLISHED.items()}
    published |= {"read-out only": 0.9185, "trivariate optimized, sparse (200 units)": 0.9593}
    places = [tick.get_text().replace("\n", " ") for tick in ax.get_xticklabels()]
    marks = {}
    for line in ax.lines:
        if line.get_marker() == "D":
            marks |= {places[round(float(x))]: y for x, y in zip(*line.get_data(), strict=True) if np.isfinite(y)}
    assert marks == pytest.approx(published)


def test_infomorphic_goals_ranks_drawn_goals_by_their_mean():
    final = _infomorphic.infomorphic_goals.final(rows_of("infomorphic_goals", "laptop"))
    means = final[final["draw"] > 0].groupby("rank")[plots.ACCURACY].mean()
    assert len(means) == 32 and (means.diff().dropna() <= 0).all()
    assert (final.loc[final["draw"] == 0, "rank"] == 0).all()
