"""Typed conditions of a config: Recipe and Knobs of teacher and student at every point of the sweep."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from sublim_jax import data, metrics
from sublim_jax.config import grid
from sublim_jax.config.grid import Config
from sublim_jax.config.schema import CONDITIONS
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Condition, Knobs, Loss, Phase, Recipe, Stream, TargetTransform
from sublim_jax.data.load import Dataset
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.first_steps import Grid
from sublim_jax.engine.options import RunOptions
from sublim_jax.metrics import predictions
from sublim_jax.nets import CNN, MLP, SplitHead, shapes
from sublim_jax.training import inits, losses, optimizers, projections, streams, targets

_ALWAYS_FRESH = 2**31 - 1


def momentum() -> optax.GradientTransformation:
    """Gradient descent with momentum 0.9."""
    return optax.trace(decay=0.9)


# The functions that the names of sublim_jax.config.schema stand for.
OPTIMIZERS = {"adam": optax.scale_by_adam, "sgd": optax.identity, "momentum": momentum}
DECAYING = {"adam_l2": optimizers.AdamL2, "adamw": optimizers.AdamW}  # with `student.decay`
GUARDS = {
    "project": projections.ProjectOutTrait(),
    "project_trunk": projections.ProjectOutTrait("trunk"),
    "project_layers": projections.ProjectOutTrait("layers"),
    "project_positive": projections.ProjectOutTrait("trunk", positive=True),
    "project_step": projections.ProjectOutTrait("trunk", step=True),
}
INITS = {init.__name__: init for init in (inits.torch_linear, inits.normal_fan_in, inits.transformer)}
METRICS = {metric.__name__: metric for metric in (*metrics.ALL, *predictions.ALL)}
STREAMS: dict[str, Callable[[Config], Stream]] = {
    "uniform": lambda _: streams.uniform,
    "gaussian": lambda _: streams.gaussian,
    "perlin": lambda config: streams.Perlin(config.student.resolution),
    "epochs": lambda _: streams.epochs,
    "images": lambda config: streams.Images(_shown(config)),
    "mixture": lambda config: streams.Mixture(config.student.alpha, streams.uniform, _shown(config)),
}
LOSSES: dict[str, Callable[[Config], Loss]] = {
    "mse": lambda _: losses.mse,
    "kl": lambda _: losses.kl,
    "cosine": lambda _: losses.cosine,
    "huber": lambda config: losses.Huber(config.student.delta),
}


def _shown(config: Config) -> str:
    """The name of the extra images that a stream shows; empty for those of the data set itself."""
    return "" if config.student.images == config.data.name else config.student.images


def options_of(config: Config) -> RunOptions:
    """The fields that decide how a run is computed, but not its results."""
    kept = str(teacher_cache.default_dir()) if config.run.teachers == "auto" else config.run.teachers
    return RunOptions(**{**config.run.to_dict(), "teachers": kept})


def metrics_of(config: Config) -> tuple[metrics.Metric, ...]:
    """The metrics of a student."""
    return tuple(METRICS[name] for name in config.metrics)


def grids_of(config: Config) -> tuple[Grid, ...]:
    """What the study theorem1 measures of each condition of `build_conditions`."""
    return tuple(Grid(**point.config.theorem1.to_dict()) for point in grid.expand(config))


def load_data(config: Config) -> data.Dataset:
    """The data set that a config names, with the images of other data sets that its streams show."""
    own = config.data.to_dict()
    folder = own.pop("more_folder")
    dataset = data.load_dataset(**own)
    for name in sorted({point.config.student.images for point in grid.expand(config)} - {"", dataset.name}):
        where = {"source": "idx", "folder": folder} if folder else {"tfds_dir": own["tfds_dir"]}
        dataset = data.with_extra_images(dataset, data.load_dataset(name, **where, verify=own["verify"]))
    return dataset


def build_conditions(config: Config, dataset: data.Dataset, trunk: nn.Module | None = None) -> tuple[Condition, ...]:
    """The conditions of a resolved config, one for every point of its sweep.

    Args:
        config: a config that `resolve` returned.
        dataset: the images of the teacher.
        trunk: architecture of teacher and student below their heads; default: that of `config.net`.

    Returns:
        Conditions in the order of the sweep. Auxiliary heads are padded to `config.aux_widths`.

    Raises:
        ConfigError: where a condition names a layer that the trunk does not have.
    """
    return tuple(
        Condition(
            point.labels,
            teacher_phase(point.config, dataset, trunk),
            student_phase(point.config, dataset, point.widths, trunk),
        )
        for point in grid.expand(config)
    )


def teacher_phase(config: Config, dataset: Dataset, trunk: nn.Module | None = None) -> Phase:
    """The teacher's phase; without an auxiliary head, which gets no gradient from labels and is put on afterwards."""
    c, classes = config.teacher, _classes(config, dataset)
    net = SplitHead(trunk or _trunk(config, config.net.trunk, config.net.hidden), classes, 0, config.net.dtype)
    images = int((np.asarray(dataset.train.y) < classes).sum())
    recipe = Recipe(
        net=net,
        stream=streams.epochs,
        loss=losses.cross_entropy,
        init=INITS[config.net.init],
        batch=c.batch,
        eval_steps=(c.epochs * streams.steps_per_epoch(images, c.batch),),
        optimizer=OPTIMIZERS[c.optimizer],
        classes=config.classes,
    )
    layers = shapes(net, dataset.train.x.shape[1:])
    noise = _noise(config, [*layers, "aux_head"], "teacher")
    frozen = _frozen(config, "teacher", layers)
    return Phase(recipe, _knobs(layers, np.ones(classes, bool), c.lr, {}, frozen=frozen, noise=noise))


def student_phase(config: Config, dataset: Dataset, widths: Sequence[int], trunk: nn.Module | None = None) -> Phase:
    """The student's phase, under an auxiliary head padded to the widest of `widths` with which m shares a cap."""
    c, classes, image = config.student, _classes(config, dataset), dataset.train.x.shape[1:]
    (m,), (condition,) = config.m, config.conditions
    cap = _cap(config.aux_widths, widths, m)
    own, teachers = (trunk, trunk) if trunk else _trunks(config)
    net, reference = (SplitHead(one, classes, cap, config.net.dtype) for one in (own, teachers))
    _check_exam(config, dataset, classes)
    answer, strengths = _answer(config)
    recipe = Recipe(
        net=net,
        stream=STREAMS[c.stream](config),
        loss=LOSSES[c.loss](config),
        init=INITS[config.net.init],
        batch=c.batch,
        eval_steps=tuple(sorted({mark for mark in c.eval_steps if mark < c.steps} | {c.steps})),
        optimizer=DECAYING[c.optimizer](c.decay) if c.optimizer in DECAYING else OPTIMIZERS[c.optimizer],
        teacher=reference,
        init_transform=inits.Rotated(c.rotated, c.rotation == "common") if c.rotated else None,
        classes=config.classes,
        target_transform=answer,
        gradient_transform=GUARDS[c.guard] if c.guard else None,
    )
    logit, layers = np.arange(classes + cap), shapes(net, image)
    seen = {"aux": logit >= classes, "class": logit < classes, "all": logit >= 0}[c.sees] & (logit < classes + m)
    share = {layer: float(c.share) for layer in _drawn_anew(condition, layers)}
    frozen, noise = _frozen(config, "student", layers), _noise(config, layers, "student")
    knobs = _knobs(layers, seen, c.lr, share, c.pool or _ALWAYS_FRESH, c.temperature, frozen=frozen, noise=noise)
    return Phase(recipe, dataclasses.replace(knobs, extra=strengths))


def _answer(config: Config) -> tuple[TargetTransform | None, dict[str, Any]]:
    """What is done to the teacher's answer, and how strongly; strengths are swept, so one program serves them all."""
    mixed = targets.MixTargets(unrelated=config.student.mixed_with == "stranger")
    kinds = {"mixed": mixed, "target_noise": targets.AddTargetNoise(), "levels": targets.QuantizeTargets()}
    used = {name: one for name, one in kinds.items() if config.student[name]}
    parts = tuple(used.values())
    answer = targets.Chain(parts) if len(parts) > 1 else parts[0] if parts else None
    return answer, {name: jnp.float32(config.student[name]) for name in used}


def _trunks(config: Config) -> tuple[nn.Module, nn.Module]:
    """The student's trunk and the teacher's; both end in the latent that the heads read."""
    c, hidden = config.student, tuple(config.net.hidden)
    if c.hidden and c.hidden[-1] != hidden[-1]:
        raise ConfigError(f"config.student.hidden={c.hidden}: must end as the teacher's, {hidden}: the heads read it")
    own = _trunk(config, c.trunk or config.net.trunk, c.hidden or hidden)
    return own, _trunk(config, config.net.trunk, hidden)


def _trunk(config: Config, kind: str, hidden: Sequence[int]) -> nn.Module:
    common = {"dtype": config.net.dtype, "activation": config.net.activation}
    if kind == "cnn":
        return CNN(tuple(config.net.channels), tuple(config.net.pools), tuple(hidden), **common)
    return MLP(tuple(hidden), **common)


def _classes(config: Config, dataset: Dataset) -> int:
    if config.classes > dataset.classes:
        raise ConfigError(
            f"config.classes={config.classes}: must be at most {dataset.classes}, those of {dataset.name}"
        )
    return config.classes or dataset.classes


def _check_exam(config: Config, dataset: Dataset, classes: int) -> None:
    images = int((np.asarray(dataset.test.y) < classes).sum())
    if config.student.stream == "epochs" and config.num_eval_noise > images:
        raise ConfigError(
            f"config.num_eval_noise={config.num_eval_noise}: must be at most {images}, the test images of the stream"
        )


def _cap(caps: Sequence[int], widths: Sequence[int], m: int) -> int:
    """The width an m is padded to: the largest m of the sweep that falls under the same of `config.aux_widths`."""
    bound = min(cap for cap in caps if cap >= m)
    return max(other for other in widths if other <= bound)


def _drawn_anew(condition: str, layers: Mapping[str, Any]) -> list[str]:
    """The layers a condition draws anew; of its patterns at least one must name a layer of the net."""
    if condition == "random_hidden":  # whatever the trunk calls its layers
        return [layer for layer in layers if layer not in ("class_head", "aux_head")]
    patterns = [one for one in CONDITIONS[condition] if any(grid.named(layers, one))]
    if CONDITIONS[condition] and not patterns:
        raise ConfigError(unknown_name("config.conditions", CONDITIONS[condition][0], layers))
    return grid.matching(layers, patterns, "conditions")


def _frozen(config: Config, who: str, layers: Mapping[str, Any]) -> list[str]:
    return grid.matching(layers, config[who].frozen, f"{who}.frozen")


def _noise(config: Config, layers: Sequence[str] | Mapping[str, Any], who: str) -> dict[str, dict[str, Any]]:
    """Standard deviations of the noise on each layer at the beginning and at the end of a phase."""
    c = config.perturb
    before, after = c[f"{who}_before"], c[f"{who}_after"]
    those = grid.matching(layers, c.layers, "perturb.layers") if before or after else []
    both = {"init_noise": float(before), "final_noise": float(after)}
    return {name: trees.per_layer(layers, 0.0, {one: value for one in those}, name) for name, value in both.items()}


def _knobs(
    layers: Mapping[str, Any],
    seen: np.ndarray,
    lr: float,
    share: Mapping[str, float],
    pool: int = _ALWAYS_FRESH,
    temperature: float = 1.0,
    *,
    frozen: Sequence[str],
    noise: Mapping[str, Any],
) -> Knobs:
    return Knobs(
        logit_mask=jnp.asarray(seen),
        noise_batches=jnp.int32(pool),
        lr=jnp.float32(lr),
        temperature=jnp.float32(temperature),
        share=trees.per_layer(layers, 1.0, share, "config.conditions"),
        trainable=trees.per_layer(layers, 1.0, dict.fromkeys(frozen, 0.0), "frozen"),
        **noise,
    )
