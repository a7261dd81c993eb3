"""From a plan to units of work: what fits in memory, which seeds go at a time, which of several jobs does what."""

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine.plan import Group, Plan, make_group
from sublim_jax.nets import activity, shapes, unpooled
from sublim_jax.nets.costs import step_macs
from sublim_jax.training.targets import needs_unrelated_teachers

# In turn, a bigger unit gains nothing, and whoever interrupts waits for the call in progress. Conditions of one unit
# are written out one by one in its program, which compiles in a time proportional to their number.
_NETS_IN_TURN = 64
_CONDITIONS_IN_TURN = 12
_STRANGERS = 2**20  # beyond any seed that is used
_PROCESS_GB = 1.1  # what the libraries and a compiler at work take on CPU, measured; see BUILD.md


class SeedBatch(NamedTuple):
    """Some seeds that go together; beyond `real` of them the last is repeated to fill the slice, and dropped."""

    name: str
    seeds: tuple[int, ...]
    real: int


def unrelated_seeds(part: SeedBatch) -> SeedBatch:
    """The seeds whose teachers are strangers to a slice's students; which, depends on the student's seed alone."""
    return SeedBatch(f"strangers-{part.name}", tuple(seed + _STRANGERS for seed in part.seeds), part.real)


class WorkUnit(NamedTuple):
    """What is trained by one call after another, and checkpointed and written as one: some conditions, some seeds."""

    group: Group
    slice: SeedBatch


class ResourceLimits(NamedTuple):
    """What a unit may be.

    memory_gb     of the whole process on CPU, of the device elsewhere
    rows          test images and held-out inputs that are measured at once
    devices       over which the seeds of a unit are spread
    side_by_side  whether all nets of a unit are worked on at the same time (`population.side_by_side`)
    seeds         in a unit, as the user wants; 0 = as many as fit
    """

    memory_gb: float
    rows: int
    devices: int
    side_by_side: bool
    seeds: int = 0


def work_units(
    plan: Plan,
    seeds: Sequence[int],
    image: tuple[int, ...],
    limits: ResourceLimits,
    shard: tuple[int, int] = (0, 1),
    have: Mapping[tuple[frozenset, int], Set[int]] | None = None,
) -> list[WorkUnit]:
    """The work of one shard that is not done yet, seed by seed; of a teacher's units the one with most seeds first.

    A teacher is trained for the largest slice and found again for the others (`shelf`).

    have  for a condition (its labels) and a mark, the seeds whose rows are there already

    Which shard does what depends on the plan and the seeds alone, so jobs that know nothing of each other, on machines
    of any kind, share the work without a gap. Raises `ConfigError` where not even one net fits in memory.
    """
    blocks = [
        (number, block, own)
        for number, (group, own) in enumerate(zip(plan.groups, assign_shards(plan, seeds, image, shard), strict=True))
        for block in split_to_fit(group, image, limits)
        if own
    ]
    found = []
    for number, block, own in blocks:
        done = _seeds_done(block, have or {})
        limit = limits.seeds or _seeds_that_fit(block, image, limits)
        for part in seed_batches(own, seed_batch_size(len(own), limit, limits.devices), done):
            found.append((part.seeds[0], block.teacher, -part.real, number, len(found), WorkUnit(block, part)))
    return [unit for *_, unit in sorted(found, key=lambda one: one[:5])]


def assign_shards(
    plan: Plan, seeds: Sequence[int], image: tuple[int, ...], shard: tuple[int, int] = (0, 1)
) -> list[tuple[int, ...]]:
    """For every group of a plan the seeds that shard (i, n) trains: each pair of group and seed belongs to one shard.

    The pairs stand in a row by teacher, then seed, then group, and are cut into n pieces of equal cost; a seed's groups
    stay together, with the teacher they share, unless there are more shards than seeds and teachers.
    """
    index, number = shard
    row = sorted(
        (group.teacher, place, which) for which, group in enumerate(plan.groups) for place in range(len(seeds))
    )
    few = number <= len({pair[:2] for pair in row})
    costs: dict[tuple[int, ...], float] = {}
    for pair in row:
        group = plan.groups[pair[2]]
        block = pair[:2] if few else pair
        costs[block] = costs.get(block, 0.0) + group.recipe.eval_steps[-1] * step_macs(
            group.recipe, group.unique_knobs.size, image
        )
    total, passed, mine = sum(costs.values()), 0.0, set()
    for block, amount in costs.items():
        # The middle of what a block costs decides, so that rounding at its ends cannot.
        if min(number - 1, int(number * (passed + amount / 2) / total)) == index:
            mine.add(block)
        passed += amount
    kept = [pair for pair in row if (pair[:2] if few else pair) in mine]
    return [tuple(seeds[place] for _, place, which in kept if which == one) for one in range(len(plan.groups))]


def split_to_fit(group: Group, image: tuple[int, ...], limits: ResourceLimits) -> list[Group]:
    """A group in as few parts of its conditions as fit, as equal as may be."""
    most = group.knobs.size if limits.side_by_side else _CONDITIONS_IN_TURN
    fixed, each, one_seed = _gigabytes(group, image, limits)
    seeds = 1 if limits.side_by_side else limits.devices  # at the same time, in the same memory
    fits = int((limits.memory_gb - fixed) / (each + one_seed) * group.unique_knobs.size / seeds)  # nets; twins are one
    if fits < 1:
        least = fixed + (each + one_seed) / group.unique_knobs.size * seeds
        raise ConfigError(
            f"config.run.memory_gb={limits.memory_gb:g}: must be at least {math.ceil(100 * least) / 100:g}, "
            "what one student with its evaluation takes"
        )
    number = math.ceil(group.knobs.size / most)
    while max(len(set(group.train_index[start:stop])) for start, stop in _ends(group.knobs.size, number)) > fits:
        number += 1
    return [_part(group, start, stop, image) for start, stop in _ends(group.knobs.size, number)]


def _ends(size: int, number: int) -> list[tuple[int, int]]:
    """Where each of so many parts begins and ends."""
    return list(itertools.pairwise(round(part * size / number) for part in range(number + 1)))


def _part(group: Group, start: int, stop: int, image: tuple[int, ...]) -> Group:
    if stop - start == group.knobs.size:
        return group
    knobs = [group.knobs.member(index) for index in range(start, stop)]
    labels, places = group.labels[start:stop], group.indices[start:stop]
    return make_group(group.teacher, group.teacher_final_knobs, group.recipe, knobs, labels, places, image)


def seed_batch_size(seeds: int, limit: int, devices: int) -> int:
    """Seeds in a slice: as equal as may be, at most `limit` but never fewer than `devices`, a multiple of them."""
    limit = max(devices, limit - limit % devices)
    each = math.ceil(seeds / math.ceil(seeds / limit))
    return math.ceil(each / devices) * devices


def seed_batches(seeds: Sequence[int], size: int, done: Set[int] = frozenset()) -> tuple[SeedBatch, ...]:
    """The seeds in slices of `size`, so that one program serves them; those done are left out where they stand."""
    parts = (
        tuple(seed for seed in seeds[start : start + size] if seed not in done) for start in range(0, len(seeds), size)
    )
    return tuple(SeedBatch(_name(part), part + (part[-1],) * (size - len(part)), len(part)) for part in parts if part)


def _name(seeds: tuple[int, ...]) -> str:
    """First and last seed, and a digest where others than those between are meant."""
    plain = f"seeds{seeds[0]:05d}-{seeds[-1]:05d}"
    whole = seeds == tuple(range(seeds[0], seeds[-1] + 1))
    return plain if whole else f"{plain}-{zlib.crc32(repr(seeds).encode()):08x}"


def _seeds_done(group: Group, have: Mapping[tuple[frozenset, int], Set[int]]) -> Set[int]:
    """The seeds whose rows are there for every condition of a group at every mark, whatever units wrote them."""
    wanted = [(frozenset(labels.items()), mark) for labels in group.labels for mark in group.recipe.eval_steps]
    return set.intersection(*(set(have.get(one, ())) for one in wanted))


def _seeds_that_fit(group: Group, image: tuple[int, ...], limits: ResourceLimits) -> int:
    fixed, each, one_seed = _gigabytes(group, image, limits)
    if limits.side_by_side:
        return max(1, int((limits.memory_gb - fixed) / (each + one_seed))) * limits.devices
    fits = int((limits.memory_gb - fixed - one_seed * limits.devices) / each)
    return max(1, min(fits, _NETS_IN_TURN * limits.devices // group.knobs.size))


def unit_gigabytes(unit: WorkUnit, image: tuple[int, ...], limits: ResourceLimits) -> float:
    """The predicted memory of a work unit on each device (on CPU: of the process), in GB."""
    fixed, each, one_seed = _gigabytes(unit.group, image, limits)
    seeds = len(unit.slice.seeds)
    if limits.side_by_side:
        return fixed + (each + one_seed) * seeds / limits.devices
    return fixed + each * seeds + one_seed * min(seeds, limits.devices)


def _gigabytes(group: Group, image: tuple[int, ...], limits: ResourceLimits) -> tuple[float, float, float]:
    """Memory, generously: of the process whatever the unit; kept for every seed; and worked on for one seed.

    Kept: parameters and two Adam moments, before a call, after it and on the way to a checkpoint, and the teacher.
    Worked on: more copies of them with gradients, the activations of a batch for every net, and of all measured rows
    for one net (in turn) or all (side by side), for both nets before and after training, with copies on the way. The
    numbers of copies were fitted to what processes took; see BUILD.md.
    """
    weights = shapes(group.recipe.net, image)
    numbers, pixels = trees.count(weights), math.prod(image)
    width = activity(group.recipe.net, image)
    # On CPU a convolution's maps pass in blocks and only what pooling leaves is kept.
    width += unpooled(group.recipe.net, image) if limits.side_by_side else 0
    read = weights.get("class_head", {}).get("kernel")  # [latent, classes]
    # Latents and class logits meet in the measures; other layers, and auxiliary logits, only pass through.
    kept_rows = 12 * sum(() if read is None else read.shape) + 2 * width
    nets = group.unique_knobs.size
    measured = limits.rows * (kept_rows * (group.knobs.size if limits.side_by_side else 1) + kept_rows + 2 * pixels)
    guarded = group.recipe.gradient_transform is not None  # another batch, and another gradient
    batch = group.recipe.batch * (3 * width * nets + 2 * pixels) * (1 + guarded)
    kept, worked = (9 * nets + 6) * numbers, (8 + guarded) * nets * numbers + max(batch, measured)
    kept += needs_unrelated_teachers(group.recipe.target_transform) * numbers
    return (0.0 if limits.side_by_side else _PROCESS_GB), 4e-9 * kept, 4e-9 * worked


def total_cost(plan: Plan, found: Sequence[WorkUnit], image: tuple[int, ...]) -> float:
    """What the progress bar counts: every unit's students, and once the teachers they share."""
    total, teachers = 0.0, {}
    for group, part in found:
        total += group.recipe.eval_steps[-1] * step_macs(group.recipe, group.unique_knobs.size * len(part.seeds), image)
        teachers[group.teacher, part.name] = plan.teachers[group.teacher].recipe, len(part.seeds)
        if needs_unrelated_teachers(group.recipe.target_transform):
            teachers[group.teacher, unrelated_seeds(part).name] = plan.teachers[group.teacher].recipe, len(part.seeds)
    return total + sum(recipe.eval_steps[-1] * step_macs(recipe, number, image) for recipe, number in teachers.values())
