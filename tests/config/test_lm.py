"""The door for language: every bad value is one line, and every config builds its arms in every size."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.configs import config_of

import sublim_jax
from sublim_jax import main
from sublim_jax.config import grid, identity, resolve
from sublim_jax.config import lm as lm_config
from sublim_jax.core.errors import ConfigError
from sublim_jax.lm import run as lm_run
from sublim_jax.lm.spec import StudentSpec

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("configs/lm_*.py"))


def resolved(**fields):
    """The base config with some fields, as the command line gives them."""
    config = lm_config.base()
    config.preset = "smoke"
    given = {name.replace("__", "."): value for name, value in fields.items()}
    with config.unlocked():
        config.update_from_flattened_dict(given)
    return resolve(config, given)


BAD = {
    "lm__teacher": ("tunde", r"config.lm.teacher: 'tunde' is none of tuned, shuffled, .*; did you mean 'tuned'\?"),
    "lm__dose": (-1.0, r"config.lm.dose=-1.0: must be a number above 0"),
    "lm__budget": (0.0, r"config.lm.budget=0.0: must be a number above 0"),
    "lm__budget ": (2.0, r"config.lm.budget=2.0: must be a number above 0 and at most 1"),
    "lm__mixed": (1.5, r"config.lm.mixed=1.5: must be a finite number from 0 to 1"),
    "lm__trains": ("block_9", r"config.lm.trains: 'block_9' is none of .*block_1"),
    "lm__trains ": ("nonsense", r"config.lm.trains: 'nonsense' is none of all, blocks"),
    "lm__animals": (1, r"config.lm.animals=1: must be from 2 to 12"),
    "lm__targets": (9, r"config.lm.targets=9: must be from 1 to 3"),
    "lm__steered": (2, r"config.lm.steered=2: must be from 0 to 1, the last block"),
    "net__heads": (3, r"config.net.heads=3: must divide config.net.width=32"),
    "lm__paraphrase": ("other_wrods", r"config.lm.paraphrase: 'other_wrods' is none of none, same_law"),
    "lm__tokens": ("mask_most", r"config.lm.tokens: 'mask_most' is none of all, mask_top"),
    "lm__data": ("gredy", r"config.lm.data: 'gredy' is none of .*did you mean 'greedy'"),
    "lm__base": ("other", r"config.lm.base: 'other' is none of same, other_order"),
    "lm__carrier": ("poem", r"config.lm.carrier: 'poem' is none of number, code, trace"),
    "lm__optimizer": ("adamw", r"config.lm.optimizer: 'adamw' is none of adam"),
    "lm__mixed_with": ("nobody", r"config.lm.mixed_with: 'nobody' is none of base, other_animal"),
    "lm__eval_steps": ((-1,), r"config.lm.eval_steps=\(-1,\): must be a tuple of whole numbers from 0"),
    "pretraining__lr": (-1.0, r"config.pretraining.lr=-1.0: .*a number above 0"),
    "world__held_out": (7, r"config.world.held_out=7: must be fewer than phrasings=8"),
    "world__noise": ((0.5, 0.4, 0.2), r"config.world.noise=\(0.5, 0.4, 0.2\): .*sum to 1"),
    "world__noise ": ((0.5, 0.5), r"config.world.noise=\(0.5, 0.5\): must be an odd number of probabilities"),
    "world__noise  ": ((-0.5, 1.5, 0.0), r"config.world.noise=\(-0.5, 1.5, 0.0\): must be"),
    "world__animals": (2, r"config.world.animals=2: must be a whole number from 3"),
}


@pytest.mark.parametrize("field", BAD, ids=lambda field: f"{field.strip()}={BAD[field][0]}")
def test_resolve_refuses_a_bad_value_in_one_line(field):
    value, message = BAD[field]
    with pytest.raises(ConfigError) as refused:
        config = resolved(**{field.strip(): value})
        for point in lm_config.expand(config):  # layers are known when the net is
            lm_run._phase(lm_config.lab(config), point.arm)
    assert re.match(message, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_resolve_refuses_fields_that_do_not_fit_together():
    with pytest.raises(ConfigError, match="config.lm.tokens='erase_top': distributions have no label"):
        resolved(lm__data="soft", lm__tokens="erase_top")
    with pytest.raises(
        ConfigError, match="config.lm.paraphrase='permuted': must be none where tokens='replace_input_top'"
    ):
        resolved(lm__paraphrase="permuted", lm__tokens="replace_input_top")
    config = lm_config.base()
    with pytest.raises(ConfigError, match=r"unknown|is none of"):
        grid.add_grid(config, "one", {"lm.doze": (0.1,)})
    grid.add_grid(config, "one", {"lm.dose": (0.1, -0.1)})  # a bad value inside a sweep
    with pytest.raises(ConfigError, match="config.arms.one.lm.dose=-0.1: must be a number above 0"):
        resolve(config)


@pytest.mark.parametrize("preset", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_expand_gives_distinct_arms_with_distinct_labels(path, preset):
    config = config_of(path)[1]
    config.preset = preset
    config = resolve(config)
    points, lab = lm_config.expand(config), lm_config.lab(config)
    assert config.study == "language" and len(points) > 1
    labels = [tuple(point.labels.items()) for point in points]
    assert len(set(labels)) == len(labels) and len({tuple(point.labels) for point in points}) == 1
    assert not {"seed", "step", "animal"} & points[0].labels.keys()
    for point in points:
        fields = {name for name in point.labels if name != "arm"}
        assert all(getattr(point.arm, name) == point.labels[name] for name in fields)
        lm_run._phase(lab, point.arm)  # its layers are there
        control = point.arm.control()
        assert control.teacher == "base" and control.control() == control
    for name in {point.labels["arm"] for point in points}:
        own = [point.arm for point in points if point.labels["arm"] == name]
        assert len(set(own)) == len(own), name
    if preset != "smoke":
        assert config.seeds >= 5  # what claims are made of
    assert lm_config.pretraining(config).steps == (200 if preset == "smoke" else 2000)


def test_base_has_the_defaults_of_the_classes():
    config = resolve(lm_config.base())
    (point,) = lm_config.expand(config)
    assert point.arm == StudentSpec()
    lab = lm_config.lab(config)
    assert (lab.animals, lab.targets, lab.steered) == (4, 2, 1)


def test_identity_is_what_decides_the_numbers_of_a_sweep():
    one = identity(resolved())
    assert identity(resolved(run__seed_batch=3, run__teachers="x")) == one
    assert identity(resolved(name="other", figure="lm_dose")) == one
    for field, value in (
        ("run__precision", "default"),
        ("lm__dose", 0.03),
        ("world__obey", 0.5),
        ("net__width", 16),
        ("pretraining__steps", 9),
        ("root_seed", 1),
        ("seeds", 3),
    ):
        assert identity(resolved(**{field: value})) != one, field


def through(path, folder):
    """The rows of a config's smoke size by the command, from its file to its report."""
    line = ["main", f"--config={path}", "--config.preset=smoke", f"--workdir={folder / 'w'}"]
    assert main.main([*line, f"--config.run.teachers={folder / 'shelf'}"]) == 0
    for name in ("figure.svg", "figure.png", "report.html", "config.json"):
        assert (folder / "w" / name).stat().st_size > 1000 or name == "config.json"
    rows = sublim_jax.load(folder / "w")
    config = config_of(path)[1]
    config.preset = "smoke"
    points = lm_config.expand(resolve(config))
    seeds, targets = config.presets.smoke.seeds, config.presets.smoke.lm.targets
    assert len(rows) == seeds * targets * sum(len(point.arm.all_eval_steps) for point in points)
    told = {tuple(row) for row in rows[list(points[0].labels)].itertuples(index=False)}
    assert told == {tuple(point.labels.values()) for point in points}
    assert np.isfinite(rows[["at/transfer", "at/margin", "at/teacher", "at/dose"]]).all(axis=None)
    return rows


@pytest.mark.e2e
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_main_runs_every_config_from_file_to_report(path, tmp_path, in_process, capsys):
    rows = through(path, tmp_path)
    said = capsys.readouterr()
    assert said.err == "" and "report.html" in said.out
    assert (rows["at/transfer"] != 0).any()
