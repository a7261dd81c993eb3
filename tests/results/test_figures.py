"""Every figure draws the means of the rows its config gives: in full, few, and bare of all that may be missing."""

import re
import runpy
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sublim_jax.config import grid, resolve
from sublim_jax.core.errors import ConfigError
from sublim_jax.results import figures, plots, summary
from sublim_jax.results.figures import _spec, _sweeps

ROOT = Path(__file__).parents[2]
# Figures of students' accuracies; theorem1 shows none and has tests of its own.
# Other rows: see test_first_order, test_figures_lm, test_infomorphic, llm/test_main.
_OTHER = ("theorem1", "lm_", "infomorphic", "llm")
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if not path.stem.startswith(_OTHER))
MORE = ("accuracy_c0_ht", "cka", "aux_mse", "aux_r2")
PAIRS = ("teacher_student_init", "teacher_student_final", "teacher_init_final")
LAYERS = ("hidden_0", "hidden_1", "class_head", "aux_head")
TEACHER = "at/teacher_accuracy"
# Figures that show something else than the accuracy of each condition at its last mark.
OTHER = {"figure4": ["condition", "m", "pool", "step"]}


@cache
def rows_of(name, preset, seeds):
    """Rows as a run of a config would leave them, with random numbers that, as there, do not depend on the arm."""
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    config.preset = preset
    config = resolve(config)
    rows = []
    for point in grid.expand(config):
        student = point.config.student
        for step in sorted({mark for mark in student.eval_steps if mark < student.steps} | {student.steps}):
            rows += [{**point.labels, "seed": seed, "step": step} for seed in range(seeds)]
    rows = pd.DataFrame(rows)
    keys = rows.drop(columns="arm", errors="ignore").astype(str).agg("|".join, axis=1)
    draws = np.array([np.random.default_rng(zlib.crc32(key.encode())).uniform(0.1, 0.9, 19) for key in keys])
    batches = rows["pool"] if "pool" in rows else rows["step"]
    batches = batches.where(batches > 0, rows["step"]).clip(upper=rows["step"])
    rows["theory/equations_per_weight"] = rows["m"] * batches / 300
    names = [*("student_accuracy", "teacher_accuracy", "untrained_accuracy"), *MORE]
    names = [f"at/{name}" for name in names] + [f"at/cosine/{pair}/{layer}" for pair in PAIRS for layer in LAYERS]
    return config.figure, pd.concat([rows, pd.DataFrame(draws, columns=names)], axis=1)


def axes_of(figure):
    return [ax for ax in figure.findobj() if hasattr(ax, "get_legend_handles_labels")]


def heights(figure):
    """Every y that is drawn, and every colour of a heat map."""
    lines = [np.asarray(line.get_ydata(), float) for ax in axes_of(figure) for line in ax.lines]
    meshes = [np.ma.filled(mesh.get_array(), np.nan).ravel() for ax in axes_of(figure) for mesh in ax.collections[:1]]
    return np.concatenate([*lines, *(mesh for mesh in meshes if mesh.dtype == float)])


def shown(figure, means):
    """Of each mean, whether it is drawn."""
    there, wanted = np.sort(heights(figure)), means.to_numpy()
    there = there[np.isfinite(there)]
    near = there[np.clip(np.searchsorted(there, wanted), 1, len(there) - 1)[:, None] + np.array([-1, 0])]
    return np.abs(near - wanted[:, None]).min(axis=1) < 1e-12


def expected(figure, rows):
    """The means over seeds that a figure must show."""
    if figure in OTHER:
        rows = rows[rows["step"] > 0].drop_duplicates([*OTHER[figure], "seed"])
        if figure == "figure4":  # a pool that has not been seen in full is no fixed number of images
            rows = rows[(rows["pool"] == 0) | (rows["pool"] <= rows["step"])]
        return rows.groupby(OTHER[figure])[plots.ACCURACY].mean()
    final = summary.last(rows)
    labels = [name for name in summary.labels_of(final) if name != "arm"]
    return final.groupby(labels)[plots.ACCURACY].mean()


def has_published(figure):
    """Whether a figure shows published values beside ours."""
    boxes = [box for ax in axes_of(figure) for box in ax.containers]
    return any(str(box.get_label()).startswith("published") for box in boxes)


@pytest.mark.parametrize("preset", ["paper", "smoke"])
@pytest.mark.parametrize("name", CONFIGS)
def test_draw_shows_every_mean_of_a_configs_rows(name, preset):
    figure, rows = rows_of(name, preset, 3)
    module = figures.pick(figure)
    drawn, told = module.draw(rows), module.caption(rows)
    assert isinstance(drawn, Figure)
    assert shown(drawn, expected(figure, rows)).all()
    assert "over 3 seeds" in told and "Shown only" not in told
    assert told.endswith(".") and not re.search(r"\s\s|\{|\}|nan|\.\.", told) and len(told) < 1000
    assert has_published(drawn) == bool(re.search("Open (diamonds|markers)", told))
    if preset == "paper":
        assert has_published(drawn) == any(panel.published for panel in module.panels)


def test_figure4_shows_no_more_images_than_were_seen():
    _, rows = rows_of("figure4", "paper", 2)
    drawn = figures.pick("figure4").draw(rows)
    lines = [line for ax in drawn.axes for line in ax.get_lines() if str(line.get_label()).startswith("T = ")]
    seen = [(int(str(line.get_label())[4:]), max(line.get_xdata())) for line in lines if len(line.get_xdata())]
    assert len(seen) > 3 and all(images <= 1000 * steps for steps, images in seen)


@pytest.mark.parametrize("name", CONFIGS)
def test_draw_takes_no_mean_over_a_label_that_is_not_shown(name):
    figure, rows = rows_of(name, "smoke", 3)
    module = figures.pick(figure)
    other = rows.assign(batch_size=200, **{plots.ACCURACY: rows[plots.ACCURACY] / 10})
    both = pd.concat([rows.assign(batch_size=100), other], ignore_index=True)
    drawn, wanted = module.draw(both), expected(figure, rows)
    assert shown(drawn, wanted).all()
    if figure == "transfer":
        assert shown(drawn, wanted / 10).all()
    else:
        assert not shown(drawn, wanted / 10).any() and "Shown only: batch size 100." in module.caption(both)


@pytest.mark.parametrize("name", CONFIGS)
def test_draw_takes_a_single_seed_and_a_single_point(name):
    figure, rows = rows_of(name, "smoke", 3)
    module = figures.pick(figure)
    one = rows[rows["seed"] == 0]
    assert module.draw(one).axes and "One seed" in module.caption(one)
    for some in (rows[rows["m"] == rows["m"].max()], one.iloc[-1:]):
        assert axes_of(module.draw(some)) and module.caption(some)


@pytest.mark.parametrize("name", figures.names())
def test_draw_takes_rows_without_labels_that_did_not_vary(name):
    accuracies = {f"at/{who}_accuracy": 0.5 for who in ("student", "teacher", "untrained")}
    row = {"condition": "same", "m": 10, "step": 20, **accuracies}
    one, two = (pd.DataFrame([{**row, "seed": seed} for seed in range(seeds)]) for seeds in (1, 2))
    module = figures.pick(name)
    files = plots.images(lambda: module.draw(one), dpi=30)
    assert files["svg"].startswith(b"<?xml") and files["png"].startswith(b"\x89PNG") and module.caption(one)
    assert module.draw(two) and module.caption(two)


def test_pick_finds_figures_by_names():
    used = {rows_of(name, "smoke", 3)[0] for name in CONFIGS}
    assert used <= set(figures.names()) and not any(name.startswith("_") for name in figures.names())
    titles = [figures.title(figures.pick(name)) for name in figures.names()]
    assert len(set(titles)) == len(titles) and all(titles)
    with pytest.raises(ConfigError, match=r"^config.figure: 'pie' is none of activation, .*transfer"):
        figures.pick("pie")
    with pytest.raises(ConfigError, match="did you mean 'transfer'"):
        figures.pick("transfr")


def test_figure_2_shows_the_authors_seeds():
    kept = pd.read_csv(ROOT / "experiments" / "figure2" / "reference_authors.csv", comment="#")
    kept = kept[kept["condition"] != "teacher"].groupby(["condition", "m"])["student_accuracy"].agg(tuple).to_dict()
    same, aux_head = figures.pick("figure2").panels[0].published
    drawn = {("same", m): values for m, values in same.values.items()}
    drawn |= {("random_aux_head", m): values for m, values in aux_head.values.items()}
    assert kept == {key: tuple(np.atleast_1d(values)) for key, values in drawn.items()}


def test_figure_3_width_and_figure_6_read_widths_off_the_text():
    for name, label, part in (("figure3_width", "hidden", 0), ("figure6", "net_hidden", -1)):
        _, rows = rows_of(name, "paper", 3)
        line = figures.pick(name).draw(rows).axes[0].lines[0]
        widths = sorted({int(text.split("x")[part]) for text in rows[label]})
        np.testing.assert_array_equal(line.get_xdata(), widths)


def test_figure_4_tells_images_from_steps():
    module, (_, rows) = figures.pick("figure4"), rows_of("figure4", "paper", 3)
    figure = module.draw(rows)
    titles = {ax.get_title(): ax for ax in axes_of(figure) if ax.get_title()}
    assert [title[:3] for title in titles] == ["(a)", "(b)", "(c)", "(d)", "(d)", "(d)", "(e)"]
    grid = rows[rows["arm"] == "grid"]
    mesh = titles["(a) logits and noise"].collections[0].get_array()
    wanted = grid.groupby(["step", "m"])[plots.ACCURACY].mean().unstack("m")
    np.testing.assert_allclose(np.asarray(mesh), wanted)
    panel = titles["(d) N and T apart, m = 10"]
    found = {line.get_label(): line for line in panel.lines}
    mine = rows[(rows["arm"] == "pool") & (rows["m"] == 10) & (rows["step"] == 300)]
    fixed = mine[mine["pool"] > 0].groupby("pool")[plots.ACCURACY].mean()
    np.testing.assert_array_equal(found["T = 300"].get_xdata(), 1000 * fixed.index)
    np.testing.assert_allclose(np.asarray(found["T = 300"].get_ydata(), float), np.asarray(fixed))


def test_figure_4_without_names_of_arms_finds_its_panels():
    _, rows = rows_of("figure4", "paper", 3)
    titles = [ax.get_title() for ax in axes_of(figures.pick("figure4").draw(rows[rows["arm"] == "pool"])) if ax.lines]
    assert {title[:3] for title in titles} == {"(d)", "(e)"}
    bare = rows[rows["arm"] == "one_logit"].drop(columns=["arm", "pool"])
    assert any("one auxiliary logit" in ax.get_title() for ax in axes_of(figures.pick("figure4").draw(bare)))


def test_cloud_counts_reference_and_teacher_once_per_seed():
    _, rows = rows_of("cloud", "paper", 3)
    groups = figures.pick("cloud").final(rows)
    assert set(groups["group"]) == set(figures.pick("cloud").panels[0].published[0].values)
    assert (groups.groupby("group")["seed"].count() == 3).all()


def test_mixtures_of_noise_end_in_pure_noise_and_pure_images():
    _, rows = rows_of("noise", "paper", 3)
    mixed = _sweeps.mixtures(figures.pick("noise").final(rows))
    assert sorted(mixed["alpha"].unique()) == [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    assert set(mixed.loc[mixed["alpha"] == 1, "stream"]) == {"epochs"}


def test_cosines_of_share_are_of_the_layers_in_question():
    _, rows = rows_of("share", "paper", 3)
    found = _sweeps.cosines(rows)
    mine = rows["condition"] == "random_hidden"
    wanted = rows[[f"at/cosine/teacher_student_init/hidden_{layer}" for layer in (0, 1)]].mean(axis=1)
    np.testing.assert_allclose(found[mine], wanted[mine])


def test_perturbation_draws_each_sigma_and_moment():
    _, rows = rows_of("perturbation", "paper", 3)
    figure = figures.pick("perturbation").draw(rows)
    assert [ax.get_title() for ax in figure.axes] == ["aux head", "class head", "hidden 0", "hidden 1", "all layers"]
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    final = summary.last(rows)
    mine = final[(final["arm"] == "student_after") & (final["layers"] == "class_head")]
    wanted = mine.groupby("student_after")[plots.ACCURACY].mean()
    line = lines["on the student, after its training"]
    np.testing.assert_allclose(line.get_xdata(), wanted.index)
    np.testing.assert_allclose(line.get_ydata(), wanted)


def test_defence_draws_imitation_and_bits():
    _, rows = rows_of("defence", "paper", 3)
    figure = figures.pick("defence").draw(rows)
    left, right = axes_of(figure)[1], axes_of(figure)[-1]
    found = {bars.get_label(): bars.lines[0] for bars in left.containers}
    final = summary.last(rows)
    mine = final[(final["arm"] == "mixed") & (final["m"] == 10)].groupby("mixed")
    line = found["mixed with the untrained"]
    theirs = final[(final["arm"] == "strangers") & (final["m"] == 10)].groupby("mixed")[plots.ACCURACY].mean()
    np.testing.assert_allclose(np.asarray(found["mixed with an unrelated teacher"].get_ydata(), float), theirs)
    assert left.get_title() == "m = 10"
    np.testing.assert_allclose(np.asarray(line.get_xdata(), float), mine["at/aux_r2"].mean())
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), mine[plots.ACCURACY].mean())
    lines = {line.get_label(): line for line in right.lines}
    np.testing.assert_allclose(lines["m = 10, batches = 100"].get_xdata(), [1e6, 2e6, 4e6])
    np.testing.assert_allclose(lines["m = 10, new answers"].get_xdata()[:2], [3e6, 3e6 * np.log2(3)])


@pytest.mark.parametrize("name", CONFIGS)
def test_caption_mentions_no_published_markers_at_widths_that_nobody_published(name):
    figure, rows = rows_of(name, "paper", 1)
    rows = rows.assign(m=rows["m"] + 2000)
    drawn, told = figures.pick(figure).draw(rows), figures.pick(figure).caption(rows)
    assert has_published(drawn) == bool(re.search("Open (diamonds|markers)", told))
    assert not has_published(drawn) or figure in ("cloud", "figure4")


def test_caption_has_the_numbers_of_the_rows():
    module, (_, rows) = figures.pick("figure5"), rows_of("figure5", "smoke", 2)
    assert "d = 256 (as published; these rows do not say)." in module.caption(rows)
    assert "d = 64." in module.caption(rows.assign(net_hidden="32x64"))
    module, (_, rows) = figures.pick("figure4"), rows_of("figure4", "smoke", 2)
    assert "1,000 new images (as published; these rows do not say)" in module.caption(rows)
    assert "(266,752, as published; these rows do not say)" in module.caption(rows)
    told = module.caption(rows.assign(batch=50, net_hidden="32x16"))
    assert "each on 50 new images;" in told and "(25,648)" in told and "do not say" not in told


def test_extra_counts_a_value_that_conditions_of_a_seed_share_once():
    rows = pd.DataFrame({"m": 3, "condition": list("abca"), "seed": [0, 0, 0, 1], "at/x": [0.9, 0.9, 0.9, 0.5]})
    ax = Figure().subplots()
    _spec.Extra("at/x", "shared", {}).draw(ax, rows, "m", "")
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata(), float), [0.7])
    _spec.Extra("at/x", "of a", {}, _spec.only(condition="a", seed=(1, 2))).draw(ax, rows, "m", "")
    np.testing.assert_allclose(ax.containers[1].lines[0].get_ydata(), [0.5])


def law(slope=1.0, below=0, **fields):
    """Rows as the study theorem1 would leave them, for a law with a given slope and some negative cosines."""
    rows = [
        {"arm": arm, "condition": condition, "m": 10, "net_activation": "relu", "eps": eps, "alpha": 1.0, "seed": seed}
        | {"step": 1, "at/ratio": 1 + 0.1 * eps**slope, "at/inner": 0.1, "at/norm": 1.0}
        | {"at/cosine": (0.1 if condition == "same" else 0.01 * (-1) ** seed) * (-1 if seed < below else 1)}
        for arm, condition in (("expansion", "same"), ("activation", "random"))
        for eps in (1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
        for seed in range(20)
    ]
    return pd.DataFrame(rows).assign(**fields)


def agreed(rows):
    return [agrees for _, _, agrees in figures.pick("theorem1").claims(rows)]


def test_theorem1_says_yes_to_the_law_and_no_to_others():
    assert set(agreed(law())) == {"yes"}
    assert agreed(law(slope=2.0)).count("no") == 1
    assert agreed(law(below=1)).count("no") == 1
    module = figures.pick("theorem1")
    assert module.slopes(law(slope=2.0))["relu"] == pytest.approx(2.0)
    assert "20 seeds" in module.caption(law()) and list(figures.table(module, law())["agrees"]) == agreed(law())
    drawn = module.draw(law())
    line = drawn.axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 0.1 * np.asarray(line.get_xdata()), rtol=1e-6)


def test_theorem1_tells_zero_from_nearly_zero():
    still = law(teacher_frozen="hidden_*", sees="aux", **{"at/inner": 0.0})
    assert agreed(still)[-1] == "yes" and agreed(still.assign(**{"at/inner": 1e-30}))[-1] == "no"
