"""The door from a config to typed conditions. `ConfigDict` never passes this file."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sublim_jax import data, inits, losses, streams, trees
from sublim_jax.allowed import CONDITIONS, OPTIMIZERS, PRESETS, Config, check, one_of, pick
from sublim_jax.errors import Refused
from sublim_jax.nets import MLP, SplitHead, shapes
from sublim_jax.run import How
from sublim_jax.types import Condition, Knobs, Phase, Recipe

_SMOKE = {
    "seeds": 2,
    "m": (3, 10),
    "exam": 64,
    "data.train_limit": 1000,
    "data.test_limit": 300,
    "net.hidden": (32, 16),
    "teacher.epochs": 2,
    "teacher.batch": 300,
    "student.steps": 20,
    "student.batch": 50,
    "student.marks": (0, 10),
    "run.every": 10,
}
_ALWAYS_FRESH = 2**31 - 1


def base(preset: str = "full") -> Config:
    """Every field with its default: the published protocol of Brockers et al. 2026, Figure 2.

    `preset="smoke"` fills in toy sizes, which fields set afterwards override.
    """
    config: Config = ConfigDict()
    config.name = "experiment"
    config.preset = "full"  # smoke: toy sizes, ends in seconds; for the command line, whose other fields win
    config.conditions = ("same", "random_hidden", "random_class_head", "random_aux_head")
    config.m = (100,)  # auxiliary logits the student sees
    config.caps = (16, 64, 256, 1024)  # m between two caps share a program, padded to the widest of them
    config.seeds = 4  # how many, from first_seed on
    config.first_seed = 0
    config.root = 0  # the key of the whole sweep
    config.exam = 2000  # held-out noise images on which imitation is measured
    config.figure = "transfer"  # a function of sublim_jax.plots
    config.data = ConfigDict(
        {
            "name": "mnist",
            "source": "auto",
            "folder": "",  # of IDX files, for source idx
            "tfds_dir": "",  # of prepared TFDS data; empty: TFDS's own default
            "mean": 0.1307,
            "std": 0.3081,
            "train_limit": 0,  # first images only; 0 = all
            "test_limit": 0,
            "verify": True,  # refuse files that are not the canonical ones
        }
    )
    config.net = ConfigDict(
        {
            "hidden": (256, 256),
            "init": "torch_linear",
            "dtype": "float32",  # bfloat16: operands of products are rounded, sums, weights and Adam are not
        }
    )
    config.teacher = ConfigDict(
        {"loss": "cross_entropy", "stream": "epochs", "optimizer": "adam", "lr": 1e-3, "batch": 1024, "epochs": 5}
    )
    config.student = ConfigDict(
        {
            "loss": "mse",
            "stream": "uniform",
            "optimizer": "adam",
            "lr": 1e-3,
            "batch": 1000,
            "steps": 300,
            "marks": (0,),  # steps at which everything is measured, besides the last; those beyond it are not reached
            "sees": "aux",  # aux, class or all logits
            "pool": 0,  # distinct noise batches; 0 = always fresh
            "temperature": 1.0,
        }
    )
    how = How()
    config.run = ConfigDict({name: getattr(how, name) for name in How.__dataclass_fields__})
    one_of("preset", preset, PRESETS)
    if preset == "smoke":
        config.update_from_flattened_dict(_SMOKE)
    return config.lock()


def resolve(config: Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config with its preset applied, what the user overrode on top, and every value checked.

    Raises `Refused` at the first bad value, naming the field, the value and what is allowed.
    """
    config = config.copy_and_resolve_references()
    one_of("preset", config.preset, PRESETS)
    if config.preset == "smoke":
        config.update_from_flattened_dict({**_SMOKE, **(overrides or {})})
    check(config)
    return config


def identity(config: Config) -> dict[str, Any]:
    """The fields that decide the results, as plain values: what a work folder remembers.

    Where the images lie does not matter, their checksum stands beside these; of `run` only the precision does.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in ("figure", "name")}
    where = ("source", "folder", "tfds_dir", "verify")
    fields["data"] = {name: value for name, value in fields["data"].items() if name not in where}
    return fields | {"run": {"precision": config.run.precision}}


def how(config: Config) -> How:
    """The fields that decide only how it is computed."""
    return How(**config.run.to_dict())


def seeds(config: Config) -> tuple[int, ...]:
    """The seeds to run."""
    return tuple(range(config.first_seed, config.first_seed + config.seeds))


def load(config: Config) -> data.Dataset:
    """The data set the config names."""
    return data.load(**config.data.to_dict())


def build(config: Config, dataset: data.Dataset, trunk: nn.Module | None = None) -> tuple[Condition, ...]:
    """Turn a resolved config into conditions: every condition x every m, students under padded auxiliary heads.

    `trunk` is the architecture of teacher and student below their heads; default `MLP(config.net.hidden)`. Raises
    `Refused` where a condition names a layer the trunk has not.
    """
    if config.student.stream == "epochs" and config.exam > len(dataset.test.y):
        raise Refused(
            f"config.exam={config.exam}: must be at most {len(dataset.test.y)}, the test images of the stream"
        )
    classes, image = dataset.classes, dataset.train.x.shape[1:]
    trunk = trunk or MLP(tuple(config.net.hidden), config.net.dtype)
    teacher = _teacher(config, trunk, classes, image, len(dataset.train.y))
    built = []
    for name in config.conditions:
        for m in config.m:
            student = _student(config, trunk, classes, image, name, m)
            built.append(Condition({"condition": name, "m": m}, teacher, student))
    return tuple(built)


def _teacher(config: Config, trunk: nn.Module, classes: int, image: tuple[int, ...], images: int) -> Phase:
    c = config.teacher
    # Without an auxiliary head: the labels give it no gradient, so it keeps its draw and is put on afterwards.
    net = SplitHead(trunk, classes, 0, config.net.dtype)
    recipe = Recipe(
        net=net,
        stream=pick(streams, c.stream, "teacher.stream"),
        loss=pick(losses, c.loss, "teacher.loss"),
        init=pick(inits, config.net.init, "net.init"),
        batch=c.batch,
        marks=(c.epochs * streams.steps_per_epoch(images, c.batch),),
        optimizer=pick(OPTIMIZERS, c.optimizer, "teacher.optimizer"),
    )
    return Phase(recipe, _knobs(shapes(net, image), np.ones(classes, bool), c.lr, random=()))


def _student(config: Config, trunk: nn.Module, classes: int, image: tuple[int, ...], name: str, m: int) -> Phase:
    c = config.student
    cap = _cap(config, m)
    net = SplitHead(trunk, classes, cap, config.net.dtype)
    recipe = Recipe(
        net=net,
        stream=pick(streams, c.stream, "student.stream"),
        loss=pick(losses, c.loss, "student.loss"),
        init=pick(inits, config.net.init, "net.init"),
        batch=c.batch,
        marks=tuple(sorted({mark for mark in c.marks if mark < c.steps} | {c.steps})),
        optimizer=pick(OPTIMIZERS, c.optimizer, "student.optimizer"),
        reference=net,
    )
    logit = np.arange(classes + cap)
    seen = {"aux": logit >= classes, "class": logit < classes, "all": logit >= 0}[c.sees] & (logit < classes + m)
    knobs = _knobs(shapes(net, image), seen, c.lr, CONDITIONS[name], c.pool or _ALWAYS_FRESH, c.temperature)
    return Phase(recipe, knobs)


def _cap(config: Config, m: int) -> int:
    """The width an m is padded to: the largest m of the sweep that falls under the same of `config.caps`."""
    bound = min(cap for cap in config.caps if cap >= m)
    return max(other for other in config.m if other <= bound)


def _knobs(
    layers: Mapping[str, Any],
    seen: np.ndarray,
    lr: float,
    random: tuple[str, ...],
    pool: int = _ALWAYS_FRESH,
    temperature: float = 1.0,
) -> Knobs:
    names = [layer for layer in random if "*" not in layer]
    if "hidden_*" in random:
        names += [layer for layer in layers if layer.startswith("hidden_")]
    return Knobs(
        seen=jnp.asarray(seen),
        pool=jnp.int32(pool),
        lr=jnp.float32(lr),
        temperature=jnp.float32(temperature),
        share=trees.per_layer(layers, 1.0, dict.fromkeys(names, 0.0), "config.conditions"),
        sigma=trees.per_layer(layers, 0.0, {}, "sigma"),
        live=trees.per_layer(layers, 1.0, {}, "live"),
    )
