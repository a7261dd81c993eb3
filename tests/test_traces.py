"""Every kind of Recipe of every config can be traced: shapes and types fit, without a compilation."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import pytest
from helpers.configs import CONFIGS, config_of

from sublim_jax import data
from sublim_jax.config import build_conditions, grid, metrics_of, options_of, resolve
from sublim_jax.config import lm as lm_config
from sublim_jax.config.estimate import check_memory, language_gigabytes
from sublim_jax.core import keys
from sublim_jax.core.types import TeacherParams
from sublim_jax.engine import run
from sublim_jax.engine.plan import Plan, make_plan
from sublim_jax.engine.schedule import limits_of, unit_gigabytes, work_units
from sublim_jax.lm import run as lm_run
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.documents import corpus
from sublim_jax.training import losses, plugins
from sublim_jax.training import step as training_step

SIZES = [pytest.param("smoke"), pytest.param("paper", marks=pytest.mark.e2e)]
IMAGE = (28, 28)
TRACED = set()  # kinds of Recipes that an earlier config has traced


def trace(recipe, knobs, bank, image):
    """Trace the initial state and the training of one net; both have the same arrays."""
    key = keys.root(0)
    origin = jax.eval_shape(lambda: training_step.init_params(recipe.teacher or recipe.net, recipe.init, image, key))
    state = jax.eval_shape(lambda params: training_step.init_state(recipe, knobs, params, image, key), origin)
    teacher = origin if recipe.target_transform is None else TeacherParams(origin, origin, origin)
    ends = jnp.int32(0), jnp.int32(1)
    after = jax.eval_shape(lambda s, t: training_step.advance(recipe, s, knobs, t, key, bank, *ends), state, teacher)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def is_new(recipe, measured=()):
    """Whether no earlier config of this process has traced a recipe that differs in numbers alone."""
    kind = re.sub(r"\d+", "0", repr((dataclasses.replace(recipe, eval_steps=(1,)), measured)))
    new = kind not in TRACED
    TRACED.add(kind)
    return new


def trace_new(phases, bank, image):
    for recipe, knobs in phases:
        if is_new(recipe):
            trace(recipe, knobs, bank(recipe), image)


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.stem[:3] not in ("lm_", "llm")], ids=lambda path: path.stem
)
def test_trace_takes_every_recipe_and_metric_of_image_configs(path, preset, mnist, monkeypatch):
    config = config_of(path)[1]
    config.preset = preset
    config.num_eval_noise = 64
    config = resolve(config)
    dataset = data.with_extra_images(mnist, dataclasses.replace(mnist, name="fashion_mnist"))
    conditions = build_conditions(config, dataset)
    plan = make_plan(conditions, IMAGE)
    assert sum(group.knobs.size for group in plan.groups) == len(conditions) == len(grid.expand(config))
    limits = limits_of(options_of(config), 12_000, 1, False, config.metrics)
    for unit in work_units(plan, (0, 1), IMAGE, limits):
        assert unit_gigabytes(unit, IMAGE, limits) <= config.run.memory_gb, "the memory that the config allows suffices"
    bank = jax.tree.map(jnp.asarray, dataset.train)
    trace_new([phase for one in conditions for phase in (one.teacher, one.student)], lambda _: bank, IMAGE)
    if preset == "paper" and config.study != "theorem1":
        monkeypatch.setattr(plugins, "is_foreign", lambda _: True)  # of the own metrics it is known that they are right
        for group in plan.groups:
            if is_new(group.recipe, metrics_of(config)):
                run.check_metrics(Plan(plan.teachers, (group,)), dataset, metrics_of(config), config.num_eval_noise)


@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem[:3] == "lm_"], ids=lambda path: path.stem)
def test_trace_takes_every_recipe_of_language_configs(path, preset):
    config = config_of(path)[1]
    config.preset = preset
    config = resolve(config)
    check_memory(config, language_gigabytes(config))
    lab = lm_config.lab(config)
    phases = [lm_run._phase(lab, point.arm) for point in lm_config.expand(config)]
    phases.append(lm_training.pretraining_phase(lab.net, lm_config.pretraining(config)))
    text = jax.tree.map(jnp.asarray, corpus(lab.world, 64))
    soft = text._replace(logits=jnp.zeros((64, w.LENGTH - w.PROMPT, lab.world.vocabulary)))
    trace_new(phases, lambda recipe: text if recipe.loss is losses.next_token else soft, (w.LENGTH,))
