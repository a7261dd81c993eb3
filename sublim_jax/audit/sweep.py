"""The audits of a sweep: every student of a config, before any is trained."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.tree_util import Partial

from sublim_jax.audit.pair import Audit, audit_pair
from sublim_jax.config import build_conditions, identity, metrics_of
from sublim_jax.config.grid import Config
from sublim_jax.core import keys, trees
from sublim_jax.core.files import replace_file
from sublim_jax.core.types import ImageData, ModelOutput, Params, Recipe
from sublim_jax.data.load import Dataset
from sublim_jax.engine import compilation_cache, run
from sublim_jax.engine.plan import Group, make_plan
from sublim_jax.engine.schedule import SeedBatch
from sublim_jax.engine.session import Session
from sublim_jax.results import summary
from sublim_jax.training import population, streams
from sublim_jax.training import step as training_step

HEADS = ("aux_head", "class_head")
_THEORY = ("coverage", "trait_cosine", "trait_change", "trait_change_low", "trait_change_high")
_THEORY += ("compatibility_aux", "compatibility_class")


class Entry(NamedTuple):
    """The audit of one student."""

    labels: Mapping[str, str | int | float]
    seed: int
    audit: Audit

    def row(self) -> dict[str, Any]:
        """The columns that rows of a run have too, and the verdict."""
        change, verdict = self.audit.trait_change, self.audit.verdict
        values = {**self.audit._asdict(), "trait_change": change.mean}
        values |= {"trait_change_low": change.low, "trait_change_high": change.high}
        theory = {f"theory/{name}": values[name] for name in _THEORY}
        passes = {"verdict/probability": verdict.probability, "verdict/passes": verdict.passes}
        return {**self.labels, "seed": self.seed, **theory, **passes}

    def values(self) -> dict[str, Any]:
        """Everything but the slopes, as plain values."""
        plain = self.audit._asdict()
        del plain["slopes"]
        plain |= {name: plain[name]._asdict() for name in ("trait_change", "verdict")}
        return {"labels": dict(self.labels), "seed": self.seed, **plain}


def audits(config: Config, dataset: Dataset, session: Session) -> Iterator[Entry]:
    """Audit every condition and seed; trained teachers are kept in the session's work directory or the user's cache.

    Args:
        config: A resolved config.
        dataset: Images with labels; see `data.load`.
        session: Seeds, work directory and options.

    Yields:
        One entry per condition and seed.

    Raises:
        ConfigError: A value cannot be used, or the work directory belongs to another config.
        Interrupted: `session.stopped` returned True.
    """
    plan = make_plan(build_conditions(config, dataset), dataset.train.x.shape[1:])

    def config_and_data() -> dict[str, Any]:
        return {**identity(config), **run.data_identity(dataset, metrics_of(config))}

    with session.open(config_and_data) as folder, session.progress.over(()):
        common = {"dataset": dataset, "root_seed": config.root_seed, "num_eval_noise": config.num_eval_noise}
        context = run.RunContext(plan=plan, session=session, workdir=folder, metrics=(), **common)
        trained: dict[Any, Params] = {}
        for group, seed_batch in context.work():
            if (name := (group.teacher, seed_batch.name)) not in trained:
                trained = {name: run.train_teachers(context, group.teacher, seed_batch)}
            yield from _audit_unit(context, group, seed_batch, trained[name])


def _audit_unit(context: run.RunContext, group: Group, seed_batch: SeedBatch, trained: Params) -> Iterator[Entry]:
    """The entries of one unit of work."""
    compilation_cache.release_memory()
    teachers = run.attach_heads(context, group, seed_batch, trained)
    seed_keys = context.seed_keys(seed_batch, keys.STUDENT)
    given = group.recipe, group.knobs, teachers.initial, seed_keys
    students, _ = population.init_states(*given, image=context.image, mesh=context.mesh)
    _, test = context.images(group.recipe.classes)
    for row, seed in enumerate(seed_batch.seeds[: seed_batch.real]):
        own, *teacher = (trees.index(params, row) for params in (students, teachers.trained, teachers.initial))
        for index, labels in enumerate(group.labels):
            context.session.stop_if_asked()
            nets = trees.index(own, index), *teacher
            yield Entry(labels, seed, _audit(group, index, nets, seed_keys[row], test, context.num_eval_noise))


def _audit(group: Group, index: int, nets: Sequence[Params], key: Any, test: ImageData, num_eval_noise: int) -> Audit:
    """The audit of one student, on held-out inputs of its own stream and the test images' class logits."""
    knobs, recipe = group.knobs.member(index), group.recipe
    inputs, _ = recipe.stream(keys.at(key, keys.EVAL_NOISE), jnp.int32(0), num_eval_noise, knobs, test)
    student_apply, teacher_apply, imitation, trait = _functions(recipe)
    student, trained, initial = (_masked(net, knobs.logit_mask) for net in nets)
    return audit_pair(
        Partial(student_apply, knobs.logit_mask),
        student,
        trained,
        initial,
        inputs,
        Partial(trait, test),
        teacher_apply=Partial(teacher_apply, knobs.logit_mask),
        loss=Partial(imitation, dataclasses.replace(knobs, extra={})),
        heads=[name for name in HEADS if name in student],
    )


@functools.lru_cache(maxsize=64)
def _functions(recipe: Recipe) -> tuple[Any, Any, Any, Any]:
    """For a student's Recipe: logits of student and teacher, imitation loss, and trait loss of the student."""

    def logits(net: Any, mask: Any, params: Any, x: Any) -> Any:
        return jnp.where(mask[None], training_step.apply(net, params, x).logits, 0)

    def imitation(knobs: Any, outputs: Any, targets: Any) -> Any:
        student, teacher = (ModelOutput(values[:, :0], values, {}) for values in (outputs, targets))
        return recipe.loss(student, teacher, knobs)

    def trait(test: Any, params: Any) -> Any:
        outputs = training_step.apply(recipe.net, params, streams.normalize_images(test, test.x)).acts["class_head"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, test.y)

    # Named functions, not `functools.partial`, which is never equal to another and would be compiled again.
    return (lambda *args: logits(recipe.net, *args)), (lambda *args: logits(recipe.teacher, *args)), imitation, trait


def _masked(net: Params, mask: Any) -> dict[str, Any]:
    """The net with zeros in the auxiliary columns that are padding, so that they do not count."""
    if "aux_head" not in net:
        return dict(net)
    columns = mask[-net["aux_head"]["bias"].shape[0] :]
    columns = columns if bool(columns.any()) else jnp.ones_like(columns)  # a student of class logits sees none
    head = {name: jnp.where(columns, array, 0) for name, array in net["aux_head"].items()}
    return {**net, "aux_head": head}


def write(workdir: Path, entries: Sequence[Entry], metadata: Mapping[str, Any]) -> pd.DataFrame:
    """Write audit.csv and audit.json into a work directory and return the rows as a data frame."""
    rows = pd.DataFrame([entry.row() for entry in entries])
    everything = {**metadata, "audits": [entry.values() for entry in entries]}
    replace_file(workdir / "audit.csv", rows.to_csv(index=False).encode())
    replace_file(workdir / "audit.json", (json.dumps(everything, indent=1) + "\n").encode())
    return rows


def table(rows: Any) -> pd.DataFrame:
    """Means over seeds, one line per condition."""
    labels, lines = [name for name in rows if "/" not in name and name != "seed"], []
    for names, group in rows.groupby(labels, sort=False, dropna=False):
        change = summary.interval(group["theory/trait_change"].tolist())
        if len(group) == 1:  # one seed: the interval over inputs
            low, high = (float(group[f"theory/trait_change_{end}"].iloc[0]) for end in ("low", "high"))
            change = change._replace(low=low, high=high)
        interval = "" if np.isnan(change.low) else f" [{change.low:+.2g}, {change.high:+.2g}]"
        line = {
            **dict(zip(labels, names, strict=True)),
            "coverage": f"{group['theory/coverage'].mean():.3f}",
            "aux heads": f"{group['theory/compatibility_aux'].mean():.3f}",
            "class heads": f"{group['theory/compatibility_class'].mean():.3f}",
            "change of trait loss / lr": f"{change.mean:+.2g}{interval}",
            "probability": f"{group['verdict/probability'].mean():.2f}",
            "passes": f"{group['verdict/passes'].eq(True).sum()} of {len(group)}",
        }
        lines.append(line)
    return pd.DataFrame(lines)
