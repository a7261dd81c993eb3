"""The door for language: a config's fields, what they may hold, and the arms, lab and pre-training they mean."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config.grid import Config
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.engine.options import RunOptions
from sublim_jax.lm import world as w
from sublim_jax.lm.lessons import LanguageSetup
from sublim_jax.lm.lessons import check as check_lab
from sublim_jax.lm.run import SweepPoint
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.training import Pretraining
from sublim_jax.lm.world import World
from sublim_jax.nets import Decoder

_NET = ("width", "layers", "heads", "hidden")
_LAB = ("animals", "targets", "steered")
SMOKE = {
    "seeds": 2,
    "net.width": 32,
    "net.layers": 2,
    "net.heads": 2,
    "net.hidden": 64,
    "pretraining.documents": 3200,
    "pretraining.steps": 200,
    "lm.lines": 64,
    "lm.steps": 8,
    "lm.eval_steps": (),
    "lm.batch": 16,
    "lm.dose": 0.02,
    "lm.targets": 1,
    "lm.animals": 3,
    "lm.steered": 0,
}


def base() -> Config:
    """Every field with its default; `world` and `pretraining` are those of the classes of that name, `lm` of
    `StudentSpec`."""
    config: Config = ConfigDict()
    config.name = "language"
    config.figure = "lm_transfer"  # a module of sublim_jax.results.figures
    config.study = "language"
    config.preset = "paper"  # or laptop, smoke: as in sublim_jax.config
    config.presets = ConfigDict({"laptop": ConfigDict({"seeds": 5})})
    preset(config, "smoke", {})
    config.arms = ConfigDict()  # what is swept: fields of lm; see sublim_jax.config.grid
    config.seeds = 10  # bases and all that follows from them, from first_seed on
    config.first_seed = 0
    config.root_seed = 0
    config.world = ConfigDict({field.name: getattr(World(), field.name) for field in dataclasses.fields(World)})
    config.net = ConfigDict({name: getattr(Decoder, name) for name in _NET})
    config.pretraining = ConfigDict(dataclasses.asdict(Pretraining()))
    # What a student's lesson is (sublim_jax.lm.arms.Arm), and of a seed: animals with teachers, animals with students,
    # and the block after which steered teachers are steered.
    config.lm = ConfigDict(
        {**dataclasses.asdict(StudentSpec()), **{name: LanguageSetup._field_defaults[name] for name in _LAB}}
    )
    how = RunOptions()
    config.run = ConfigDict({name: getattr(how, name) for name in RunOptions.__dataclass_fields__})
    config.run.teachers = "auto"  # where bases are kept too: in the user's cache
    return config.lock()


def preset(config: Config, name: str, fields: dict[str, Any]) -> None:
    """Say what another size of the sweep changes; the smoke size is small anyway."""
    grid.add_preset(config, name, {**(SMOKE if name == "smoke" else {}), **fields})


def check(config: Config) -> None:
    """Check every value of a config; raises `ConfigError` at the first bad one."""
    for field, least in (
        ("seeds", 1),
        ("first_seed", 0),
        ("root_seed", 0),
        ("run.seed_batch", 0),
        ("run.save_every", 1),
    ):
        value = config[field] if "." not in field else config.run[field.partition(".")[2]]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"config.{field}={value!r}: must be a whole number from {least}")
    for section in ("net", "pretraining"):
        for name, value in config[section].items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= 1 or name == "lr" and isinstance(value, float) and 0 < value < float("inf")):
                raise ConfigError(
                    f"config.{section}.{name}={value!r}: must be a whole number from 1 (lr: a number above 0)"
                )
    if config.run.precision not in ("default", "high", "highest"):
        raise ConfigError(unknown_name("config.run.precision", config.run.precision, ("default", "high", "highest")))
    check_lab(lab(config))
    _arm(config)


def lab(config: Config) -> LanguageSetup:
    """The world, the net and the traits of a seed."""
    world = World(**{name: value for name, value in config.world.items()})
    net = Decoder(world.vocabulary, length=w.LENGTH, **{name: config.net[name] for name in _NET})
    if config.net.width % config.net.heads:
        raise ConfigError(f"config.net.heads={config.net.heads}: must divide config.net.width={config.net.width}")
    return LanguageSetup(world, net, keys.root(config.root_seed), **{name: config.lm[name] for name in _LAB})


def pretraining(config: Config) -> Pretraining:
    """How bases are made."""
    return Pretraining(**config.pretraining.to_dict())


def expand(config: Config) -> tuple[SweepPoint, ...]:
    """The arms of a resolved config with the labels of their rows."""
    return tuple(SweepPoint(point.labels, _arm(point.config)) for point in grid.expand(config))


def _arm(config: Config) -> StudentSpec:
    return StudentSpec(**{field.name: config.lm[field.name] for field in dataclasses.fields(StudentSpec)})
