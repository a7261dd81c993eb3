"""Configs of infomorphic networks: the typed conditions of sweeps of goals, sources and widths, and of students."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from sublim_jax import data
from sublim_jax.config import grid
from sublim_jax.config.grid import Config
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, Knobs, Phase, Recipe
from sublim_jax.data.load import Dataset, make_dataset
from sublim_jax.nets import MLP, Infomorphic, SplitHead, shapes
from sublim_jax.nets.infomorphic import SOURCES
from sublim_jax.training import infomorphic, inits, losses, optimizers, streams

_ALWAYS_FRESH = 2**31 - 1


def load_data(config: Config) -> Dataset:
    """The data set that a config names, with the last training images in place of the test images for validation."""
    fields = config.data.to_dict()
    if not config.validation:
        return data.load_dataset(**fields)
    whole = data.load_dataset(**{**fields, "train_limit": 0})
    count = len(whole.train.y) - config.validation
    limit = fields["train_limit"] or count
    if limit > count:
        raise ConfigError(
            f"config.validation={config.validation}: must be at most {len(whole.train.y) - limit}, the training images "
            f"beyond config.data.train_limit={limit}"
        )
    train, held_out = (
        whole.train._replace(x=whole.train.x[part], y=whole.train.y[part])
        for part in (slice(limit), slice(count, None))
    )
    return make_dataset(train, held_out, whole.name, whole.classes, f"{whole.source}, validation")


def build_conditions(config: Config, dataset: Dataset) -> tuple[Condition, ...]:
    """The conditions of a resolved config, one for every point of its sweep.

    Without `transfer.student` a network learns labels and takes the student's place; its "teacher", with which the
    engine compares it, is a network of the same kind before training.
    """
    conditions = []
    for point in grid.expand(config):
        build = _student_of_a_teacher if point.config.transfer.student else _network
        conditions.append(build(point.config, point.labels, dataset))
    return tuple(conditions)


def _network(config: Config, labels: Mapping[str, str | int | float], dataset: Dataset) -> Condition:
    recipe = _recipe(config, dataset)
    knobs = _knobs(config, recipe, dataset, "infomorphic")
    untrained = dataclasses.replace(recipe, eval_steps=(0,), teacher=None, imitates=True)
    return Condition(labels, Phase(untrained, knobs), Phase(recipe, knobs))


def _knobs(config: Config, recipe: Recipe, dataset: Dataset, section: str, **changes: Any) -> Knobs:
    """Knobs of a net that learns labels, with some of them changed."""
    layers, rates = shapes(recipe.net, dataset.train.x.shape[1:]), config.infomorphic
    factors = {"class_head": rates.readout_lr / rates.lr} if section == "infomorphic" else {}
    if rates.model == "random_projection":
        factors |= dict.fromkeys(SOURCES[rates.model], 0.0)
    local = isinstance(recipe.loss, infomorphic.LocalGoals)
    numbers = {
        "logit_mask": np.ones(dataset.classes, bool),
        "noise_batches": np.int32(_ALWAYS_FRESH),
        "temperature": np.float32(1.0),
        "lr": np.float32(config[section].lr),
        "extra": _goals(config) if local else {},
        **{name: changes.pop(name) for name in ("logit_mask", "extra") if name in changes},
    }
    return Knobs(
        **jax.device_put(numbers),
        share=trees.per_layer(layers, 0.0, changes.get("share", {}), "share"),
        trainable=trees.per_layer(layers, 1.0, changes.get("trainable", factors), "trainable"),
        init_noise=trees.per_layer(layers, 0.0, {}, "init_noise"),
        final_noise=trees.per_layer(layers, 0.0, {}, "final_noise"),
    )


def _recipe(config: Config, dataset: Dataset, sampler: str = "student") -> Recipe:
    """The recipe of a network that learns labels."""
    section, classes = config.infomorphic, dataset.classes
    net = Infomorphic(section.model, section.units, classes, contexts=classes, sampler=sampler)
    per_epoch = streams.steps_per_epoch(len(dataset.train.y), section.batch)
    sparse = "lateral" in SOURCES[section.model] and section.lateral_inputs < section.units - 1
    return Recipe(
        net=net,
        stream=streams.epochs,
        loss=losses.cross_entropy if section.model == "backprop" else _local_goals(config, "class_head"),
        init=inits.torch_linear,
        batch=section.batch,
        eval_steps=tuple(sorted({epoch * per_epoch for epoch in (*section.eval_epochs, section.epochs)})),
        teacher=net,
        optimizer=optimizers.AdamL2ByLayer(section.decay, (("class_head", section.readout_decay),)),
        init_transform=infomorphic.SparseLateral(section.lateral_inputs) if sparse else None,
        input_transform=infomorphic.LabelContext(classes),
        imitates=False,
    )


def _local_goals(config: Config, reads: str) -> infomorphic.LocalGoals:
    return infomorphic.LocalGoals(reads, config.infomorphic.bins, config.infomorphic.binning == "scaled")


def _student_of_a_teacher(config: Config, labels: Mapping[str, str | int | float], dataset: Dataset) -> Condition:
    """A teacher that learns labels, and a student that reads its auxiliary bits (or logits) on noise."""
    section, (teacher, with_bits) = config.transfer, _teacher(config, dataset)
    net, loss, goals = _student(config, dataset)
    reads = section.student != "mlp"
    recipe = Recipe(
        net=net,
        stream={"uniform": streams.uniform, "gaussian": streams.gaussian}[section.stream],
        loss=loss,
        init=inits.torch_linear,
        batch=section.batch,
        eval_steps=tuple(sorted({step for step in section.eval_steps if step < section.steps} | {section.steps})),
        teacher=with_bits,
        init_transform=infomorphic.tie_context if section.context == "tied" and section.student == "hidden" else None,
        input_transform=infomorphic.TeacherBits(dataset.classes, section.bits == "shuffled") if reads else None,
    )
    frozen = {"class_head": 0.0} if section.student == "readout" else {"class_head": 0.0, "aux_head": 0.0}
    own = {"context", "lateral", {"fresh_class": "class_head", "fresh_aux": "aux_head"}.get(section.heads)}
    own |= {"hidden_0"} if section.hidden == "fresh" else set()
    layers = shapes(net, dataset.train.x.shape[1:])
    knobs = _knobs(
        config,
        recipe,
        dataset,
        "transfer",
        extra=goals,
        logit_mask=np.arange(dataset.classes + section.m) >= dataset.classes,
        share={layer: 1.0 for layer in layers if layer not in own},
        trainable={} if section.student == "mlp" else frozen,
    )
    return Condition(labels, teacher, Phase(recipe, knobs))


def _teacher(config: Config, dataset: Dataset) -> tuple[Phase, nn.Module]:
    """The teacher's phase, and its net with an auxiliary head, which is attached after training."""
    section, classes = config.infomorphic, dataset.classes
    if config.transfer.teacher == "mlp":
        trunk = MLP((section.units,))
        recipe = dataclasses.replace(
            _recipe(config, dataset),
            net=SplitHead(trunk, classes, 0),
            loss=losses.cross_entropy,
            optimizer=optax.scale_by_adam,
            init_transform=None,
            input_transform=None,
        )
        with_bits: nn.Module = SplitHead(trunk, classes, config.transfer.m)
    else:
        recipe = _recipe(config, dataset, "teacher")
        with_bits = dataclasses.replace(recipe.net, aux=config.transfer.m, parent=None)
    steps = 0 if config.transfer.bits == "untrained" else recipe.eval_steps[-1]
    recipe = dataclasses.replace(recipe, eval_steps=(steps,), teacher=None, imitates=True)
    rates = {"trainable": {}} if config.transfer.teacher == "mlp" else {}
    return Phase(recipe, _knobs(config, recipe, dataset, "infomorphic", **rates)), with_bits


def _student(config: Config, dataset: Dataset) -> tuple[nn.Module, Any, dict[str, np.ndarray]]:
    """The student's net, its loss and the goals of its units."""
    section, units = config.transfer, config.infomorphic.units
    if section.student == "mlp":
        return SplitHead(MLP((units,)), dataset.classes, section.m), losses.mse, {}
    hidden = section.student == "hidden"
    net = Infomorphic("context" if hidden else "lateral", units, dataset.classes, aux=section.m, contexts=section.m)
    goals = {infomorphic.HIDDEN_GOAL: infomorphic.GOALS["context_heuristic" if hidden else "lateral_heuristic"]}
    if not hidden:
        goals[infomorphic.READOUT_GOAL] = tuple(config.infomorphic.readout)
    loss = _local_goals(config, "" if hidden else "aux_head")
    return net, loss, {name: np.array(weights, np.float32) for name, weights in goals.items()}


def _goals(config: Config) -> dict[str, np.ndarray]:
    """The weights of the hidden units' atoms and of the read-out's."""
    section, sources = config.infomorphic, len(SOURCES[config.infomorphic.model])
    goals = {infomorphic.READOUT_GOAL: np.array(section.readout, np.float32)}
    if section.model in ("readout", "random_projection"):
        return goals
    if section.weights:
        weights = np.array(section.weights)
    elif section.draw:
        weights = infomorphic.drawn_goal(sources, section.draw)
    else:
        kind = "trivariate" if sources == 3 else section.model
        weights = np.array(infomorphic.GOALS[f"{kind}_{section.goal}"])
    if section.without:
        weights[infomorphic.atom_names(sources).index(section.without)] = 0
    return {**goals, infomorphic.HIDDEN_GOAL: weights.astype(np.float32)}
