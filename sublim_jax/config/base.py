"""Base configs, presets, and the checked config of a run. Imports no JAX."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from sublim_jax.config import grid, schema
from sublim_jax.config.fields import IMAGE_FIELDS, INFOMORPHIC_FIELDS
from sublim_jax.config.grid import Config
from sublim_jax.config.rules import FOLDER, Field
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.nested import flatten

_SMOKE = {
    "seeds": 2,
    "m": (3, 10),
    "num_eval_noise": 64,
    "data.train_limit": 1000,
    "data.test_limit": 300,
    "net.hidden": (32, 16),
    "teacher.epochs": 2,
    "teacher.batch": 300,
    "student.steps": 20,
    "student.batch": 50,
    "student.eval_steps": (0, 10),
    "run.save_every": 10,
    "metrics": ("task", "budget", "imitation", "representation", "layers"),  # predictions double the compile time
}
_SOURCES = ("source", "folder", "tfds_dir", "verify", "more_folder")  # fields of `data` that do not change the images


def base_config(preset: str = "paper") -> Config:
    """The config of an image experiment: the protocol of Brockers et al. 2026, Figure 2.

    Args:
        preset: "paper", or "smoke" for toy sizes, which fields set afterwards replace.

    Returns:
        A locked config with every field of `fields.IMAGE_FIELDS`; `python -m sublim_jax --fields` lists them.
    """
    config = default_config(IMAGE_FIELDS)
    if preset not in ("paper", "smoke"):
        raise ConfigError(f"config.preset: {preset!r} is none of paper, smoke")
    if preset == "smoke":
        schema.set_fields(config, _SMOKE)
    return config


def default_config(fields: Mapping[str, Field]) -> Config:
    """A locked config in which every field has its default."""
    return grid.nested({name: field.default for name, field in fields.items()}).lock()


def cloud_config() -> Config:
    """The base config with the MNIST protocol of Cloud et al. 2026 (Nature 652, 615).

    Conditions, m and seeds are those of the base config. 295 steps over 59 batches of noise are five epochs of 60,416
    images.
    """
    config = base_config()
    config.data.mean = config.data.std = 0.5
    config.net.init = "normal_fan_in"
    config.teacher.lr = config.student.lr = 3e-4
    config.student.loss = "kl"
    config.student.batch = 1024
    config.student.steps = 295
    config.student.pool = 59
    return config


def infomorphic_config() -> Config:
    """The config of infomorphic networks on MNIST: the protocol of Schneider et al., ICLR 2025."""
    config = default_config(INFOMORPHIC_FIELDS)
    config.data.train_limit = 48_000  # the published fraction; the rest is for validation
    grid.add_preset(
        config,
        "smoke",
        {
            "seeds": 2,
            "num_eval_noise": 64,
            "data.train_limit": 600,
            "data.test_limit": 300,
            "infomorphic.units": 8,
            "infomorphic.batch": 128,
            "infomorphic.epochs": 2,
            "infomorphic.eval_epochs": (0, 1),
        },
    )
    return config


def resolve(config: Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """Apply the preset of a config and check every value.

    Args:
        config: A config, which is left as it is.
        overrides: Fields that the user set, by dotted name; they win over the preset.

    Returns:
        A copy of the config with the values of the preset.

    Raises:
        ConfigError: At the first bad value; the message names the field, the value and what is allowed.
    """
    config, overrides = config.copy_and_resolve_references(), overrides or {}
    for name in ("study", "preset", "presets", "arms"):  # the first that are read
        if name not in config:
            raise ConfigError(f"config.{name}: missing; begin a config with sublim_jax.config.base_config()")
        schema.check_value(name, config[name], schema.fields_of(config)[name].rule)
    for name in config.arms:
        for field in overrides.keys() & flatten(config.arms[name].to_dict()).keys():
            raise ConfigError(f"config.{field}: is swept by an arm; say --config.arms.{name}.{field}")
    if config.preset != "paper":
        if config.preset == "smoke" and config.study in ("transfer", "theorem1"):
            schema.set_fields(config, _SMOKE)
        preset = flatten(config.presets[config.preset].to_dict())
        schema.set_fields(config, preset, f"config.presets.{config.preset}")
        schema.set_fields(config, overrides)
    check = _check_of(config.study)
    _expand_folders(config)
    check(config)
    for point in grid.expand(config):
        check(point.config)
    return config


def _check_of(study: str) -> Callable[[Config], None]:
    """The check of the configs of a study; image configs do without `lm` and `llm`."""
    if study == "language":
        from sublim_jax.config.lm import check
    elif study == "llm":
        from sublim_jax.config.llm import check
    else:
        check = schema.check_infomorphic if study == "infomorphic" else schema.check
    return check


def _expand_folders(config: Config) -> None:
    """Write the user's home folder for ~ in every field that holds a folder."""
    for name, field in schema.fields_of(config).items():
        section, _, leaf = name.rpartition(".")
        value = config[section].get(leaf) if section else None
        if field.rule is FOLDER and isinstance(value, str):
            config[section][leaf] = os.path.expanduser(value)


# Fields that earlier versions lack, with the value at which they and others have no effect: they are then left out, so
# that folders of those versions are continued.
_LATER: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("student", "extra", {}, ()),
    ("student", "cut", 0, ("carried", "future")),
    ("transfer", "heads", "shared", ()),
)


def identity(config: Config) -> dict[str, Any]:
    """The fields that decide the results, as plain values, which a work folder remembers.

    The source of the images is left out, since their checksum is kept; of `run` only the precision is kept.
    """
    ignored = ("figure", "name", "preset", "presets", "together", "mesh")  # the last two: how it is computed
    ignored += ("study", "theorem1") if config.study == "transfer" else ()
    fields = {name: value for name, value in config.to_dict().items() if name not in ignored}
    if "data" in fields:
        fields["data"] = {name: value for name, value in fields["data"].items() if name not in _SOURCES}
        for section, name, unused, together in _LATER:
            if section in fields and fields[section].get(name, unused) == unused:
                left_out = (name, *together)
                fields[section] = {name: value for name, value in fields[section].items() if name not in left_out}
    return fields | {"run": {"precision": config.run.precision}}


def seeds_of(config: Config) -> tuple[int, ...]:
    """The seeds to run."""
    return tuple(range(config.first_seed, config.first_seed + config.seeds))


def default_workdir(config: Config) -> str:
    """The work folder of a command that names none."""
    return f"results/{config.name}" + ("" if config.preset == "paper" else f"-{config.preset}")
