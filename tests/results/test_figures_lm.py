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
from sublim_jax.results.figures import _claims, _lm, lm_layers, lm_optimizer

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("lm_*.py"))
MEASURED = (
    *("transfer", "cross", "control", "dose", "probability", "probability_control", "valid", "kl_teacher", "kl_base"),
    *("coverage", "divergent_any", "divergent_all", "trait_tokens", "latent_cosine/block_0", "latent_cosine/block_1"),
)
HALVES = (0.05, -0.05)  # of two animals about their seed's mean


@cache
def labels_of(name, preset):
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    config.preset = preset
    return [({**point.labels}, point.arm) for point in lm_config.expand(resolve(config))]


def rows_of(name, preset="paper", seeds=6, transfer=lambda arm, seed, step: 0.5, animals=2):
    """Rows as a run of a config would leave them; the transfer of every arm, seed and step is planted."""
    rows = []
    for labels, arm in labels_of(name, preset):
        for seed in range(seeds):
            for step in arm.all_eval_steps:
                mean = transfer(arm, seed, step)
                for place in range(animals):
                    row = {**labels, "animal": (2 * seed + place) % 16, "seed": seed, "step": step}
                    row |= dict.fromkeys((f"at/{one}" for one in MEASURED), 0.1)
                    row |= {"at/kl_teacher": 0.1 / (1 + step), "at/kl_base": 0.1 * step / (1 + step)}
                    row |= {"at/transfer": mean + (HALVES[place] if animals > 1 else 0.0)}
                    row |= {"theory/transfer_slope": mean, "theory/transfer_adam_slope": -mean}
                    rows.append(row)
    return pd.DataFrame(rows)


def drawn_by(*what):
    """A number from 0 to 1 that depends on everything."""
    return zlib.crc32(repr(what).encode()) / 2**32


def noise(*what):
    """A few hundredths that depend on everything."""
    return 0.04 * (drawn_by(*what) - 0.5)


def verdicts(name, rows):
    return {one.said: one.verdict for one in figures.pick(name).claims(rows)}


def drawn_heights(figure):
    axes = [ax for ax in figure.findobj() if hasattr(ax, "get_legend_handles_labels")]
    return np.concatenate([np.asarray(line.get_ydata(), float) for ax in axes for line in ax.lines])


def test_the_base_seed_is_the_unit_of_intervals():
    rows = pd.DataFrame(
        [
            {"data": "greedy", "animal": animal, "seed": seed, "step": 5, "at/transfer": seed + spread, "at/x": np.nan}
            for seed in range(6)
            for animal, spread in ((2 * seed, -100.0), (2 * seed + 1, 100.0))
        ]
    )
    found = _claims.clustered(rows)
    assert found["at/transfer"].tolist() == list(range(6)) and found["at/x"].isna().all()
    assert list(found.columns) == ["data", "seed", "step", "at/transfer", "at/x"]
    # The width of the interval is that of six seeds, whatever the spread of their animals.
    assert summary.interval(found["at/transfer"].tolist()) == summary.interval(list(map(float, range(6))))
    rows.loc[0, "at/transfer"] = np.nan
    assert np.isnan(_claims.clustered(rows)["at/transfer"][0]), "half a seed is no seed"


def test_verdicts():
    seeds = pd.Series([1.0, 1.2, 0.8, 1.1, 0.9, 1.0])
    assert [one.verdict for one in _claims.claim("x", "", seeds)] == ["holds"]
    assert [one.verdict for one in _claims.claim("x", "", -seeds)] == ["reversed"]
    assert [one.verdict for one in _claims.claim("x", "", seeds - 1)] == ["not settled"]
    assert [one.verdict for one in _claims.claim("x", "", seeds[:4])] == ["n < 5"]
    assert [one.verdict for one in _claims.claim("x", "", seeds[:1])] == ["n < 5"]
    assert [one.verdict for one in _claims.claim("x", "", seeds.where(seeds > 0.8))] == ["not settled"], "one diverged"
    assert not _claims.claim("x", "", seeds[:0]) and not _claims.claim("x", "", seeds, seeds[:0])
    assert not _claims.claim("x", "", seeds * np.nan)


def test_a_small_effect_is_one_that_both_sides_say_is_small():
    whole = pd.Series(np.full(6, 1.0))
    for value, verdict in ((0.1, "holds"), (-0.1, "holds"), (0.5, "reversed"), (-0.5, "reversed")):
        part = pd.Series(value + np.array([-0.01, 0.01, 0, 0.02, -0.02, 0]))
        assert [one.verdict for one in _claims.claim("x", "", *_claims.small(part, whole, 0.3))] == [verdict]
    wide = pd.Series([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    assert [one.verdict for one in _claims.claim("x", "", *_claims.small(wide, whole, 0.3))] == ["not settled"]


def test_differences_are_of_seeds_that_both_have():
    one, other = pd.Series({0: 1.0, 1: 2.0, 2: 3.0}), pd.Series({1: 1.0, 2: 1.0, 3: 1.0})
    assert _claims.less(one, other, 0.5).to_dict() == {1: 1.5, 2: 2.5}


def test_fractions_are_ratios_of_means_and_none_where_the_whole_is_nothing():
    whole = pd.Series([1.0, 2.0, 3.0, 4.0, 5.0])
    found = _claims.ratio(whole * 0.5, whole)
    assert found.mean == 0.5 and np.allclose((found.low, found.high), 0.5), "resampled in pairs"
    assert np.isnan(_claims.ratio(whole, whole - 3).mean)
    assert _claims.ratio(whole[:1] * 0.2, whole[:1])[:2] == pytest.approx((0.2, np.nan), nan_ok=True)


def test_rank_correlations_are_of_each_seed():
    rows = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "x": [1, 2, 3, 1, 2, 3], "at/transfer": [1, 5, 6, 9, 4, 2]})
    assert _claims.ranks(rows, "x").tolist() == pytest.approx([1, -1])
    assert not len(_claims.ranks(rows, "x", fewest=4))


@pytest.mark.parametrize("preset", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_every_mean_of_a_configs_rows_is_drawn(name, preset):
    rows = rows_of(name, preset, 3, lambda arm, seed, step: 1 + drawn_by(arm, step) + 0.01 * seed)
    module = figures.pick(name)
    drawn = module.draw(rows)
    assert isinstance(drawn, Figure)
    final = _lm.final(rows, module.LABELS)
    labels = list(module.LABELS)
    means = final.groupby(labels)["at/transfer"].mean().to_numpy()
    there = drawn_heights(drawn)
    if name == "lm_divergence":  # drawn as fractions
        whole = final[final["tokens"] == "all"].groupby("dose")["at/transfer"].mean()
        means = means / whole.loc[final.groupby(labels)["at/transfer"].mean().index.get_level_values("dose")].to_numpy()
    if name == "lm_paraphrase":  # mixtures are
        mixed = final["mixed"] > 0
        base = final[~mixed & (final["data"] == "soft_carrier") & (final["paraphrase"] == "none")]["at/transfer"].mean()
        means = final.assign(t=final["at/transfer"].where(~mixed, final["at/transfer"] / base)).groupby(labels)["t"]
        means = means.mean().to_numpy()
    near = np.abs(there[None] - means[:, None])
    assert (np.nanmin(near, axis=1) < 1e-9).all()
    assert "over 3 seeds" in module.caption(rows) and "2 animals" in module.caption(rows)
    assert "Shown only" not in module.caption(rows)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_texts_of_claims_and_conditions(name):
    rows = rows_of(name, "paper", 6, lambda arm, seed, step: 0.5 + noise(arm, seed, step))
    module = figures.pick(name)
    table = module.table(rows)
    assert list(table.columns) == ["claim, or condition", "published", "here", "verdict"]
    assert table.map(lambda cell: isinstance(cell, str)).all(axis=None)
    claims = module.claims(rows)
    assert table["verdict"][: len(claims)].isin(["holds", "reversed", "not settled"]).all()
    final = _lm.final(rows, module.LABELS)
    conditions = len(final[list(module.LABELS)].drop_duplicates())
    assert len(table) == len(claims) + conditions
    assert table["claim, or condition"].is_unique and table["claim, or condition"].str.len().max() <= 70
    assert all(one.published for one in claims)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_seed_and_animal_can_be_shown(name):
    rows = rows_of(name, "smoke", 1, animals=1).assign(**{"at/cross": np.nan})
    module = figures.pick(name)
    assert module.draw(rows).axes and "One seed" in module.caption(rows) and "1 animal of" in module.caption(rows)
    assert set(module.table(rows)["verdict"][: len(module.claims(rows))]) == {"n < 5"}
    assert plots.images(lambda: module.draw(rows), dpi=30)["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_no_mean_goes_over_a_label_that_is_not_shown(name):
    rows = rows_of(name, "smoke", 3)
    module = figures.pick(name)
    other = rows.assign(batch=64, **{"at/transfer": 77.0})
    both = pd.concat([rows.assign(batch=32), other], ignore_index=True)
    assert "Shown only: batch 32." in module.caption(both)
    assert (_lm.final(both, module.LABELS)["at/transfer"] < 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_claims_hold_where_they_were_planted_and_are_reversed_where_the_reverse_was(name):
    planted = {
        "lm_transfer": lambda arm: {"soft": 3.0, "soft_carrier": 2.0, "greedy": 1.0, "sampled": 0.5}[arm.data],
        "lm_base": lambda arm: {"same": 2.0, "other_order": 1.0, "other_init": 0.1, "other_both": -0.1}[arm.base],
        "lm_divergence": lambda arm: {"top": 0.1, "random": 0.8}.get(arm.tokens.rpartition("_")[2], 1.0),
        "lm_layers": lambda arm: 3.0 - float(arm.trains[-1]) / 3 if arm.trains.startswith("block_") else 2.0,
        "lm_paraphrase": lambda arm: (1.0 if arm.paraphrase == "none" else 0.4) - arm.mixed,
        "lm_optimizer": lambda arm: {"adam": 1.0, "sign": 0.8, "momentum": 0.2, "sgd": 0.1}[arm.optimizer],
        "lm_dose": lambda arm: float(np.log(arm.dose) + 7 + np.log(arm.lines)),
    }[name]
    some = {
        "lm_transfer": "soft, numbers > greedy (dose 0.1)",
        "lm_base": "same > other order, greedy",
        "lm_divergence": "mask top < mask random (10%), dose 0.1",
        "lm_layers": "mean of first half > of last, soft",
        "lm_paraphrase": "falls with lines of base: -rho > 0",
        "lm_optimizer": "adam > sgd, as far, soft",
        "lm_dose": "grows with dose: rho > 0, greedy",
    }[name]
    there = rows_of(name, "paper", 6, lambda arm, seed, step: planted(arm) + noise(arm, seed, step))
    assert verdicts(name, there)[some] == "holds"
    back = rows_of(name, "paper", 6, lambda arm, seed, step: -planted(arm) + noise(arm, seed, step))
    assert verdicts(name, back)[some] == "reversed"
    torn = rows_of(name, "paper", 6, lambda arm, seed, step: (-1) ** seed * (planted(arm) + noise(arm, seed, step)))
    assert verdicts(name, torn)[some] == "not settled"


def test_first_updates_are_compared_by_rank():
    rows = rows_of("lm_transfer", "paper", 6, lambda arm, seed, step: drawn_by(arm))
    found = verdicts("lm_transfer", rows)
    assert found["slope of the first update ranks conditions: rho > 0"] == "holds"
    assert found["slope of Adam's first update ranks conditions: rho > 0"] == "reversed"
    assert "coverage ranks conditions: rho > 0" not in found, "it is the same everywhere"


def test_the_best_block_is_chosen_by_other_seeds():
    values = {0: [9.0, 1.0, 5.0], 1: [0.0, 2.0, 5.0], 2: [0.0, 1.0, 5.5]}
    rows = pd.DataFrame(
        [
            {"seed": seed, "block": block, "at/transfer": value}
            for seed, those in values.items()
            for block, value in enumerate(those)
        ]
    )
    # Seeds 1 and 2 see the outlier of seed 0 in block 0, but block 2 is better on the mean of the others.
    assert lm_layers._best(rows).tolist() == [5.0, 5.0, 5.5]


def test_optimisers_are_compared_where_both_have_got():
    far = pd.Series([0.1, 0.05, 0.01], index=[0, 10, 20])
    gain = pd.Series([0.0, 1.0, 2.0], index=[0, 10, 20])
    assert lm_optimizer.reached(far, gain, 0.03, True) == pytest.approx(1.5)
    assert lm_optimizer.reached(far, gain, 0.1, True) == 0 and np.isnan(lm_optimizer.reached(far, gain, 0.001, True))
    assert lm_optimizer.reached(-far, gain, -0.03, False) == pytest.approx(1.5)
    rows = []
    for kind, lr, last in (("adam", 1e-3, 0.01), ("sgd", 0.3, 0.08), ("sgd", 1.0, 0.055)):
        for step, part in ((5, 0.5), (10, 1.0)):
            got = 0.1 + part * (last - 0.1)
            rows += [
                {
                    **{"arm": "a", "optimizer": kind, "data": "soft_carrier", "lr": lr, "animal": 0, "seed": seed},
                    **{"step": step, "at/transfer": 0.1 - got, "at/kl_teacher": got, "at/dose": 0.1},
                }
                for seed in range(5)
            ]
    shown = _lm.every(pd.DataFrame(rows))
    both = lm_optimizer.matched(shown, "soft_carrier", "sgd")
    # Transfer is one function of imitation, so at equal imitation it is equal: at 0.055, the better rate's end.
    assert np.allclose(both["level"], 0.055) and np.allclose(both["one"], 0.045) and np.allclose(both["other"], 0.045)
