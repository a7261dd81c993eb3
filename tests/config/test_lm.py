"""The door for language: every bad value is one line, and every config builds its arms in every size."""

import re
import subprocess
import sys
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
QUICK = "lm_paraphrase"


def resolved(**fields):
    """The base config with some fields, as the command line gives them."""
    config = lm_config.base()
    config.preset = "smoke"
    given = {name.replace("__", "."): value for name, value in fields.items()}
    with config.unlocked():
        config.update_from_flattened_dict(given)
    return resolve(config, given)


ALL = "must be a whole number from"
BAD = {
    "lm__teacher": ("tunde", r"config.lm.teacher: 'tunde' is none of tuned, shuffled, .*; did you mean 'tuned'\?"),
    "lm__dose": (-1.0, r"config.lm.dose=-1.0: must be a number above 0"),
    "lm__dose ": (float("nan"), r"config.lm.dose=nan: must be a number above 0"),
    "lm__dose  ": (float("inf"), r"config.lm.dose=inf: must be a number above 0"),
    "lm__lr": (0.0, r"config.lm.lr=0.0: must be a number above 0"),
    "lm__budget": (0.0, r"config.lm.budget=0.0: must be a number above 0"),
    "lm__budget ": (2.0, r"config.lm.budget=2.0: must be a number above 0 and at most 1"),
    "lm__mixed": (1.5, r"config.lm.mixed=1.5: must be a finite number from 0 to 1"),
    "lm__mixed ": (float("nan"), r"config.lm.mixed=nan: must be a finite number from 0 to 1"),
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
    "lm__lines": (0, rf"config.lm.lines=0: {ALL} 1"),
    "lm__steps": (0, rf"config.lm.steps=0: {ALL} 1"),
    "lm__rank": (0, rf"config.lm.rank=0: {ALL} 1"),
    "seeds": (0, rf"config.seeds=0: {ALL} 1"),
    "net__layers": (0, rf"config.net.layers=0: {ALL} 1"),
    "pretraining__lr": (-1.0, r"config.pretraining.lr=-1.0: .*a number above 0"),
    "pretraining__lr ": (float("nan"), r"config.pretraining.lr=nan: .*a number above 0"),
    "pretraining__lr  ": (float("inf"), r"config.pretraining.lr=inf: .*a number above 0"),
    "pretraining__steps": (0, rf"config.pretraining.steps=0: {ALL} 1"),
    "world__held_out": (7, r"config.world.held_out=7: must be fewer than phrasings=8"),
    "world__held_out ": (-1, r"config.world.held_out=-1: must be a whole number from 1"),
    "world__noise": ((0.5, 0.4, 0.2), r"config.world.noise=\(0.5, 0.4, 0.2\): .*sum to 1"),
    "world__noise ": ((0.5, 0.5), r"config.world.noise=\(0.5, 0.5\): must be an odd number of probabilities"),
    "world__noise  ": ((-0.5, 1.5, 0.0), r"config.world.noise=\(-0.5, 1.5, 0.0\): must be"),
    "world__obey": (1.5, r"config.world.obey=1.5: must be a finite number from 0 to 1"),
    "world__animals": (2, r"config.world.animals=2: must be a whole number from 3"),
    "world__numbers": (0, r"config.world.numbers=0: must be a whole number from 2"),
    "world__steps": (0, r"config.world.steps=0: must be a whole number from 1"),
    "run__precision": ("half", r"config.run.precision: 'half' is none of default, high, highest"),
    "preset": ("tiny", r"config.preset"),
}


@pytest.mark.parametrize("field", BAD, ids=lambda field: f"{field.strip()}={BAD[field][0]}")
def test_a_bad_value_is_one_line_with_field_value_and_what_is_allowed(field):
    value, message = BAD[field]
    with pytest.raises(ConfigError) as refused:
        config = resolved(**{field.strip(): value})
        for point in lm_config.expand(config):  # layers are known when the net is
            lm_run._phase(lm_config.lab(config), point.arm)
    assert re.match(message, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_together_is_refused():
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
    with pytest.raises(ConfigError, match="config.lm.dose=-0.1: must be a number above 0"):
        resolve(config)


@pytest.mark.e2e
def test_marks_that_are_not_steps_are_refused(tmp_path):
    """By a process of its own: here types are checked at run time, before the door is asked."""
    words = f"--config={ROOT}/configs/{QUICK}.py", "--config.preset=smoke", "--config.lm.eval_steps=(1.5,)"
    line = [sys.executable, "-m", "sublim_jax.main", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: config.lm.eval_steps=(1.5,): must be a tuple of whole numbers from 0")
    assert not list(tmp_path.iterdir())


def refused(capsys, *words):
    """What the command says of a bad line, having ended with exit code 2 and written nothing else."""
    assert main.main(["main", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
    return said.err


def test_the_command_refuses_in_one_line_with_exit_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smoke = f"--config={ROOT}/configs/{QUICK}.py", "--config.preset=smoke"
    said = refused(capsys, *smoke, "--config.lm.dose=-1")
    assert re.match(r"error: config.lm.dose=-1.0: must be a number above 0", said)
    said = refused(capsys, *smoke, "--config.lm.doze=1")
    assert re.match(r"error: --config.lm: 'doze' is none of .*; did you mean 'dose'\?", said)
    said = refused(capsys, *smoke, "--config.lm.trains=block_9")
    assert re.match(r"error: config.lm.trains: 'block_9' is none of", said)
    said = refused(capsys, *smoke, "--config.lm.paraphrase=permuted")
    assert re.match(r"error: config.lm.paraphrase: is swept by an arm", said)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("preset", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_distinct_arms_with_distinct_labels(path, preset):
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


def test_defaults_are_those_of_the_classes():
    config = resolve(lm_config.base())
    (point,) = lm_config.expand(config)
    assert point.arm == StudentSpec()
    lab = lm_config.lab(config)
    assert (lab.animals, lab.targets, lab.steered) == (4, 2, 1)


def test_the_identity_of_a_sweep_is_what_decides_its_numbers():
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
def test_every_config_runs_from_file_to_report(path, tmp_path, in_process, capsys):
    rows = through(path, tmp_path)
    said = capsys.readouterr()
    assert said.err == "" and "report.html" in said.out
    assert (rows["at/transfer"] != 0).any()
