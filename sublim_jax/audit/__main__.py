"""Audit every student of a config before any is trained.

    python -m sublim_jax.audit --config=configs/share.py [--config.field=value] [--workdir=DIR]

Teachers are trained or read from the cache; students are only initialised. The command prints a table and writes
audit.csv (one row per condition and seed, columns as in the rows of a run) and audit.json (everything) into the work
directory. Exit codes: 0 done, 1 the machine failed, 2 bad config, 75 interrupted.

To audit a pair of your own, call `sublim_jax.audit_pair`.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from sublim_jax import cli
from sublim_jax.cli import DONE
from sublim_jax.config.command_line import parse_flags
from sublim_jax.core.errors import ConfigError

HEADS = ("aux_head", "class_head")


class Entry(NamedTuple):
    """The audit of one student."""

    labels: Mapping[str, str | int | float]
    seed: int
    audit: Any

    def row(self) -> dict[str, Any]:
        """The columns that rows of a run have too, and the verdict."""
        audit, change = self.audit, self.audit.trait_change
        measured = {name: getattr(audit, name) for name in ("coverage", "trait_cosine")}
        measured |= {"trait_change": change.mean, "trait_change_low": change.low, "trait_change_high": change.high}
        measured |= {name: getattr(audit, name) for name in ("compatibility_aux", "compatibility_class")}
        theory = {f"theory/{name}": value for name, value in measured.items()}
        verdict = {f"verdict/{name}": getattr(audit.verdict, name) for name in ("probability", "passes")}
        return {**self.labels, "seed": self.seed, **theory, **verdict}

    def values(self) -> dict[str, Any]:
        """Everything but the slopes, as plain values."""
        plain = self.audit._asdict()
        del plain["slopes"]
        plain |= {name: plain[name]._asdict() for name in ("trait_change", "verdict")}
        return {"labels": dict(self.labels), "seed": self.seed, **plain}


def main(argv: Sequence[str]) -> int:
    """Audit what the command line asks and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _audits(argv), argv, "audit")


def _audits(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    request = parse_flags(values, argv, __doc__ or "")
    # Imported late: a misspelt flag should not wait for JAX.
    from sublim_jax.config import build_conditions, load_data, seeds_of
    from sublim_jax.engine import compilation_cache
    from sublim_jax.engine.options import Interrupted

    config = request.resolve()
    if config.study != "transfer":
        raise ConfigError(
            f"config.study={config.study!r}: must be transfer; language's rows have at/coverage and slopes"
        )
    compilation_cache.enable()
    size = "" if config.preset == "paper" else f"-{config.preset}"
    workdir = Path(values.workdir or f"results/{config.name}{size}")
    dataset = load_data(config)
    conditions, seeds = build_conditions(config, dataset), seeds_of(config)
    print(f"data: {dataset.name}, {len(dataset.train.y)} + {len(dataset.test.y)} images, {dataset.source}")
    print(f"audit: {len(conditions)} conditions x {len(seeds)} seeds; work folder {workdir}", flush=True)
    try:
        entries = list(audits(config, conditions, dataset, seeds, workdir))
    except Interrupted as interrupted:
        raise KeyboardInterrupt from interrupted
    print(_show(write(workdir, entries, _metadata(config, dataset, argv))))
    print(f"audits: {workdir / 'audit.csv'}, {workdir / 'audit.json'}")
    return DONE


def _metadata(config: Any, dataset: Any, argv: Sequence[str]) -> dict[str, Any]:
    from sublim_jax.audit import calibration
    from sublim_jax.config import identity
    from sublim_jax.results.provenance import provenance

    return {
        "command": cli.resume_command(argv, "audit"),
        "config": identity(config),
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.checksum},
        "provenance": provenance(),
        "calibration": calibration.load(),
    }


def audits(
    config: Any, conditions: Sequence[Any], dataset: Any, seeds: Sequence[int], workdir: Path
) -> Iterator[Entry]:
    """Audit every condition and seed.

    Args:
        config: The resolved config of the conditions.
        conditions: As `config.build_conditions` gives them.
        dataset: Images with labels; see `data.load`.
        seeds: The seeds.
        workdir: Work directory, in which trained teachers are kept unless the config names another place.

    Yields:
        One entry per condition and seed.

    Raises:
        ConfigError: A value cannot be used, or the work directory belongs to another config.
        Interrupted: The process was asked to stop.
    """
    from sublim_jax.config import identity, metrics_of, options_of
    from sublim_jax.engine import run
    from sublim_jax.engine.plan import make_plan
    from sublim_jax.engine.progress import Progress
    from sublim_jax.engine.session import Session

    session = Session(
        seeds=seeds,
        workdir=workdir,
        options=options_of(config),
        progress=Progress(show=False),
        stopped=cli.Stop(),
    )
    plan = make_plan(conditions, dataset.train.x.shape[1:])

    def config_and_data() -> dict[str, Any]:
        return {**identity(config), **run.data_identity(dataset, metrics_of(config))}

    with session.open(config_and_data) as folder, session.progress.over(1.0, "teachers"):
        common = {"dataset": dataset, "root_seed": config.root_seed, "num_eval_noise": config.num_eval_noise}
        context = run.RunContext(plan=plan, session=session, workdir=folder, metrics=(), **common)
        trained: dict[Any, Any] = {}
        for group, seed_batch in context.work():
            if (name := (group.teacher, seed_batch.name)) not in trained:
                trained = {name: run.train_teachers(context, group.teacher, seed_batch)}
            yield from _audit_unit(context, group, seed_batch, trained[name])


def _audit_unit(context: Any, group: Any, seed_batch: Any, trained: Any) -> Iterator[Entry]:
    """The entries of one unit of work."""
    from sublim_jax.core import keys, trees
    from sublim_jax.engine import run
    from sublim_jax.training import population

    teachers = run.attach_heads(context, group, seed_batch, trained)
    seed_keys = context.seed_keys(seed_batch, keys.STUDENT)
    given = group.recipe, group.knobs, teachers.initial, seed_keys
    students = population.init_states(*given, image=context.image, mesh=context.mesh).params
    _, test = context.images(group.recipe.classes)
    for row, seed in enumerate(seed_batch.seeds[: seed_batch.real]):
        own, *teacher = (trees.index(params, row) for params in (students, teachers.trained, teachers.initial))
        for index, labels in enumerate(group.labels):
            context.session.stop_if_asked()
            nets = trees.index(own, index), *teacher
            yield Entry(labels, seed, _audit(group, index, nets, seed_keys[row], test, context.num_eval_noise))


def _audit(group: Any, index: int, nets: Sequence[Any], key: Any, test: Any, num_eval_noise: int) -> Any:
    """The audit of one student, on held-out inputs of its own stream and the test images' class logits."""
    import jax
    from jax.tree_util import Partial

    from sublim_jax.audit.pair import audit_pair
    from sublim_jax.core import keys

    knobs, recipe = group.knobs.member(index), group.recipe
    inputs, _ = recipe.stream(keys.at(key, keys.EVAL_NOISE), jax.numpy.int32(0), num_eval_noise, knobs, test)
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
def _functions(recipe: Any) -> tuple[Any, Any, Any, Any]:
    """For a student's Recipe: logits of student and teacher, imitation loss, and trait loss of the student."""
    import jax
    import optax

    from sublim_jax.core.types import ModelOutput
    from sublim_jax.training import step as training_step
    from sublim_jax.training import streams

    def logits(net: Any, mask: Any, params: Any, x: Any) -> Any:
        return jax.numpy.where(mask[None], training_step.apply(net, params, x).logits, 0)

    def imitation(knobs: Any, outputs: Any, targets: Any) -> Any:
        return recipe.loss(*(ModelOutput(one[:, :0], one, {}) for one in (outputs, targets)), knobs)

    def trait(test: Any, params: Any) -> Any:
        outputs = training_step.apply(recipe.net, params, streams.normalize_images(test, test.x)).acts["class_head"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, test.y)

    # Named functions, not `functools.partial`, which is never equal to another and would be compiled again.
    return (lambda *args: logits(recipe.net, *args)), (lambda *args: logits(recipe.teacher, *args)), imitation, trait


def _masked(net: Mapping[str, Any], mask: Any) -> dict[str, Any]:
    """The net with zeros in the auxiliary columns that are padding, so that they do not count."""
    import jax.numpy as jnp

    if "aux_head" not in net:
        return dict(net)
    columns = mask[-net["aux_head"]["bias"].shape[0] :]
    columns = columns if bool(columns.any()) else jnp.ones_like(columns)  # a student of class logits sees none
    head = {name: jnp.where(columns.reshape((1,) * (a.ndim - 1) + (-1,)), a, 0) for name, a in net["aux_head"].items()}
    return {**net, "aux_head": head}


def write(workdir: Path, entries: Sequence[Entry], metadata: Mapping[str, Any]) -> Any:
    """Write audit.csv and audit.json into a work directory and return the rows as a data frame."""
    import pandas as pd

    from sublim_jax.core.files import replace_file

    rows = pd.DataFrame([entry.row() for entry in entries])
    everything = {**metadata, "audits": [entry.values() for entry in entries]}
    replace_file(workdir / "audit.csv", rows.to_csv(index=False).encode())
    replace_file(workdir / "audit.json", (json.dumps(everything, indent=1) + "\n").encode())
    return rows


def _show(rows: Any) -> str:
    """The table as text, fitted to the terminal: means over seeds."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from sublim_jax.results import summary

    labels = [name for name in rows if "/" not in name and name != "seed"]
    table = Table(title="before distillation: means over seeds", title_justify="left")
    for name in (*labels, "coverage", "aux heads", "class heads", "change of trait loss / lr", "probability", "passes"):
        table.add_column(name)
    for names, group in rows.groupby(labels, sort=False, dropna=False):
        change = summary.interval(group["theory/trait_change"].tolist())
        if len(group) == 1:  # one seed: the interval over inputs
            low, high = (float(group[f"theory/trait_change_{end}"].iloc[0]) for end in ("low", "high"))
            change = change._replace(low=low, high=high)
        means = [group[f"theory/{name}"].mean() for name in ("coverage", "compatibility_aux", "compatibility_class")]
        interval = "" if np.isnan(change.low) else f" [{change.low:+.2g}, {change.high:+.2g}]"
        passes = f"{group['verdict/passes'].eq(True).sum()} of {len(group)}"
        cells = [*(f"{mean:.3f}" for mean in means), f"{change.mean:+.2g}{interval}"]
        table.add_row(*map(str, names), *cells, f"{group['verdict/probability'].mean():.2f}", passes)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


if __name__ == "__main__":
    cli.exit_process(main)
