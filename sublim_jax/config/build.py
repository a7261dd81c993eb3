"""One point of a sweep as typed phases: the teacher's and the student's Recipe and Knobs. `ConfigDict` ends here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sublim_jax.config import grid
from sublim_jax.config.grid import Config
from sublim_jax.config.schema import CONDITIONS, DECAYING, GUARDS, LOSSES, OPTIMIZERS, STREAMS, pick
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Knobs, Phase, Recipe, TargetTransform
from sublim_jax.data.load import Dataset
from sublim_jax.nets import CNN, MLP, SplitHead, shapes
from sublim_jax.training import inits, losses, streams, targets

_ALWAYS_FRESH = 2**31 - 1


def teacher_phase(config: Config, dataset: Dataset, trunk: nn.Module | None = None) -> Phase:
    """The teacher's phase; without an auxiliary head, which gets no gradient from labels and is put on afterwards."""
    c, classes = config.teacher, _classes(config, dataset)
    net = SplitHead(trunk or _trunk(config, config.net.trunk, config.net.hidden), classes, 0, config.net.dtype)
    images = int((np.asarray(dataset.train.y) < classes).sum())
    recipe = Recipe(
        net=net,
        stream=streams.epochs,
        loss=pick(losses, c.loss, "teacher.loss"),
        init=pick(inits, config.net.init, "net.init"),
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
        init=pick(inits, config.net.init, "net.init"),
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
