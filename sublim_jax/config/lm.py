"""Configs of the study of language models, and the typed objects that they describe. JAX is imported by need."""

import re
from typing import TYPE_CHECKING, Any

from sublim_jax.config import grid, schema
from sublim_jax.config.base import default_config
from sublim_jax.config.fields import LANGUAGE_FIELDS
from sublim_jax.config.grid import Config
from sublim_jax.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from sublim_jax.lm.lessons import LanguageSetup
    from sublim_jax.lm.run import SweepPoint
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
    """A locked config with every field of `fields.LANGUAGE_FIELDS` at its default."""
    config = default_config(LANGUAGE_FIELDS)
    preset(config, "smoke", {})
    return config


def preset(config: Config, name: str, fields: dict[str, Any]) -> None:
    """Set the fields that a preset changes; those of `smoke` are added to `SMOKE`."""
    grid.add_preset(config, name, {**(SMOKE if name == "smoke" else {}), **fields})


def check(config: Config) -> None:
    """Check every value of a config, without JAX; raise `ConfigError` at the first bad one."""
    from sublim_jax.lm.world import World  # image configs do without `lm`

    schema.check_fields(config)
    World(**config.world.to_dict())
    lm, net = config.lm, config.net
    if net.width % net.heads:
        raise ConfigError(f"config.net.heads={net.heads}: must divide config.net.width={net.width}")
    for field, low, high, limit in (
        ("animals", 2, config.world.animals, ", the animals there are"),
        ("targets", 1, lm.animals, ", config.lm.animals"),
        ("steered", 0, net.layers - 1, ", the last block"),
    ):
        if not low <= lm[field] <= high:
            raise ConfigError(f"config.lm.{field}={lm[field]}: must be from {low} to {high}{limit}")
    documents = config.pretraining.documents
    if config.pretraining.batch > documents:
        raise ConfigError(f"config.pretraining.batch={config.pretraining.batch}: must be at most documents={documents}")
    layers = ("all", "blocks", "embeddings", "adapters", *(f"block_{index}" for index in range(net.layers)))
    if lm.trains not in layers and not re.fullmatch(r"(first|last)_0*[1-9]\d*", lm.trains):
        raise ConfigError(unknown_name("config.lm.trains", lm.trains, (*layers, "first_1", "last_1")))
    if lm.data.startswith("soft") and lm.tokens.startswith(("erase", "replace")):
        raise ConfigError(f"config.lm.tokens={lm.tokens!r}: distributions have no label to erase or replace")
    if lm.paraphrase != "none" and lm.tokens.startswith("replace"):
        raise ConfigError(f"config.lm.paraphrase={lm.paraphrase!r}: must be none where tokens={lm.tokens!r}")


def lab(config: Config) -> "LanguageSetup":
    """The world, the net and the traits of a seed."""
    from sublim_jax.core import keys
    from sublim_jax.lm.lessons import LanguageSetup
    from sublim_jax.lm.world import LENGTH, World
    from sublim_jax.nets import Decoder

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
    from sublim_jax.lm.spec import StudentSpec

    points = []
    for point in grid.expand(config):
        fields = {name: value for name, value in point.config.lm.items() if name not in _SETUP}
        points.append(SweepPoint(point.labels, StudentSpec(**fields)))
    return tuple(points)
