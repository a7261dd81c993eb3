"""Typed conditions of a config: Recipe and Knobs of teacher and student at every point of the sweep."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from sublim_jax import data, metrics
from sublim_jax.config import grid, infomorphic
from sublim_jax.config.fields import CONDITIONS
from sublim_jax.config.grid import Config
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, Knobs, Loss, Phase, Recipe, Stream, TargetTransform
from sublim_jax.data.load import Dataset
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.first_steps import Grid
from sublim_jax.engine.options import RunOptions
from sublim_jax.metrics import predictions
from sublim_jax.metrics.infomorphic import atoms, codes
from sublim_jax.metrics.student import displacement
from sublim_jax.nets import CNN, MLP, SplitHead, shapes
from sublim_jax.training import inits, losses, optimizers, projections, streams, targets, transplant

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
METRICS = {metric.__name__: metric for metric in (*metrics.ALL, *predictions.ALL, atoms, codes, displacement)}
STREAMS: dict[str, Callable[[Config], Stream]] = {
    "uniform": lambda _: streams.uniform,
    "gaussian": lambda _: streams.gaussian,
    "perlin": lambda config: streams.Perlin(config.student.resolution),
    "epochs": lambda _: streams.epochs,
    "images": lambda config: streams.Images(_extra_images(config)),
    "mixture": lambda config: streams.Mixture(config.student.alpha, streams.uniform, _extra_images(config)),
}
LOSSES: dict[str, Callable[[Config], Loss]] = {
    "mse": lambda _: losses.mse,
    "kl": lambda _: losses.kl,
    "cosine": lambda _: losses.cosine,
    "huber": lambda config: losses.Huber(config.student.delta),
}


def _extra_images(config: Config) -> str:
    """The name of the extra images that a stream shows; empty for those of the data set itself."""
    return "" if config.student.images == config.data.name else config.student.images


def options_of(config: Config) -> RunOptions:
    """The fields that decide how a run is computed, but not its results."""
    folder = str(teacher_cache.default_dir()) if config.run.teachers == "auto" else config.run.teachers
    return RunOptions(**{**config.run.to_dict(), "teachers": folder})


def metrics_of(config: Config) -> tuple[metrics.Metric, ...]:
    """The metrics of a student."""
    return tuple(METRICS[name] for name in config.metrics)


def grids_of(config: Config) -> tuple[Grid, ...]:
    """What the study theorem1 measures of each condition of `build_conditions`."""
    return tuple(Grid(**point.config.theorem1.to_dict()) for point in grid.expand(config))


def load_data(config: Config) -> Dataset:
    """The data set that a config names, with the images of other data sets that its streams show."""
    if config.study == "infomorphic":
        return infomorphic.load_data(config)
    fields = config.data.to_dict()
    folder = fields.pop("more_folder")
    dataset = data.load_dataset(**fields)
    for name in sorted({point.config.student.images for point in grid.expand(config)} - {"", dataset.name}):
        source = {"source": "idx", "folder": folder} if folder else {"tfds_dir": fields["tfds_dir"]}
        dataset = data.with_extra_images(dataset, data.load_dataset(name, **source, verify=fields["verify"]))
    return dataset


def build_conditions(config: Config, dataset: Dataset, trunk: nn.Module | None = None) -> tuple[Condition, ...]:
    """The conditions of a resolved config, one for every point of its sweep.

    Args:
        config: A config that `resolve` returned.
        dataset: The images of the teacher.
        trunk: Architecture of teacher and student below their heads; default: that of `config.net`.

    Returns:
        Conditions in the order of the sweep. Auxiliary heads are padded to `config.aux_widths`.

    Raises:
        ConfigError: A condition names a layer that the trunk does not have.
    """
    if config.study == "infomorphic":
        if trunk is not None:
            raise ConfigError("trunk: must not be given; config.study='infomorphic' has units of its own")
        return infomorphic.build_conditions(config, dataset)
    return tuple(
        Condition(
            point.labels,
            _teacher_phase(point.config, dataset, trunk),
            _student_phase(point.config, dataset, point.widths, trunk),
        )
        for point in grid.expand(config)
    )


def _teacher_phase(config: Config, dataset: Dataset, trunk: nn.Module | None) -> Phase:
    """The teacher's phase; its auxiliary head, which labels give no gradient, is attached after training."""
    section, classes = config.teacher, _classes(config, dataset)
    net = SplitHead(trunk or _trunk(config, config.net.trunk, config.net.hidden), classes, 0, config.net.dtype)
    steps = section.epochs * streams.steps_per_epoch(_count(dataset.train.y, classes), section.batch)
    recipe = Recipe(
        net=net,
        stream=streams.epochs,
        loss=losses.cross_entropy,
        init=INITS[config.net.init],
        batch=section.batch,
        eval_steps=(steps,),
        optimizer=OPTIMIZERS[section.optimizer],
        classes=config.classes,
    )
    layers = shapes(net, dataset.train.x.shape[1:])
    knobs = Knobs(
        **_on_device(
            logit_mask=np.ones(classes, bool),
            noise_batches=np.int32(_ALWAYS_FRESH),
            temperature=np.float32(1.0),
        ),
        share=trees.per_layer(layers, 1.0, {}, "share"),
        **_common_knobs(config, "teacher", layers, [*layers, "aux_head"]),
    )
    return Phase(recipe, knobs)


def _student_phase(config: Config, dataset: Dataset, widths: Sequence[int], trunk: nn.Module | None) -> Phase:
    """The student's phase, under an auxiliary head padded to the widest of `widths` with which m shares a cap."""
    section, classes = config.student, _classes(config, dataset)
    (m,), (condition,) = config.m, config.conditions
    cap = _padded_width(config.aux_widths, widths, m)
    trunks = (trunk, trunk) if trunk else _trunks(config)
    net, teacher = (SplitHead(module, classes, cap, config.net.dtype) for module in trunks)
    _check_eval_noise(config, dataset, classes)
    loss, (transform, strengths) = LOSSES[section.loss](config), _target_transform(config)
    if taken := sorted(strengths.keys() & section.get("extra", {}).keys()):
        raise ConfigError(f"config.student.extra.{taken[0]}: its name must be another one; the package uses it")
    recipe = Recipe(
        net=net,
        stream=STREAMS[section.stream](config),
        loss=transplant.SwitchedLoss(loss) if section.cut else loss,
        init=INITS[config.net.init],
        batch=section.batch,
        eval_steps=_eval_steps(section),
        optimizer=OPTIMIZERS.get(section.optimizer) or DECAYING[section.optimizer](section.decay),
        teacher=teacher,
        init_transform=inits.Rotated(section.rotated, section.rotation == "common") if section.rotated else None,
        classes=config.classes,
        target_transform=transform,
        gradient_transform=GUARDS[section.guard] if section.guard else None,
        start=transplant.Transplant(section.cut) if section.cut else None,
    )
    logit, layers = np.arange(classes + cap), shapes(net, dataset.train.x.shape[1:])
    imitated = {"aux": logit >= classes, "class": logit < classes, "all": logit >= 0}[section.sees]
    share = dict.fromkeys(_layers_drawn(condition, layers), float(section.share))
    knobs = Knobs(
        **_on_device(
            logit_mask=imitated & (logit < classes + m),
            noise_batches=np.int32(section.pool or _ALWAYS_FRESH),
            temperature=np.float32(section.temperature),
            extra={**strengths, **{name: np.float32(number) for name, number in section.get("extra", {}).items()}},
        ),
        share=trees.per_layer(layers, 1.0, share, "config.conditions"),
        **_common_knobs(config, "student", layers, layers),
    )
    return Phase(recipe, knobs)


def _eval_steps(section: Config) -> tuple[int, ...]:
    """The steps at which a student is measured; step 0 stands for the cut where there is one."""
    return tuple(sorted({step or section.cut for step in section.eval_steps if step < section.steps} | {section.steps}))


def _on_device(**fields: Any) -> dict[str, Any]:
    """NumPy values as JAX's arrays, for which nothing is compiled."""
    return jax.device_put(fields)


def _common_knobs(config: Config, role: str, layers: Iterable[str], noisy: Iterable[str]) -> dict[str, Any]:
    """Learning rate, trained layers, and noise before and after training, of teacher or student."""
    section, before, after = config[role], config.perturb[f"{role}_before"], config.perturb[f"{role}_after"]
    frozen = grid.matching(layers, section.frozen, f"{role}.frozen")
    perturbed = grid.matching(noisy, config.perturb.layers, "perturb.layers") if before or after else []
    return {
        **_on_device(lr=np.float32(section.lr)),
        "trainable": trees.per_layer(layers, 1.0, dict.fromkeys(frozen, 0.0), "frozen"),
        "init_noise": trees.per_layer(noisy, 0.0, dict.fromkeys(perturbed, float(before)), "init_noise"),
        "final_noise": trees.per_layer(noisy, 0.0, dict.fromkeys(perturbed, float(after)), "final_noise"),
    }


def _target_transform(config: Config) -> tuple[TargetTransform | None, dict[str, Any]]:
    """The transform of the teacher's outputs, and its strengths, which are knobs, so that one program serves all."""
    if config.student.cut:
        future = config.student.future
        codes = {"flipped": transplant.FLIPPED, "unrelated": transplant.UNRELATED}
        chosen = transplant.numbers(config.student.carried, codes.get(future, transplant.UNTRAINED), future != "none")
        return transplant.ChosenTargets(unrelated=future == "unrelated"), chosen
    mixed = targets.MixTargets(unrelated=config.student.mixed_with == "stranger")
    kinds = {"mixed": mixed, "target_noise": targets.AddTargetNoise(), "levels": targets.QuantizeTargets()}
    used = {name: kind for name, kind in kinds.items() if config.student[name]}
    strengths = {name: np.float32(config.student[name]) for name in used}
    if len(used) > 1:
        return targets.Chain(tuple(used.values())), strengths
    return next(iter(used.values()), None), strengths


def _trunks(config: Config) -> tuple[nn.Module, nn.Module]:
    """The student's trunk and the teacher's; both end in the latent that the heads read."""
    own, hidden = config.student.hidden, tuple(config.net.hidden)
    if own and own[-1] != hidden[-1]:
        raise ConfigError(f"config.student.hidden={own}: must end as the teacher's, {hidden}: the heads read it")
    student = _trunk(config, config.student.trunk or config.net.trunk, own or hidden)
    return student, _trunk(config, config.net.trunk, hidden)


def _trunk(config: Config, kind: str, hidden: Sequence[int]) -> nn.Module:
    common = {"dtype": config.net.dtype, "activation": config.net.activation}
    if kind == "cnn":
        return CNN(tuple(config.net.channels), tuple(config.net.pools), tuple(hidden), **common)
    return MLP(tuple(hidden), **common)


def _classes(config: Config, dataset: Dataset) -> int:
    most = dataset.classes
    if config.classes > most:
        raise ConfigError(f"config.classes={config.classes}: must be at most {most}, those of {dataset.name}")
    return config.classes or most


def _count(labels: Any, classes: int) -> int:
    """The number of images of the first classes."""
    return int((np.asarray(labels) < classes).sum())


def _check_eval_noise(config: Config, dataset: Dataset, classes: int) -> None:
    number, images = config.num_eval_noise, _count(dataset.test.y, classes)
    if config.student.stream == "epochs" and number > images:
        raise ConfigError(f"config.num_eval_noise={number}: must be at most {images}, the test images of the stream")


def _padded_width(caps: Sequence[int], widths: Sequence[int], m: int) -> int:
    """The width an m is padded to: the largest m of the sweep that falls under the same of `config.aux_widths`."""
    bound = min(cap for cap in caps if cap >= m)
    return max(other for other in widths if other <= bound)


def _layers_drawn(condition: str, layers: Iterable[str]) -> list[str]:
    """The layers that a condition draws again."""
    if condition == "random_hidden":  # whatever the trunk calls its layers
        return [layer for layer in layers if layer not in ("class_head", "aux_head")]
    return grid.matching(layers, CONDITIONS[condition], "conditions")
