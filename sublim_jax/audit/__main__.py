"""Audit every student of a config before any is trained.

    python -m sublim_jax.audit --config=configs/share.py [--config.field=value] [--workdir=DIR]

Teachers are trained, or taken where they are kept; students only begin. Prints a table and writes audit.csv (one row
per condition and seed, columns as in the rows of a run) and audit.json (everything) into the work folder. Exit codes: 0
done, 1 the machine failed, 2 bad config, 75 interrupted.

For a pair of your own call `sublim_jax.audit(...)`; see `sublim_jax.audit.pair`.
"""

import dataclasses
import functools
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from sublim_jax import cli
from sublim_jax.cli import DONE
from sublim_jax.config.command_line import parse_flags, require_config
from sublim_jax.core.errors import ConfigError

HEADS = ("aux_head", "class_head")


class Entry(NamedTuple):
    """The audit of one student."""

    labels: Mapping[str, str | int | float]
    seed: int
    audit: Any

    def row(self) -> dict[str, Any]:
        """The columns that rows of a run have too, and the verdict."""
        found, change = self.audit, self.audit.trait_change
        measured = {name: getattr(found, name) for name in ("coverage", "trait_cosine")}
        measured |= {"trait_change": change.mean, "trait_change_low": change.low, "trait_change_high": change.high}
        measured |= {name: getattr(found, name) for name in ("compatibility_aux", "compatibility_class")}
        theory = {f"theory/{name}": value for name, value in measured.items()}
        verdict = {"probability": found.verdict.probability, "passes": found.verdict.passes}
        return {**self.labels, "seed": self.seed, **theory, **{f"verdict/{name}": one for name, one in verdict.items()}}

    def facts(self) -> dict[str, Any]:
        """Everything but the slopes, as plain values."""
        found = self.audit._asdict()
        del found["slopes"]
        plain = {**found, "trait_change": found["trait_change"]._asdict(), "verdict": found["verdict"]._asdict()}
        return {"labels": dict(self.labels), "seed": self.seed, **plain}


def main(argv: Sequence[str]) -> int:
    """Audit what the command line asks and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _audits(argv), argv, "audit")


def _audits(argv: Sequence[str]) -> int:
    values = parse_flags(flags.FlagValues(), argv, __doc__ or "")
    require_config(values)
    # Imported late: a misspelt flag should not wait for JAX.
    from sublim_jax import results
    from sublim_jax.audit import calibration
    from sublim_jax.config import build_conditions, identity, load_data, metrics_of, options_of, resolve, seeds_of
    from sublim_jax.engine import compilation_cache, run
    from sublim_jax.engine.options import Interrupted
    from sublim_jax.results.provenance import provenance

    config = resolve(values.config, dict(config_flags.get_override_values(values["config"])))
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
    folder = results.Workdir(workdir, {**identity(config), **run.data_identity(dataset, metrics_of(config))})
    try:
        entries = list(
            audits(conditions, dataset, seeds, config.root_seed, config.num_eval_noise, options_of(config), folder)
        )
    except Interrupted as saved:
        raise KeyboardInterrupt from saved
    facts = {
        "command": cli.resume_command(argv, "audit"),
        "config": identity(config),
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.checksum},
        "provenance": provenance(),
        "calibration": calibration.load(),
    }
    print(_show(write(workdir, entries, facts)))
    print(f"audits: {workdir / 'audit.csv'}, {workdir / 'audit.json'}")
    return DONE


def audits(
    conditions: Sequence[Any], dataset: Any, seeds: Sequence[int], root: int, num_eval_noise: int, how: Any, folder: Any
) -> Iterator[Entry]:
    """The audit of every condition and seed, as they come; raises `run.Interrupted` where someone asks to stop."""
    import jax

    from sublim_jax.core import keys, trees
    from sublim_jax.engine import distributed, run, schedule, teacher_cache
    from sublim_jax.engine.options import Interrupted
    from sublim_jax.engine.plan import make_plan
    from sublim_jax.engine.progress import Progress
    from sublim_jax.training import population

    image, devices = dataset.train.x.shape[1:], how.devices or jax.local_device_count()
    shard = distributed.process_shard((0, 1), "auto", folder.path)
    plan, watch, stop = make_plan(conditions, image), Progress(show=False), cli.Stop()
    with jax.default_matmul_precision(how.precision):
        common = teacher_cache.common_identity(run.data_identity(dataset, ()), root, how.precision, devices)
        shelves = teacher_cache.teacher_caches(plan, how.teachers or folder.path / "teachers", common)
        mesh, banks = population.mesh_of(devices), run.image_data_by_classes(dataset)
        lab = run.RunContext(
            plan, banks, keys.root(root), (), num_eval_noise, how, mesh, folder, watch, stop, shard, image, shelves
        )
        limits = schedule.ResourceLimits(
            how.memory_gb, len(dataset.test.y) + num_eval_noise, devices, population.use_vmap(), how.seed_batch
        )
        taught: dict[Any, Any] = {}
        with watch.over(1.0, "teachers"):
            for group, slice_ in schedule.work_units(plan, seeds, image, limits, shard):
                if (who := (group.teacher, slice_.name)) not in taught:
                    taught = {who: run.train_teachers(lab, group.teacher, slice_)}
                teachers = run.attach_heads(lab, group, slice_, taught[who])
                seed_keys = population.phase_keys(lab.root, jax.numpy.asarray(slice_.seeds), keys.STUDENT)
                begun = population.init_states(
                    group.recipe, group.knobs, teachers.initial, seed_keys, image=image, mesh=mesh
                ).params
                _, test = banks(group.recipe.classes)
                for place, seed in enumerate(slice_.seeds[: slice_.real]):
                    four = [trees.index(one, place) for one in (begun, teachers.trained, teachers.initial)]
                    for index, labels in enumerate(group.labels):
                        if stop():
                            raise Interrupted
                        own = trees.index(four[0], index), *four[1:]
                        yield Entry(labels, seed, _audit(group, index, own, seed_keys[place], test, num_eval_noise))


def _audit(group: Any, index: int, nets: tuple[Any, Any, Any], key: Any, test: Any, num_eval_noise: int) -> Any:
    """The audit of one student, on held-out inputs of its own stream and the test images' class logits."""
    import jax
    from jax.tree_util import Partial

    from sublim_jax.audit.pair import audit_pair
    from sublim_jax.core import keys

    knobs, recipe = group.knobs.member(index), group.recipe
    x, _ = recipe.stream(keys.at(key, keys.EVAL_NOISE), jax.numpy.int32(0), num_eval_noise, knobs, test)
    says, taught, imitates, reads = _functions(recipe)
    student, teacher, origin = (_seen(net, knobs.logit_mask) for net in nets)
    return audit_pair(
        Partial(says, knobs.logit_mask),
        student,
        teacher,
        origin,
        x,
        Partial(reads, test),
        teacher_apply=Partial(taught, knobs.logit_mask),
        loss=Partial(imitates, dataclasses.replace(knobs, extra={})),
        heads=[name for name in HEADS if name in student],
    )


@functools.lru_cache(maxsize=64)
def _functions(recipe: Any) -> tuple[Any, Any, Any, Any]:
    """Of a student's Recipe: what student and teacher say, how far they are apart, how well the student reads."""
    import jax
    import optax

    from sublim_jax.core.types import ModelOutput
    from sublim_jax.training import step as training_step
    from sublim_jax.training import streams

    def says(net: Any, seen: Any, params: Any, x: Any) -> Any:
        return jax.numpy.where(seen[None], training_step.apply(net, params, x).logits, 0)

    def imitates(knobs: Any, outputs: Any, targets: Any) -> Any:
        return recipe.loss(*(ModelOutput(one[:, :0], one, {}) for one in (outputs, targets)), knobs)

    def reads(test: Any, params: Any) -> Any:
        logits = training_step.apply(recipe.net, params, streams.normalize_images(test, test.x)).acts["class_head"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, test.y)

    # Named functions, not `functools.partial`, which is never equal to another and would be compiled again.
    return (lambda *given: says(recipe.net, *given)), (lambda *given: says(recipe.teacher, *given)), imitates, reads


def _seen(net: Mapping[str, Any], seen: Any) -> dict[str, Any]:
    """The net with the auxiliary columns that only pad set to zero: they neither speak nor count."""
    import jax.numpy as jnp

    if "aux_head" not in net:
        return dict(net)
    columns = seen[-net["aux_head"]["bias"].shape[0] :]
    columns = columns if bool(columns.any()) else jnp.ones_like(columns)  # a student of class logits sees none
    head = {name: jnp.where(columns.reshape((1,) * (a.ndim - 1) + (-1,)), a, 0) for name, a in net["aux_head"].items()}
    return {**net, "aux_head": head}


def write(workdir: Path, entries: Sequence[Entry], facts: Mapping[str, Any]) -> Any:
    """Write audit.csv and audit.json; returns the rows as a data frame."""
    import pandas as pd

    from sublim_jax.core.files import replace_file

    rows = pd.DataFrame([entry.row() for entry in entries])
    told = {**facts, "audits": [entry.facts() for entry in entries]}
    replace_file(workdir / "audit.csv", rows.to_csv(index=False).encode())
    replace_file(workdir / "audit.json", (json.dumps(told, indent=1) + "\n").encode())
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
    for names, those in rows.groupby(labels, sort=False, dropna=False):
        change = summary.interval(those["theory/trait_change"].tolist())
        if len(those) == 1:  # one seed: the interval over inputs
            low, high = (float(those[f"theory/trait_change_{end}"].iloc[0]) for end in ("low", "high"))
            change = change._replace(low=low, high=high)
        means = [those[f"theory/{one}"].mean() for one in ("coverage", "compatibility_aux", "compatibility_class")]
        chance, passes = those["verdict/probability"].mean(), (those["verdict/passes"].eq(True)).sum()
        told = f"{change.mean:+.2g}" + ("" if np.isnan(change.low) else f" [{change.low:+.2g}, {change.high:+.2g}]")
        cells = [*(f"{one:.3f}" for one in means), told, f"{chance:.2f}", f"{passes} of {len(those)}"]
        table.add_row(*map(str, names), *cells)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


class _Called(types.ModuleType):
    """This module, called as the function of its name: `import sublim_jax.audit` hides that function."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from sublim_jax.audit.pair import audit_pair

        return audit_pair(*given, **named)


sys.modules[__name__].__class__ = _Called

if __name__ == "__main__":
    cli.exit_process(main)
