"""A resolved config as work: how its study runs in a session, and how much of it is left."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from sublim_jax.config import grid
from sublim_jax.config.build import build_conditions, grids_of, load_data, metrics_of, options_of
from sublim_jax.config.estimate import check_memory, language_gigabytes, theorem1_gigabytes
from sublim_jax.config.fields import IMAGE_FIELDS
from sublim_jax.config.grid import Config
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition
from sublim_jax.data.load import Dataset
from sublim_jax.engine import distributed, run, theorem1
from sublim_jax.engine.plan import make_plan
from sublim_jax.nets import shapes


class Study(NamedTuple):
    """What a resolved config asks for.

    Attributes:
        run: Takes a session, and keyword arguments that replace those of the config, and returns the rows.
        left: Takes `seeds`, `workdir` and `shard` by name; returns how many rows (or files of rows) are not there yet.
        size: What is trained for every seed, in words.
        notes: Lines about the data or the models.
        metadata: Plain values to store with the rows.
        conditions: Teachers and students; none in the study of language models.
        image: Shape of one image.
        num_test: Number of test images.
        net: The net of pretrained models.
    """

    run: Callable[..., pd.DataFrame]
    left: Callable[..., int]
    size: str
    notes: tuple[str, ...]
    metadata: Mapping[str, Any]
    conditions: tuple[Condition, ...] = ()
    image: tuple[int, ...] = ()
    num_test: int = 0
    net: Any = None


def study_of(config: Config, dataset: Dataset | None = None) -> Study:
    """The study that a config names.

    Args:
        config: A config that `resolve` returned.
        dataset: Images with labels; by default the config names them.

    Raises:
        ConfigError: A value cannot be used, or images are given to the study of language models.
    """
    if config.study in ("language", "llm"):
        if dataset is not None:
            raise ConfigError(f"data: must not be given; config.study={config.study!r} has no images")
        return _language(config) if config.study == "language" else _llm(config)
    dataset = load_data(config) if dataset is None else dataset
    if config.study != "infomorphic":
        _check_points(config, dataset)
    conditions, image = build_conditions(config, dataset), dataset.train.x.shape[1:]
    if config.study == "theorem1":
        theorem1.check(conditions, grids_of(config))
        for gigabytes in theorem1_gigabytes(config, conditions, image):
            check_memory(config, gigabytes)
        measure = functools.partial(theorem1.run, conditions, grids_of(config), dataset, root_seed=config.root_seed)
        left = functools.partial(theorem1.left, len(conditions))
    else:
        plan = make_plan(conditions, image)
        given = {"metrics": metrics_of(config), "num_eval_noise": config.num_eval_noise}
        measure = functools.partial(run.run, plan, dataset, root_seed=config.root_seed, **given)
        left = functools.partial(distributed.rows_left, plan, image=image)
    note = f"data: {dataset.name}, {len(dataset.train.y)} + {len(dataset.test.y)} images, {dataset.source}"
    metadata = {"data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.checksum}}
    return Study(
        measure, left, f"{len(conditions)} conditions", (note,), metadata, conditions, image, len(dataset.test.y)
    )


def _check_points(config: Config, dataset: Dataset) -> None:
    """Refuse the sizes of a sweep that do not fit the images; the default batches may be larger than few images."""
    images, side = len(dataset.train.y), min(dataset.train.x.shape[1:])
    for point in grid.expand(config):
        student, teacher = point.config.student, point.config.teacher
        for section, batch, reads in (
            ("teacher", teacher.batch, True),
            ("student", student.batch, student.stream in ("epochs", "images", "mixture")),
        ):
            most = max(images, IMAGE_FIELDS[f"{section}.batch"].default)
            if reads and batch > most:
                raise ConfigError(f"config.{section}.batch={batch}: must be at most {most}; there are {images} images")
        if student.stream == "perlin" and student.resolution >= side:
            raise ConfigError(
                f"config.student.resolution={student.resolution}: must be less than {side}, the pixels of a side; "
                "where every pixel is a corner of a cell, Perlin noise is 0"
            )


def _language(config: Config) -> Study:
    """The study of language models; image configs never import `lm`."""
    from sublim_jax.config import lm as lm_config
    from sublim_jax.lm import run as lm_run
    from sublim_jax.lm.world import LENGTH

    check_memory(config, language_gigabytes(config))
    points, setup = lm_config.expand(config), lm_config.lab(config)
    size = trees.count(shapes(setup.net, (LENGTH,)))
    return Study(
        functools.partial(lm_run.run, points, setup, lm_config.pretraining(config)),
        functools.partial(lm_run.left, points, options=options_of(config)),
        f"{len(points)} arms x {setup.targets} animals",
        (f"models: {size:,} parameters, {setup.world.vocabulary} tokens",),
        {},
    )


def _llm(config: Config) -> Study:
    """The study of pretrained models; weights are read when it runs."""
    from sublim_jax.config import llm
    from sublim_jax.llm import pipeline

    teacher, student = llm.open_models(config)
    net, points = (student or teacher).plan.net, llm.expand(config)
    check_memory(config, llm.gigabytes(config, net))
    names = [checkpoint.source for checkpoint in (teacher, student) if checkpoint]

    def run(session: Any) -> pd.DataFrame:
        if session.config is not None:
            session = dataclasses.replace(session, config={**session.config, "inputs": llm.inputs(config)})
        return pipeline.run(points, llm.setup(config, teacher, student), session)

    return Study(
        run,
        functools.partial(pipeline.left, points),
        f"{len(points)} arms x {len(llm.traits_of(config)) + 1} students",
        (f"model: {', '.join(names)}, {llm.weights_of(net):,} parameters",),
        {"models": names},
        net=net,
    )
