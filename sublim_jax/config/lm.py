"""Configs of the study of language models, and the typed objects that they describe. JAX is imported by need."""

from typing import TYPE_CHECKING, Any

from sublim_jax.config import grid, schema
from sublim_jax.config.base import default_config
from sublim_jax.config.grid import Config
from sublim_jax.core.errors import ConfigError

if TYPE_CHECKING:
    from sublim_jax.lm.lessons import LanguageSetup
    from sublim_jax.lm.run import SweepPoint
    from sublim_jax.lm.spec import StudentSpec
    from sublim_jax.lm.training import Pretraining

_SETUP = ("animals", "targets", "steered")  # fields of `lm` that hold for all students of a seed
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
    """A locked config with every field of `schema.LANGUAGE_FIELDS` at its default."""
    config = default_config(schema.LANGUAGE_FIELDS)
    preset(config, "smoke", {})
    return config


def preset(config: Config, name: str, fields: dict[str, Any]) -> None:
    """Set the fields that a preset changes; those of `smoke` are added to `SMOKE`."""
    grid.add_preset(config, name, {**(SMOKE if name == "smoke" else {}), **fields})


def check(config: Config) -> None:
    """Check every value of a config; raises `ConfigError` at the first bad one."""
    schema.check_fields(config)
    from sublim_jax.lm.lessons import check as check_setup

    check_setup(lab(config))
    _spec(config)


def lab(config: Config) -> "LanguageSetup":
    """The world, the net and the traits of a seed."""
    from sublim_jax.core import keys
    from sublim_jax.lm.lessons import LanguageSetup
    from sublim_jax.lm.world import LENGTH, World
    from sublim_jax.nets import Decoder

    if config.net.width % config.net.heads:
        raise ConfigError(f"config.net.heads={config.net.heads}: must divide config.net.width={config.net.width}")
    world = World(**config.world.to_dict())
    net = Decoder(world.vocabulary, length=LENGTH, **config.net.to_dict())
    return LanguageSetup(world, net, keys.root(config.root_seed), **{name: config.lm[name] for name in _SETUP})


def pretraining(config: Config) -> "Pretraining":
    """The pre-training of base models."""
    from sublim_jax.lm.training import Pretraining

    return Pretraining(**config.pretraining.to_dict())


def expand(config: Config) -> "tuple[SweepPoint, ...]":
    """The students of a resolved config with the labels of their rows."""
    from sublim_jax.lm.run import SweepPoint

    return tuple(SweepPoint(point.labels, _spec(point.config)) for point in grid.expand(config))


def _spec(config: Config) -> "StudentSpec":
    from sublim_jax.lm.spec import StudentSpec

    return StudentSpec(**{name: value for name, value in config.lm.items() if name not in _SETUP})
