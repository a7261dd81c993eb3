"""Figures and reports come from rows alone, without JAX."""

import html
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.rows import rows_of, workdir_of
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sublim_jax.core.errors import ConfigError
from sublim_jax.results import figures, plots, report, summary, svg
from sublim_jax.results.headline import alternative_text, headline

ROOT = Path(__file__).parents[2]

transfer = figures.pick("transfer")


def test_transfer_draws_means_against_m_and_learning_curves():
    rows = rows_of()
    left, right = transfer.draw(rows).axes
    final = rows[rows.step == 20]
    for index, condition in enumerate(("same", "random_hidden")):
        those = final[final.condition == condition].groupby("m")["at/student_accuracy"].mean()
        np.testing.assert_allclose(np.asarray(left.lines[index].get_xdata(), float), np.asarray(those.index))
        np.testing.assert_allclose(np.asarray(left.lines[index].get_ydata(), float), np.asarray(those))
        curve = rows[(rows.condition == condition) & (rows.m == 10)].groupby("step")["at/student_accuracy"].mean()
        np.testing.assert_allclose(np.asarray(right.lines[index].get_ydata(), float), np.asarray(curve))
    assert left.get_xscale() == "log"


@pytest.mark.parametrize(
    ("widths", "steps", "panels"), [((3,), (20,), 1), ((3,), (0, 10, 20), 2), ((3, 10), (0, 20), 1)]
)
def test_transfer_has_the_panels_the_rows_can_fill(widths, steps, panels):
    figure = transfer.draw(rows_of(widths, steps, seeds=1))
    assert isinstance(figure, Figure) and len(figure.axes) == panels


def test_line_has_the_interval_as_its_band():
    rows, ax = rows_of(steps=(20,), seeds=8), Figure().subplots()
    found = plots.line(ax, rows[rows.condition == "same"], "m", "same", 0)
    ends = {tuple(point) for path in ax.collections[0].get_paths() for point in np.round(np.asarray(path.vertices), 9)}
    for m, one in found.items():
        values = rows.loc[(rows.condition == "same") & (rows.m == m), plots.ACCURACY]
        wanted = summary.interval(values.tolist())
        np.testing.assert_allclose(one, wanted)
        assert {(m, round(one.low, 9)), (m, round(one.high, 9))} <= ends


def lost(rows, **labels):
    """The rows with the students of these labels diverged."""
    chosen = np.all([rows[name] == value for name, value in labels.items()], axis=0)
    return rows.assign(**{plots.ACCURACY: rows[plots.ACCURACY].mask(chosen)})


def test_line_and_strip_mark_how_many_seeds_diverged():
    rows = lost(lost(rows_of(steps=(20,), seeds=5), condition="same", m=3, seed=1), condition="same", m=10)
    ax = Figure().subplots()
    found = plots.line(ax, rows[rows.condition == "same"], "m", "same", 2)
    assert [cell[3:] for cell in found] == [(4, 1), (0, 5)]
    marks = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert marks == {"x 1 of 5": 3, "x 5 of 5": 10}
    ax = Figure().subplots()
    places = plots.strip(ax, rows, "condition", "m")
    assert {text.get_text(): text.get_position()[0] for text in ax.texts} == {
        "x 1 of 5": places["same", 3],
        "x 5 of 5": places["same", 10],
    }


@pytest.mark.parametrize("seeds", [1, 2])
def test_line_and_strip_draw_points_without_bars_for_fewer_than_three_seeds(seeds):
    rows = rows_of(steps=(20,), seeds=seeds)
    for draw in (
        lambda ax: plots.line(ax, rows[rows.condition == "same"], "m", "", 0),
        lambda ax: plots.line(ax, rows[(rows.condition == "same") & (rows.m == 3)], "m", "", 0),
        lambda ax: plots.strip(ax, rows, "condition", "m"),
    ):
        draw(ax := Figure().subplots())
        bars = [bar.lines[1:] for bar in ax.containers]
        caps = [y for lines, _ in bars for line in lines for y in line.get_ydata()]
        stems = [y for _, parts in bars for part in parts for stem in part.get_segments() for _, y in stem]
        band = [y for part in ax.collections for path in part.get_paths() for _, y in path.vertices]
        assert not np.isfinite([*caps, *stems, *band]).any()
        assert np.isfinite([y for line in ax.lines for y in line.get_ydata()]).any()


def test_transfers_caption_names_conditions_with_diverged_seeds():
    rows = lost(rows_of(seeds=4), condition="same", m=3, seed=2)
    caption = transfer.caption(rows)
    assert "same, m = 3: 1 of 4 seeds" in caption and "Means over 3 to 4 seeds" in caption
    assert "iverged" not in transfer.caption(rows_of(seeds=4)) and "too few" in transfer.caption(rows_of(seeds=2))


def test_strip_has_a_dot_for_every_seed_beside_the_mean():
    rows, ax = rows_of(steps=(20,)), Figure().subplots()
    places = plots.strip(ax, rows, "condition", "m", order=("random_hidden",))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["random\nhidden", "same"]
    assert places["random_hidden", 3] < places["random_hidden", 10] < places["same", 3]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert sorted(y for line in dots for y in line.get_ydata()) == sorted(rows[plots.ACCURACY])
    means = {x: y for bar in ax.containers for x, y in zip(*bar.lines[0].get_data(), strict=True)}
    for (condition, m), wanted in rows.groupby(["condition", "m"])[plots.ACCURACY].mean().items():
        assert means[places[condition, m]] == pytest.approx(wanted)


def test_heat_has_every_cell_under_its_values():
    table = pd.DataFrame([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], index=[1.0, 4.0], columns=[1, 2, 8])
    mesh = plots.heat(ax := Figure().subplots(), table)
    np.testing.assert_array_equal(np.asarray(mesh.get_array()), table)
    edges = mesh.get_coordinates()[0, :, 0]
    assert all(low < value < high for low, value, high in zip(edges, table.columns, edges[1:], strict=False))
    assert ax.get_xscale() == ax.get_yscale() == "log"


@pytest.mark.parametrize(
    ("values", "base", "said"),
    [
        ((3, 10, 25, 50, 100, 250), 10, ["3", "10", "25", "50", "100", "250"]),
        ((7,), 10, ["7"]),
        (range(1, 3000), 10, ["1", "10", "100", "1000"]),
        ((8, 11, 16, 23, 32, 45, 64, 91, 128), 2, ["8", "16", "32", "64", "128"]),
        ((1e4, 2.5e6), 10, ["10k", "2.5M"]),
        ([31 + one for one in range(20)], 10, ["31", "50"]),
    ],
)
def test_log_axis_has_few_plain_ticks(values, base, said):
    ax = Figure().subplots()
    plots.log(ax, list(values), base=base)
    assert [text.get_text() for text in ax.get_xticklabels()] == said and not ax.get_xticks(minor=True).size


def test_series_names_only_what_varies_and_orders_numbers():
    rows = pd.DataFrame({"condition": ["b", "b", "a"], "m": [50, 10, 50], "alpha": 0.5})
    labels = [label for label, _ in plots.series(rows, ("condition", "m", "alpha"))]
    assert labels == ["b, m = 10", "b, m = 50", "a, m = 50"]
    assert [label for label, _ in plots.series(rows, ("alpha", "missing"))] == ["student"]


def test_images_of_the_same_rows_are_the_same_files():
    first, again = (plots.images(lambda: transfer.draw(rows_of()), dpi=40) for _ in range(2))
    assert first == again


def test_report_is_one_file_with_the_figures_own_caption(tmp_path):
    report.write(workdir_of(tmp_path, rows_of()), "figure2")
    page = (tmp_path / "report.html").read_text()
    assert html.unescape(page).count(figures.pick("figure2").caption(rows_of())) == 1
    text = alternative_text(rows_of(), figures.pick("figure2"))
    assert html.unescape(page).count(text) == 2, "for the wide and for the narrow figure"
    assert all((tmp_path / address).exists() for address in re.findall(r' href="([^"]*)"', page)) and "src=" not in page
    assert (tmp_path / "figure.svg").stat().st_size and (tmp_path / "figure.png").stat().st_size


def test_report_refuses_an_unknown_figure(tmp_path):
    with pytest.raises(ConfigError, match="config.figure: 'pie' is none of activation, .*transfer"):
        report.write(workdir_of(tmp_path, rows_of()), "pie")


def test_figures_import_no_jax():
    code = (
        "import sys, sublim_jax; from sublim_jax.results import figures, plots, report; sublim_jax.load; "
        "[figures.pick(name) for name in figures.names()]; assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_figure2_kept_is_the_figure2_of_its_rows():
    """The published table is what the kept rows and references give today, to the last digit but one."""
    here = Path(__file__).parents[2] / "experiments" / "figure2"
    compare = runpy.run_path(str(here / "compare.py"))
    assert compare["short"](*compare["read"]()) in (here.parent.parent / "docs" / "figure2.md").read_text("utf-8")
    made, kept = compare["page"](*compare["read"]()), (here / "table.md").read_text()
    number = r"[-+]?\d*\.\d+"
    assert re.sub(number, "#", made) == re.sub(number, "#", kept)
    made, kept = (np.array(re.findall(number, text), float) for text in (made, kept))
    np.testing.assert_allclose(made, kept, atol=0.011)  # tests of differences may move with another SciPy


def test_colours_are_legible_on_white_and_far_apart_for_any_colour_vision():
    # Machado et al. 2009: normal vision, protanopia, deuteranopia, on linear RGB.
    visions = [
        np.eye(3),
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    ]
    rgb = np.array([to_rgb(colour) for colour in plots.COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert (1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) > 2.2).all(), "Okabe and Ito's yellow has 1.3"
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for vision in visions:
        x, y, z = (np.cbrt(each) for each in to_xyz @ np.clip(vision @ linear.T, 0, 1) / [[0.95], [1], [1.09]])
        lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], 1)
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(8, 1)]
        assert distances.min() > 15


def test_headline_names_the_extremes_and_counts_the_claims():
    rows = rows_of()
    groups = rows[rows["step"] == 20].groupby(["condition", "m"])["at/student_accuracy"]
    means = {key: float(values.mean()) for key, values in groups}
    text = headline(rows, figures.pick("transfer"))
    assert f"highest mean student test accuracy is {max(means.values()):.3f} (" in text
    assert f"lowest {min(means.values()):.3f} (" in text and "of 4 conditions" in text
    condition, m = map(str, max(means, key=lambda key: means[key]))
    assert f"({condition.replace('_', ' ')}, m = {m})" in text
    one = headline(rows[(rows["condition"] == "same") & (rows["m"] == 3)], figures.pick("transfer"))
    assert one.startswith("Mean student test accuracy: 0.")
    missing = rows.assign(**{"at/student_accuracy": np.nan})
    assert "nan" not in headline(missing, figures.pick("transfer"))


def test_headline_of_theorem1_and_of_language_counts_verdicts():
    for name, expected in (("theorem1", r"Of \d+ claims: \d+ agree"), ("lm_dose", r"nats \(.*Of \d+ claims: \d+ hold")):
        rows = pd.read_parquet(ROOT / "experiments" / name / "rows.parquet")
        assert re.search(expected, headline(rows, figures.pick(name)))


def test_drawing_has_the_value_of_every_mean_on_hover():
    rows = rows_of()
    drawn = svg.drawing(lambda: figures.pick("figure2").draw(rows), "figure", "A text, 3 & more")
    final = rows[rows["step"] == 20]
    for content in (drawn.wide, drawn.narrow):
        titles = re.findall(r"<title>(.*?)</title>", content)
        for _, part in final.groupby(["condition", "m"]):
            assert any(f": {part['at/student_accuracy'].mean():.3f} [" in title for title in titles)
        assert 'aria-label="A text, 3 &amp; more"' in content
    ids = [set(re.findall(r'id="([^"]+)"', content)) for content in (drawn.wide, drawn.narrow)]
    assert not ids[0] & ids[1], "identifiers of a page are unique"
    assert drawn.switch < 1280 and "var(--ink" in drawn.wide
