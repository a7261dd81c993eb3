"""Configs of infomorphic networks: the typed conditions of a sweep of goals, sources and widths."""

import dataclasses

import jax
import numpy as np

from sublim_jax import data
from sublim_jax.config import grid
from sublim_jax.config.grid import Config
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, Knobs, Phase, Recipe
from sublim_jax.data.load import Dataset
from sublim_jax.nets import Infomorphic, shapes
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
    return data.load.make_dataset(train, held_out, whole.name, whole.classes, f"{whole.source}, validation")


def build_conditions(config: Config, dataset: Dataset) -> tuple[Condition, ...]:
    """The conditions of a resolved config, one for every point of its sweep.

    A network learns labels. Its "teacher", with which the engine compares it, is a network of the same kind before
    training.
    """
    return tuple(_condition(point.config, point.labels, dataset) for point in grid.expand(config))


def _condition(config: Config, labels: dict[str, str | int | float], dataset: Dataset) -> Condition:
    recipe, section = _recipe(config, dataset), config.infomorphic
    layers = shapes(recipe.net, dataset.train.x.shape[1:])
    factors = {"class_head": section.readout_lr / section.lr}
    if section.model == "random_projection":
        factors |= dict.fromkeys(SOURCES[section.model], 0.0)
    numbers = {
        "logit_mask": np.ones(dataset.classes, bool),
        "noise_batches": np.int32(_ALWAYS_FRESH),
        "temperature": np.float32(1.0),
        "lr": np.float32(section.lr),
        "extra": {} if section.model == "backprop" else _goals(config),
    }
    knobs = Knobs(
        **jax.device_put(numbers),
        share=trees.per_layer(layers, 0.0, {}, "share"),
        trainable=trees.per_layer(layers, 1.0, factors, "trainable"),
        init_noise=trees.per_layer(layers, 0.0, {}, "init_noise"),
        final_noise=trees.per_layer(layers, 0.0, {}, "final_noise"),
    )
    untrained = dataclasses.replace(recipe, eval_steps=(0,), teacher=None, imitates=True)
    return Condition(labels, Phase(untrained, knobs), Phase(recipe, knobs))


def _recipe(config: Config, dataset: Dataset) -> Recipe:
    section, classes = config.infomorphic, dataset.classes
    net = Infomorphic(section.model, section.units, classes, contexts=classes)
    per_epoch = streams.steps_per_epoch(len(dataset.train.y), section.batch)
    sparse = "lateral" in SOURCES[section.model] and section.lateral_inputs < section.units - 1
    return Recipe(
        net=net,
        stream=streams.epochs,
        loss=losses.cross_entropy if section.model == "backprop" else infomorphic.LocalGoals(bins=section.bins),
        init=inits.torch_linear,
        batch=section.batch,
        eval_steps=tuple(sorted({epoch * per_epoch for epoch in (*section.eval_epochs, section.epochs)})),
        teacher=net,
        optimizer=optimizers.AdamL2ByLayer(section.decay, (("class_head", section.readout_decay),)),
        init_transform=infomorphic.SparseLateral(section.lateral_inputs) if sparse else None,
        input_transform=infomorphic.LabelContext(classes),
        imitates=False,
    )


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
