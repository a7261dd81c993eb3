"""From a plan to units of work: what fits in memory, which seeds run together, which job does which part."""

import itertools
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Recipe
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.plan import Group, Plan, make_group
from sublim_jax.nets import activity, shapes, unpooled
from sublim_jax.nets.costs import step_macs
from sublim_jax.training.targets import needs_unrelated_teachers

# Where nets run one after another, a larger unit gains nothing, takes more memory and longer to interrupt. Its program
# is unrolled over conditions, so that compile time is proportional to their number.
_NETS_IN_TURN, _SEEDS_IN_TURN = 64, 10
_CONDITIONS_IN_TURN = 12
_UNRELATED = 2**20  # beyond any seed that is used
_PROCESS_GB, _PREDICTIONS_GB = 1.1, 0.3  # libraries and compiler on CPU, and the program of further metrics, measured
_PROGRAMS_GB = 0.3  # compiled programs of one more group on CPU, measured: 0.2 when compiled, 0.28 from the disk cache
_PLAIN_METRICS = {"task", "budget", "imitation", "layers", "heads", "audit", "displacement"}  # these compare no latents


class SeedBatch(NamedTuple):
    """Seeds that run together; after the first `real` the last one is repeated as padding."""

    name: str
    seeds: tuple[int, ...]
    real: int


def unrelated_seeds(batch: SeedBatch) -> SeedBatch:
    """The seeds whose teachers are unrelated to the students of a batch; each depends on the student's seed only."""
    return SeedBatch(f"strangers-{batch.name}", tuple(seed + _UNRELATED for seed in batch.seeds), batch.real)


def teacher_batches(group: Group, batch: SeedBatch) -> list[SeedBatch]:
    """The seeds whose teachers a group's students need: their own, and those of unrelated teachers if there are."""
    return [batch, *([unrelated_seeds(batch)] if needs_unrelated_teachers(group.recipe.target_transform) else [])]


class WorkUnit(NamedTuple):
    """A group of conditions and a seed batch that are trained, checkpointed and written together."""

    group: Group
    slice: SeedBatch


class ResourceLimits(NamedTuple):
    """Limits of a unit of work.

    Attributes:
        memory_gb: Of the whole process on CPU, of the device elsewhere.
        rows: Number of test images and held-out inputs that are measured at once.
        devices: Number of devices over which the seeds of a unit are spread.
        side_by_side: Whether all nets of a unit run at the same time; see `population.use_vmap`.
        seeds: Seeds in a unit as the user wants; 0 = as many as fit.
        compares: Whether a metric compares latents of all rows, or needs gradients.
    """

    memory_gb: float
    rows: int
    devices: int
    side_by_side: bool
    seeds: int = 0
    compares: bool = True


def limits_of(
    options: RunOptions, rows: int, devices: int, side_by_side: bool, metrics: Iterable[str]
) -> ResourceLimits:
    """The limits of a run that measures `rows` images and inputs by metrics of these names."""
    compares = not _PLAIN_METRICS.issuperset(metrics)
    return ResourceLimits(options.memory_gb, rows, devices, side_by_side, options.seed_batch, compares)


def work_units(
    plan: Plan,
    seeds: Sequence[int],
    image: tuple[int, ...],
    limits: ResourceLimits,
    shard: tuple[int, int] = (0, 1),
    done: Mapping[tuple[frozenset, int], Set[int]] | None = None,
) -> list[WorkUnit]:
    """Remaining work units of one shard, ordered by first seed; among units of one teacher the largest comes first.

    A teacher is trained for the largest seed batch and read from the cache for the others. Shards depend only on the
    plan and the seeds, so that jobs on any machines divide the work without communication.

    Args:
        plan: The plan of the sweep.
        seeds: Seeds of the sweep.
        image: Shape of one image.
        limits: Limits of a unit.
        shard: (i, n): part i of n.
        done: For a condition (its labels) and an evaluation step the seeds whose rows are there.

    Raises:
        ConfigError: Not even one net fits in memory.
    """
    units = []
    for group, own in zip(plan.groups, assign_shards(plan, seeds, image, shard), strict=True):
        for part in split_to_fit(group, image, limits) if own else []:
            limit = limits.seeds or _seeds_that_fit(part, image, limits)
            size = seed_batch_size(
                len(own), limit, limits.devices, least_padding=not (limits.seeds or limits.side_by_side)
            )
            units += [WorkUnit(part, batch) for batch in seed_batches(own, size, _seeds_done(part, done or {}))]
    return sorted(units, key=lambda unit: (unit.slice.seeds[0], unit.group.teacher, -unit.slice.real))


def assign_shards(
    plan: Plan, seeds: Sequence[int], image: tuple[int, ...], shard: tuple[int, int] = (0, 1)
) -> list[tuple[int, ...]]:
    """The seeds that shard (i, n) trains, for every group of a plan; each pair of group and seed belongs to one shard.

    The pairs are ordered by teacher, seed and group and divided into n parts of equal cost. The groups of one seed and
    teacher stay together unless there are more shards than seeds and teachers.
    """
    index, number = shard
    groups = list(enumerate(plan.groups))
    pairs = sorted((group.teacher, position, which) for which, group in groups for position in range(len(seeds)))
    block_key = slice(2 if number <= len({pair[:2] for pair in pairs}) else 3)
    costs: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        group, block = plan.groups[pair[2]], pair[block_key]
        costs[block] = costs.get(block, 0.0) + _macs(group.recipe, group.unique_knobs.size, image)
    total, passed, own = sum(costs.values()), 0.0, set()
    for block, amount in costs.items():
        # The middle of a block decides, where rounding does not matter.
        if min(number - 1, int(number * (passed + amount / 2) / total)) == index:
            own.add(block)
        passed += amount
    kept = [pair for pair in pairs if pair[block_key] in own]
    return [tuple(seeds[position] for _, position, which in kept if which == group) for group, _ in groups]


def split_to_fit(group: Group, image: tuple[int, ...], limits: ResourceLimits) -> list[Group]:
    """Split the conditions of a group into as few parts as fit in memory, as equal as possible."""
    most = group.knobs.size if limits.side_by_side else _CONDITIONS_IN_TURN
    number = math.ceil(group.knobs.size / most)
    while number < group.knobs.size and any(
        _too_large(group, image, limits, slice(*ends)) for ends in _ends(group.knobs.size, number)
    ):
        number += 1
    parts = [slice(*ends) for ends in _ends(group.knobs.size, number)]
    for part in parts:
        if _too_large(group, image, limits, part):
            needs = _gigabytes(group, image, limits, 1, limits.devices)
            least = math.ceil(100 * _total(needs)) / 100
            field = max((name for name in needs if name), key=lambda name: needs[name])
            raise ConfigError(
                f"config.run.memory_gb={limits.memory_gb:g}: must be at least {least:g}, "
                f"what one student with its evaluation takes; most of it is for config.{field}, which may be lowered"
            )
    if number == 1:
        return [group]
    return [make_group(group.teacher, group.conditions[part], group.indices[part], image) for part in parts]


def _too_large(group: Group, image: tuple[int, ...], limits: ResourceLimits, part: slice) -> bool:
    """Whether some conditions of a group do not fit in memory, with one seed on every device."""
    nets = len(set(group.train_index[part]))
    return _total(_gigabytes(group, image, limits, nets, limits.devices)) > limits.memory_gb


def _ends(size: int, number: int) -> list[tuple[int, int]]:
    """First and last index of each of `number` equal parts."""
    return list(itertools.pairwise(round(part * size / number) for part in range(number + 1)))


def seed_batch_size(seeds: int, limit: int, devices: int, least_padding: bool = False) -> int:
    """Seeds in a batch: batches as equal as possible, at most `limit`, and a positive multiple of `devices`.

    With `least_padding` there may be twice as many batches, where fewer seeds are then repeated as padding; but none
    of a single seed, whose program rounds differently.
    """
    limit = max(devices, limit - limit % devices)
    each = math.ceil(seeds / math.ceil(seeds / limit))
    size = math.ceil(each / devices) * devices
    sizes = range(size, max(2, math.ceil(limit / 2)) - 1, -devices) if least_padding else ()
    return min(sizes, key=lambda each: (math.ceil(seeds / each) * each, -each), default=size)


def seed_batches(seeds: Sequence[int], size: int, done: Set[int] = frozenset()) -> tuple[SeedBatch, ...]:
    """The seeds in batches of `size`, which share one program; seeds that are done are left out."""
    parts = (
        tuple(seed for seed in seeds[start : start + size] if seed not in done) for start in range(0, len(seeds), size)
    )
    return tuple(SeedBatch(_name(part), part + (part[-1],) * (size - len(part)), len(part)) for part in parts if part)


def _name(seeds: tuple[int, ...]) -> str:
    """First and last seed, and a digest where the seeds are not all between them."""
    plain = f"seeds{seeds[0]:05d}-{seeds[-1]:05d}"
    whole = seeds == tuple(range(seeds[0], seeds[-1] + 1))
    return plain if whole else f"{plain}-{zlib.crc32(repr(seeds).encode()):08x}"


def _seeds_done(group: Group, done: Mapping[tuple[frozenset, int], Set[int]]) -> Set[int]:
    """The seeds that are done for every condition of a group at every evaluation step."""
    wanted = [(frozenset(labels.items()), step) for labels in group.labels for step in group.recipe.eval_steps]
    return set.intersection(*(set(done.get(key, ())) for key in wanted))


def _seeds_that_fit(group: Group, image: tuple[int, ...], limits: ResourceLimits) -> int:
    devices, nets = limits.devices, group.unique_knobs.size
    one, two = (_total(_gigabytes(group, image, limits, nets, count * devices)) for count in (1, 2))  # seeds a device
    fits = devices * (1 + max(0, int((limits.memory_gb - one) / (two - one))))
    in_turn = devices * max(1, min(_SEEDS_IN_TURN, _NETS_IN_TURN // group.knobs.size))
    return fits if limits.side_by_side else min(fits, in_turn)


def unit_gigabytes(unit: WorkUnit, image: tuple[int, ...], limits: ResourceLimits) -> float:
    """The predicted memory of a work unit on each device (on CPU: of the process), in GB."""
    return _total(_gigabytes(unit.group, image, limits, unit.group.unique_knobs.size, len(unit.slice.seeds)))


def program_drops(
    units: Sequence[WorkUnit], image: tuple[int, ...], limits: ResourceLimits
) -> tuple[list[bool], float]:
    """Before which units the compiled programs of earlier units must be dropped, so that the process keeps its limit.

    Returns:
        For every unit whether programs are dropped before it, and the predicted memory of the whole in GB.
    """
    drops, largest, loaded = [], 0.0, set()
    for unit in units:
        program = unit.group.recipe, unit.group.knobs.size, unit.group.untrained_layers, len(unit.slice.seeds)
        own, others = unit_gigabytes(unit, image, limits), 0.0 if limits.side_by_side else _PROGRAMS_GB
        drops.append(own + others * len(loaded - {program}) > limits.memory_gb and bool(loaded - {program}))
        loaded = {program} if drops[-1] else loaded | {program}
        largest = max(largest, own + others * (len(loaded) - 1))
    return drops, largest


def _total(gigabytes: Mapping[str, float]) -> float:
    """Memory for parameters, and for training or measuring, which follow each other."""
    working = max(number for field, number in gigabytes.items() if field not in ("", "net.hidden"))
    return gigabytes[""] + gigabytes["net.hidden"] + working


def _gigabytes(group: Group, image: tuple[int, ...], limits: ResourceLimits, nets: int, seeds: int) -> dict[str, float]:
    """A generous estimate of memory in GB, by the field that it grows with, of some nets of a group and some seeds.

    At rest: parameters and two Adam moments before and after a call and on the way to a checkpoint, and the teacher.
    At work: further copies with gradients, the activations of a batch for every net, and those of all measured rows
    for one net (nets in turn) or all (side by side), for both nets before and after training. The numbers of copies
    are fitted to the measured memory of processes.
    """
    recipe, teacher = group.recipe, group.conditions[0].teacher.recipe
    aside = limits.side_by_side
    weights = shapes(recipe.net, image)
    numbers, pixels = trees.count(weights), math.prod(image)
    # On CPU a convolution's maps pass in blocks and only what pooling leaves is kept.
    width, teacher_width = (
        activity(net, image) + (unpooled(net, image) if aside else 0) for net in (recipe.net, teacher.net)
    )
    read = weights.get("class_head", {}).get("kernel")  # [latent, classes]
    latent = 7 * read.shape[0] if limits.compares and read is not None else 0
    resting, working = (seeds / limits.devices,) * 2 if aside else (seeds, min(seeds, limits.devices))
    compared = 2 * (width + teacher_width) + latent
    extra = recipe.gradient_transform is not None  # needs another batch and gradient
    others = 6 + needs_unrelated_teachers(recipe.target_transform)  # teachers
    kept, copies = (9 * nets + others) * numbers, (8 + extra) * nets * numbers
    process = 0.0 if aside else _PROCESS_GB + _PREDICTIONS_GB * limits.compares
    floats = {
        "net.hidden": resting * kept + working * copies,
        "student.batch": working * recipe.batch * (3 * width * nets + 4 * pixels) * (1 + extra),
        "teacher.batch": working * teacher.batch * (3 * teacher_width + 4 * pixels),
        "num_eval_noise": working * limits.rows * (compared * (nets if aside else 1) + 2 * pixels),
    }
    return {"": process} | {field: 4e-9 * number for field, number in floats.items()}


def total_cost(plan: Plan, units: Sequence[WorkUnit], image: tuple[int, ...]) -> float:
    """Multiply-accumulates of all units: their students, and once the teachers they share."""
    total, teachers = 0.0, {}
    for group, seed_batch in units:
        recipe, seeds = plan.teachers[group.teacher].recipe, len(seed_batch.seeds)
        total += _macs(group.recipe, group.unique_knobs.size * seeds, image)
        total += 2 * group.recipe.first_step * step_macs(group.recipe, seeds, image)  # host and donor before a cut
        for batch in teacher_batches(group, seed_batch):
            teachers[group.teacher, batch.name] = _macs(recipe, seeds, image)
    return total + sum(teachers.values())


def _macs(recipe: Recipe, nets: int, image: tuple[int, ...]) -> float:
    """Multiply-accumulates of training from the first step on."""
    return (recipe.eval_steps[-1] - recipe.first_step) * step_macs(recipe, nets, image)
