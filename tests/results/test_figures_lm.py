"""Figures and claims of language models: base seeds are the unit, verdicts by intervals, every condition is drawn."""

import runpy
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sublim_jax.config import lm as lm_config
from sublim_jax.config import resolve
from sublim_jax.results import figures, plots, summary
from sublim_jax.results.figures import _claims, _lm, _lm_lessons, _lm_students

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("lm_*.py"))
MEASURED = (
    *("transfer", "cross", "control", "dose", "probability", "probability_control", "valid", "kl_teacher", "kl_base"),
    *("coverage", "divergent_any", "divergent_all", "trait_tokens", "latent_cosine/block_0", "latent_cosine/block_1"),
)


@cache
def conditions_of(name, preset):
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    config.preset = preset
    return [({**point.labels}, point.arm) for point in lm_config.expand(resolve(config))]


def rows_of(name, preset="paper", seeds=6, transfer=lambda arm, seed, step: 0.5, animals=2):
    """Rows as a run of a config would leave them; the transfer of every arm, seed and step is planted."""
    rows = []
    for labels, arm in conditions_of(name, preset):
        for seed in range(seeds):
            for step in arm.all_eval_steps:
                mean = transfer(arm, seed, step)
                for index in range(animals):
                    row = {**labels, "animal": (2 * seed + index) % 16, "seed": seed, "step": step}
                    row |= dict.fromkeys((f"at/{column}" for column in MEASURED), 0.1)
                    row |= {"at/kl_teacher": 0.1 / (1 + step), "at/kl_base": 0.1 * step / (1 + step)}
                    # The two animals differ about the mean of their seed.
                    row |= {"at/transfer": mean + (0.05 - 0.1 * index if animals > 1 else 0.0)}
                    row |= {"theory/transfer_slope": mean, "theory/transfer_adam_slope": -mean}
                    rows.append(row)
    return pd.DataFrame(rows)


def pseudorandom(*key):
    """A number from 0 to 1 that depends on all of its arguments."""
    return zlib.crc32(repr(key).encode()) / 2**32


def noise(*key):
    return 0.04 * (pseudorandom(*key) - 0.5)


def verdicts(name, rows):
    return {claim.text: claim.verdict for claim in figures.pick(name).claims(rows)}


def verdict(inequality="x > 0", **samples):
    return [claim.verdict for claim in _claims.evaluate({inequality: ""}, samples)]


def test_average_animals_makes_the_base_seed_the_unit_of_intervals():
    rows = pd.DataFrame(
        [
            {"data": "greedy", "animal": animal, "seed": seed, "step": 5, "at/transfer": seed + spread, "at/x": np.nan}
            for seed in range(6)
            for animal, spread in ((2 * seed, -100.0), (2 * seed + 1, 100.0))
        ]
    )
    means = summary.average_animals(rows)
    assert means["at/transfer"].tolist() == list(range(6)) and means["at/x"].isna().all()
    assert list(means.columns) == ["data", "seed", "step", "at/transfer", "at/x"]
    rows.loc[0, "at/transfer"] = np.nan
    assert np.isnan(summary.average_animals(rows)["at/transfer"][0]), "half a seed is no seed"


def test_evaluate_gives_verdicts_of_what_was_measured():
    seeds = pd.Series([1.0, 1.2, 0.8, 1.1, 0.9, 1.0])
    assert verdict(x=seeds) == ["holds"]
    assert verdict(x=-seeds) == ["reversed"]
    assert verdict(x=seeds - 1) == ["not decided"]
    assert verdict(x=seeds[:2]) == verdict(x=seeds[:1]) == ["n < 3"]
    assert verdict(x=seeds[:3]) == ["holds"]
    assert not verdict(x=seeds[:0])
    assert not verdict("x > y", x=seeds) and not verdict("x > y", x=seeds, y=seeds[:0])


@pytest.mark.parametrize("lost", [1, 2, 5, 6])
def test_evaluate_decides_nothing_where_a_student_diverged(lost):
    seeds = pd.Series([1.0, 1.2, 0.8, 1.1, 0.9, 1.0])
    left = seeds.mask(seeds.index < lost)
    for inequality in ("x > 0", "x < 0", "x > .5 of y", "|x| < .3 of y"):
        claim = _claims.evaluate({inequality: ""}, {"x": left, "y": seeds})[0]
        assert claim.verdict == "not decided" and claim.difference.diverged == lost


def test_table_counts_diverged_students_and_prints_no_number_where_all_did():
    rows = rows_of("lm_dose", "paper", 5)
    labels = summary.labels_of(rows)
    one, whole = (rows[labels].eq(rows[labels].iloc[place]).drop(columns="animal").all(axis=1) for place in (0, -1))
    rows.loc[(one & (rows["seed"] == 0)) | whole, ["at/transfer", "at/probability"]] = np.nan
    figure = figures.pick("lm_dose")
    table = figure.table(rows).set_index("claim, or condition")
    here, verdict = table["here"], table["verdict"]
    conditions = here[here.index.str.startswith("transfer: ")]
    assert conditions.str.endswith("1 of 5 diverged").sum() == 1
    assert (conditions == "diverged").sum() == 1 and verdict[conditions[conditions == "diverged"].index].eq("").all()
    judged = verdict[: len(figure.claims(rows))]
    assert "not decided" in set(judged)
    assert "Diverged, outputs not finite" in figure.caption(rows) and "1 of 5 seeds" in figure.caption(rows)
    marks = [text.get_text() for ax in figure.draw(rows).axes for text in ax.texts]
    assert "x 1 of 5" in marks and "x 5 of 5" in marks


def test_evaluate_compares_the_seeds_that_both_samples_have():
    left, right = pd.Series({0: 1.0, 1: 2.0, 2: 4.0}), pd.Series({1: 1.0, 2: 1.0, 3: 1.0})
    means = {
        inequality: _claims.evaluate({inequality: ""}, {"x_1": left, "y": right})[0].difference.mean
        for inequality in ("x 1 > y", "x 1 > .5 of y", "x 1 < y", "y < half of x 1")
    }
    assert list(means.values()) == [2.0, 2.5, -2.0, 0.5]


def test_evaluate_finds_an_effect_small_where_both_sides_say_so():
    whole = pd.Series(np.full(6, 1.0))
    for value, expected in ((0.1, "holds"), (-0.1, "holds"), (0.5, "reversed"), (-0.5, "reversed")):
        part = pd.Series(value + np.array([-0.01, 0.01, 0, 0.02, -0.02, 0]))
        assert verdict("|part| < .3 of whole", part=part, whole=whole) == [expected]
    wide = pd.Series([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    assert verdict("|part| < .3 of whole", part=wide, whole=whole) == ["not decided"]


def test_ratio_is_of_means_and_undefined_where_the_whole_is_nothing():
    whole = pd.Series([1.0, 2.0, 3.0, 4.0, 5.0])
    half = _claims.ratio(whole * 0.5, whole)
    assert half.mean == 0.5 and np.allclose((half.low, half.high), 0.5), "paired by seed"
    assert np.isnan(_claims.ratio(whole, whole - 3).mean)
    assert _claims.ratio(whole[:1] * 0.2, whole[:1])[:2] == pytest.approx((0.2, np.nan), nan_ok=True)


def test_rank_correlations_are_of_each_seed():
    rows = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "x": [1, 2, 3, 1, 2, 3], "at/transfer": [1, 5, 6, 9, 4, 2]})
    assert _claims.rank_correlations(rows, "x").tolist() == pytest.approx([1, -1])
    assert not len(_claims.rank_correlations(rows, "x", 4)) and not len(
        _claims.rank_correlations(rows.assign(x=1), "x")
    )


@pytest.mark.parametrize("preset", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_every_mean_of_a_configs_rows_is_drawn(name, preset):
    rows = rows_of(name, preset, 3, lambda arm, seed, step: 1 + pseudorandom(arm, step) + 0.01 * seed)
    figure = figures.pick(name)
    drawn = figure.draw(rows)
    assert isinstance(drawn, Figure)
    final, labels = figure.final(rows), list(figure.labels)
    if name == "lm_divergence":  # drawn as fractions of the transfer from all tokens
        whole = final[final["tokens"] == "all"].groupby("dose")["at/transfer"].mean()
        final["at/transfer"] /= final["dose"].map(whole)
    if name == "lm_paraphrase":  # mixtures are drawn as fractions
        mixed = final["mixed"] > 0
        base = final[~mixed & (final["data"] == "soft_carrier") & (final["paraphrase"] == "none")]["at/transfer"].mean()
        final["at/transfer"] = final["at/transfer"].where(~mixed, final["at/transfer"] / base)
    means = final.groupby(labels)["at/transfer"].mean().to_numpy()
    heights = np.concatenate([np.asarray(line.get_ydata(), float) for ax in drawn.axes for line in ax.lines])
    assert (np.nanmin(np.abs(heights[None] - means[:, None]), axis=1) < 1e-9).all()
    caption = figure.caption(rows)
    assert "over 3 seeds" in caption and "2 animals" in caption and "Shown only" not in caption


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_texts_of_claims_and_conditions(name):
    rows = rows_of(name, "paper", 6, lambda arm, seed, step: 0.5 + noise(arm, seed, step))
    figure = figures.pick(name)
    table, claims = figure.table(rows), figure.claims(rows)
    assert list(table.columns) == ["claim, or condition", "published", "here", "verdict"]
    assert table.map(lambda cell: isinstance(cell, str)).all(axis=None)
    assert table["verdict"][: len(claims)].isin(["holds", "reversed", "not decided"]).all()
    assert len(table) == len(claims) + len(figure.final(rows)[list(figure.labels)].drop_duplicates())
    assert table["claim, or condition"].is_unique and table["claim, or condition"].str.len().max() <= 70
    assert all(claim.published for claim in claims)


def test_every_inequality_is_judged_on_the_rows_of_the_configs():
    texts = [text for name in NAMES for text in verdicts(name, rows_of(name, "paper", 2, pseudorandom))]
    values = {**vars(_lm_lessons), **vars(_lm_students)}
    inequalities = [text for name in values if name.endswith("_CLAIMS") for text in values[name]]
    assert len(inequalities) > 50
    assert not [text for text in inequalities if not any(claim.startswith(text) for claim in texts)]


@pytest.mark.parametrize("name", NAMES)
def test_a_single_seed_and_animal_can_be_shown(name):
    rows = rows_of(name, "smoke", 1, animals=1).assign(**{"at/cross": np.nan})
    figure = figures.pick(name)
    assert "One seed" in figure.caption(rows) and "1 animal of" in figure.caption(rows)
    assert {claim.verdict for claim in figure.claims(rows)} == {"n < 3"}
    assert plots.images(lambda: figure.draw(rows), dpi=30)["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_no_mean_goes_over_a_label_that_is_not_shown(name):
    rows, figure = rows_of(name, "smoke", 3), figures.pick(name)
    both = pd.concat([rows.assign(batch=32), rows.assign(batch=64, **{"at/transfer": 77.0})], ignore_index=True)
    assert "Shown only: batch 32." in figure.caption(both)
    assert (figure.final(both)["at/transfer"] < 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_claims_hold_where_planted_and_are_reversed_where_the_reverse_was(name):
    text, planted = {
        "lm_transfer": ("soft > greedy (dose 0.1)", lambda arm: {"greedy": 1.0, "sampled": 0.5}.get(arm.data, 2.0)),
        "lm_base": ("same > other order, greedy", lambda arm: {"same": 2.0, "other_order": 1.0}.get(arm.base, 0.1)),
        "lm_divergence": ("mask top < mask random (10%), dose 0.1", lambda arm: 0.1 if "top" in arm.tokens else 0.8),
        "lm_layers": (
            "early blocks, mean > late blocks, mean, soft",
            lambda arm: 4.0 - int(arm.trains[-1]) if arm.trains.startswith("block_") else 2.0,
        ),
        "lm_paraphrase": ("falls with fraction: -rho > 0 (lines of the base)", lambda arm: 1.0 - arm.mixed),
        "lm_optimizer": ("adam > sgd, as far, soft", lambda arm: {"adam": 1.0, "sgd": 0.1}.get(arm.optimizer, 0.5)),
        "lm_dose": ("grows with dose: rho > 0, greedy", lambda arm: float(np.log(arm.dose * arm.lines)) + 7),
    }[name]

    def rows(sign):
        return rows_of(name, "paper", 6, lambda arm, *at: sign(at[0]) * planted(arm) + noise(arm, *at))

    assert verdicts(name, rows(lambda seed: 1))[text] == "holds"
    assert verdicts(name, rows(lambda seed: -1))[text] == "reversed"
    assert verdicts(name, rows(lambda seed: (-1) ** seed))[text] == "not decided"


def test_theory_compares_first_updates_by_rank():
    found = verdicts("lm_transfer", rows_of("lm_transfer", "paper", 6, lambda arm, seed, step: pseudorandom(arm)))
    assert found["slope of the first update ranks conditions: rho > 0"] == "holds"
    assert found["slope of Adam's first update ranks conditions: rho > 0"] == "reversed"
    assert "coverage ranks conditions: rho > 0" not in found, "it is the same everywhere"


def test_best_block_is_chosen_by_other_seeds():
    by_block = pd.DataFrame([[9.0, 1.0, 5.0], [0.0, 2.0, 5.0], [0.0, 1.0, 5.5]])
    # Seeds 1 and 2 see the outlier of seed 0 in block 0, but block 2 is better on the mean of the others.
    assert _lm_students.best_block(by_block).tolist() == [5.0, 5.0, 5.5]


def test_reached_is_linear_between_evaluations():
    progress, transfer = pd.Series([-0.1, -0.05, -0.01]), pd.Series([0.0, 1.0, 2.0])
    assert _lm_students.reached(progress, transfer, -0.03) == pytest.approx(1.5)
    assert _lm_students.reached(progress, transfer, -0.1) == 0
    assert np.isnan(_lm_students.reached(progress, transfer, -0.001))


def test_matched_compares_optimizers_where_both_have_got():
    rows = []
    for kind, lr, last in (("adam", 1e-3, 0.01), ("sgd", 0.3, 0.08), ("sgd", 1.0, 0.055)):
        for step, part in ((5, 0.5), (10, 1.0)):
            got = 0.1 + part * (last - 0.1)
            row = {"arm": "a", "optimizer": kind, "data": "soft_carrier", "lr": lr, "animal": 0, "step": step}
            row |= {"at/transfer": 0.1 - got, "at/kl_teacher": got, "at/dose": 0.1}
            rows += [{**row, "seed": seed} for seed in range(5)]
    both = _lm_students.matched(_lm.all_evaluations(pd.DataFrame(rows)), "soft_carrier", "sgd")
    # Transfer is one function of imitation, so at equal imitation it is equal: at 0.055, the better rate's end.
    assert np.allclose(both["level"], 0.055) and np.allclose(both["adam"], 0.045) and np.allclose(both["other"], 0.045)
