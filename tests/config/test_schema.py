"""The table of fields agrees with the base configs, the dataclasses and the functions that its names stand for."""

import dataclasses
import re

import pytest

from sublim_jax.config import base_config, build, grid, infomorphic_config, llm, lm, resolve, schema
from sublim_jax.config import fields as config_fields
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.nested import flatten
from sublim_jax.data import idx, load
from sublim_jax.engine.first_steps import Grid
from sublim_jax.engine.options import RunOptions
from sublim_jax.llm.spec import EvaluationSpec, RowSpec
from sublim_jax.llm.spec import StudentSpec as LlmStudentSpec
from sublim_jax.llm.teachers import TeacherSpec
from sublim_jax.lm.lessons import LanguageSetup
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.training import Pretraining
from sublim_jax.lm.world import World
from sublim_jax.nets import ACTIVATIONS, Decoder
from sublim_jax.nets.infomorphic import SOURCES
from sublim_jax.results import figures
from sublim_jax.training import infomorphic


@pytest.mark.parametrize(
    "config",
    [base_config(), lm.base(), infomorphic_config(), llm.base()],
    ids=["image", "language", "infomorphic", "llm"],
)
def test_fields_of_describes_every_field_of_the_base_configs(config):
    fields = schema.fields_of(config)
    names = {name for name in flatten(config.to_dict()) if not name.startswith("presets.")}
    sections = {name for name, field in fields.items() if isinstance(field.default, dict)}
    assert names | sections == fields.keys()
    for name, (default, rule, meaning) in fields.items():
        assert meaning and rule.allowed and "\n" not in meaning + rule.allowed
        if name not in sections:
            schema.check_value(name, default, rule)
        if name.endswith(".eval_steps"):
            with pytest.raises(ConfigError, match="must be a tuple of whole numbers from 0"):
                schema.check_value(name, (1.5,), rule)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1e30, 10**30, b"x", "a\x00b", [1], {1}, (None,)])
@pytest.mark.parametrize("table", ["IMAGE_FIELDS", "LANGUAGE_FIELDS", "INFOMORPHIC_FIELDS", "LLM_FIELDS"])
def test_no_field_accepts_what_is_never_meant(table, value):
    for name, field in getattr(config_fields, table).items():
        if not isinstance(field.default, dict):
            with pytest.raises(ConfigError, match=rf"config\.{re.escape(name)}[:=]"):
                schema.check_value(name, value, field.rule)


def test_schema_has_the_defaults_of_the_dataclasses():
    def section(fields, name):
        return {key.partition(".")[2]: one.default for key, one in fields.items() if key.startswith(f"{name}.")}

    language = config_fields.LANGUAGE_FIELDS
    assert section(language, "world") == dataclasses.asdict(World())
    assert section(language, "pretraining") == dataclasses.asdict(Pretraining())
    setup = {name: LanguageSetup._field_defaults[name] for name in ("animals", "targets", "steered")}
    assert section(language, "lm") == dataclasses.asdict(StudentSpec()) | setup
    assert all(getattr(Decoder, name) == value for name, value in section(language, "net").items())
    assert section(config_fields.IMAGE_FIELDS, "theorem1") == Grid()._asdict()
    specs = {"teacher": TeacherSpec(), "rows": RowSpec(), "student": LlmStudentSpec()}
    for name, spec in specs.items():
        assert section(config_fields.LLM_FIELDS, name) == spec._asdict()
    assert section(config_fields.LLM_FIELDS, "evaluation").keys() == EvaluationSpec()._asdict().keys()
    for table in (language, config_fields.IMAGE_FIELDS, config_fields.LLM_FIELDS):
        assert section(table, "run") == dataclasses.asdict(RunOptions()) | {"teachers": "auto"}


def test_schema_names_the_functions():
    for names in ("INITS", "LOSSES", "STREAMS", "OPTIMIZERS", "DECAYING", "GUARDS"):
        assert set(getattr(config_fields, names)) == set(getattr(build, names)), names
    assert {*config_fields.METRICS, *config_fields.OTHER_METRICS, *config_fields.INFORMATION_METRICS} == set(
        build.METRICS
    )
    assert set(config_fields.MODELS) == set(SOURCES) and infomorphic.atom_names(3) == config_fields.ATOMS
    kinds = [f"{kind}_{goal}" for kind in ("trivariate", "context", "lateral") for goal in config_fields.GOALS]
    assert {name for name in infomorphic.GOALS if name != "readout"} <= set(kinds)
    assert set(config_fields.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(config_fields.DATASETS) == set(idx.KINDS) and set(config_fields.SOURCES) == set(load.SOURCES)
    assert figures.names() == config_fields.FIGURES


@pytest.mark.parametrize("old", [name for name in grid.RENAMED if not name.startswith("lm.")])
def test_resolve_and_add_grid_refuse_old_names_with_the_new_one(old):
    message = rf"'(arms\.a\.)?{old}' is now called '(arms\.a\.)?{grid.RENAMED[old]}'"
    config = base_config()
    with pytest.raises(ConfigError, match=message):
        grid.add_grid(config, "a", {old: (1,)})
    for field in (old, f"arms.a.{old}"):
        config = base_config()
        config.preset = "laptop"
        grid.add_preset(config, "laptop", {field: (1,)})
        with pytest.raises(ConfigError, match=message):
            resolve(config)


def test_resolve_refuses_a_misspelt_field_or_a_wrong_type_of_a_preset():
    for fields, message in (
        ({"student.lrr": 1.0}, r"config.presets.smoke: 'student.lrr' is none of .*did you mean 'student.lr'"),
        ({"seeds": "many"}, r"config.presets.smoke.seeds='many': must be a whole number from 1"),
    ):
        config = base_config()
        config.preset = "smoke"
        grid.add_preset(config, "smoke", fields)
        with pytest.raises(ConfigError, match=message):
            resolve(config)
