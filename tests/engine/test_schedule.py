"""Units of work: what fits, which seeds go at a time, who does what."""

import itertools

import numpy as np
import pytest

from sublim_jax import nets
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import schedule
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.schedule import ResourceLimits
from sublim_jax.nets.costs import step_macs

IMAGE = (28, 28)
ROOMY = ResourceLimits(memory_gb=64, rows=300, devices=1, side_by_side=False)


def total(group, nets):
    """The predicted memory of some nets of a group for one seed."""
    return schedule._total(schedule._gigabytes(group, IMAGE, ROOMY, nets, 1))


@pytest.fixture
def plan(tiny):
    """Two groups of unequal cost: widths 3 and 10 with six conditions, width 200 with two."""
    return make_plan(tiny(conditions=("same", "random_hidden"), m=(3, 5, 10, 200)), IMAGE)


@pytest.mark.parametrize(("seeds", "limit", "devices", "sizes", "real"), [
    (20, 8, 1, [7, 7, 7], [7, 7, 6]),
    (4, 100, 1, [4], [4]),
    (3, 2, 1, [2, 2], [2, 1]),
    (3, 100, 4, [4], [3]),
    (9, 4, 2, [4, 4, 4], [4, 4, 1]),
])  # fmt: skip
def test_seed_batches_are_equal_and_cover_every_seed_once(seeds, limit, devices, sizes, real):
    parts = schedule.seed_batches(range(seeds), schedule.seed_batch_size(seeds, limit, devices))
    assert [len(part.seeds) for part in parts] == sizes
    assert [part.real for part in parts] == real
    assert [seed for part in parts for seed in part.seeds[: part.real]] == list(range(seeds))


@pytest.mark.parametrize(("seeds", "limit", "devices", "size"), [
    (20, 10, 1, 10), (64, 10, 1, 8), (100, 10, 1, 10), (20, 8, 1, 5), (3, 2, 1, 2), (1, 10, 1, 1), (9, 4, 2, 2),
])  # fmt: skip
def test_seed_batch_size_with_the_least_padding(seeds, limit, devices, size):
    assert schedule.seed_batch_size(seeds, limit, devices, least_padding=True) == size


def test_work_units_run_as_many_seeds_of_64_at_a_time_as_of_8(tiny):
    for names, size in ((("same",), 8), (("same", "random_hidden"), 8)):
        plan = make_plan(tiny(conditions=names, m=(3,)), IMAGE)
        for seeds in (8, 64):
            work = schedule.work_units(plan, range(seeds), IMAGE, ROOMY)
            assert {(len(unit.slice.seeds), unit.slice.real) for unit in work} == {(size, size)}


def test_program_drops_keep_programs_and_arrays_within_the_limit(plan):
    units = schedule.work_units(plan, range(40), IMAGE, ROOMY)  # two groups in turn, of four batches each
    alone = max(schedule.unit_gigabytes(unit, IMAGE, ROOMY) for unit in units)
    assert len({unit.group.recipe for unit in units}) == 2 and len(units) > 4
    both, one = (ROOMY._replace(memory_gb=alone + room) for room in (0.31, 0.01))
    drops, predicted = schedule.program_drops(units, IMAGE, both)
    assert not any(drops) and alone < predicted <= both.memory_gb
    drops, predicted = schedule.program_drops(units, IMAGE, one)
    changes = [left.group is not right.group for left, right in itertools.pairwise(units)]
    assert drops == [False, *changes] and predicted == alone
    assert not any(schedule.program_drops(units, IMAGE, one._replace(side_by_side=True))[0])


def test_seed_batches_leave_out_seeds_that_are_done():
    parts = schedule.seed_batches(range(6), 3, {1, 3, 4, 5})
    assert [(part.seeds, part.real) for part in parts] == [((0, 2, 2), 2)]
    assert parts[0].name.startswith("seeds00000-00002-")  # not the name of 0, 1, 2
    assert schedule.seed_batches(range(6), 3, set(range(6))) == ()


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 20, 50])
def test_assign_shards_gives_every_group_and_seed_to_one_shard(plan, number):
    seeds = (3, 4, 7, 8, 9, 11, 20)
    shards = [schedule.assign_shards(plan, seeds, IMAGE, (index, number)) for index in range(number)]
    assert [sorted(seed for shard in shards for seed in shard[group]) for group in range(2)] == [list(seeds)] * 2
    assert shards == [schedule.assign_shards(plan, seeds, IMAGE, (index, number)) for index in range(number)]
    if number <= len(seeds):  # a seed's groups stay with the teacher they share
        assert all(left == right for left, right in shards)


def test_assign_shards_balances_cost_up_to_one_block(plan):
    costs = (group.recipe.eval_steps[-1] * step_macs(group.recipe, group.knobs.size, IMAGE) for group in plan.groups)
    each = np.array(list(costs))
    for number, block in ((4, each.sum()), (9, each.sum()), (15, each.max()), (30, each.max())):
        amounts = [
            sum(
                each[group] * len(own)
                for group, own in enumerate(schedule.assign_shards(plan, range(10), IMAGE, (i, number)))
            )
            for i in range(number)
        ]
        assert max(amounts) - 10 * each.sum() / number <= block


def test_work_units_leave_out_what_is_done(plan):
    group = plan.groups[0]
    have = {(frozenset(label.items()), mark): {0, 1} for label in group.labels for mark in group.recipe.eval_steps}
    work = schedule.work_units(plan, range(3), IMAGE, ROOMY, done=have)
    assert {unit.group.indices[0]: unit.slice.seeds[: unit.slice.real] for unit in work} == {0: (2,), 3: (0, 1, 2)}
    have[frozenset(group.labels[0].items()), group.recipe.eval_steps[-1]] = {0}
    again = schedule.work_units(plan, range(3), IMAGE, ROOMY, done=have)
    assert {unit.slice.seeds[: unit.slice.real] for unit in again if unit.group.indices[0] == 0} == {(1, 2)}


def test_split_to_fit_gives_equal_parts_that_keep_their_labels(tiny):
    group = make_plan(tiny(conditions=("same", "random_hidden"), m=tuple(range(1, 16))), IMAGE).groups[0]
    parts = schedule.split_to_fit(group, IMAGE, ROOMY)
    assert [part.knobs.size for part in parts] == [10, 10, 10]
    assert [label for part in parts for label in part.labels] == list(group.labels)
    assert len({part.name for part in parts}) == 3
    for part in parts:
        for index, label in enumerate(part.labels):
            assert part.knobs.member(index).logit_mask[-group.recipe.net.aux :].sum() == label["m"]
    assert schedule.split_to_fit(group, IMAGE, ROOMY._replace(side_by_side=True)) == [group]


def test_work_units_fit_into_memory(plan):
    def seeds_and_conditions(gigabytes, **changes):
        limits = ROOMY._replace(memory_gb=gigabytes, **changes)
        work = schedule.work_units(plan, range(40), IMAGE, limits)
        return len(work[0].slice.seeds), max(unit.group.knobs.size for unit in work)

    assert seeds_and_conditions(64)[1] == 6
    least = max(total(group, 1) for group in plan.groups)
    found = [seeds_and_conditions(least + gb) for gb in (0.0002, 0.003, 0.01, 0.1)]
    assert found == sorted(found) and found[0][0] == 1 and found[0][1] < 6 and found[-1][0] > 1
    wide = seeds_and_conditions(0.03, side_by_side=True), seeds_and_conditions(1, side_by_side=True)
    assert wide[0] < wide[1] == (40, 6)
    with pytest.raises(ConfigError, match=r"^config.run.memory_gb=0.5: must be at least 1.41, what one student"):
        seeds_and_conditions(0.5)


def test_split_to_fit_counts_twins_once(tiny):
    """Conditions that differ in an idle head are one trained net: they need what it needs, not a share of it."""
    idle = ("same", "random_class_head")
    alone, twins = (make_plan(tiny(conditions=some, m=(10,)), IMAGE).groups[0] for some in (idle[:1], idle))
    assert (twins.knobs.size, twins.unique_knobs.size) == (2, 1)
    short = ROOMY._replace(memory_gb=total(alone, 1) - 0.001)
    for group in (alone, twins):
        with pytest.raises(ConfigError, match="what one student with its evaluation takes"):
            schedule.split_to_fit(group, IMAGE, short)
    group = make_plan(tiny(conditions=idle, m=(3, 5, 10)), IMAGE).groups[0]
    assert (group.knobs.size, group.unique_knobs.size) == (6, 3)
    for room in (1, 2, 3):
        limits = ROOMY._replace(memory_gb=total(group, room) + 0.001)
        parts = schedule.split_to_fit(group, IMAGE, limits)
        assert max(part.unique_knobs.size for part in parts) <= room
        assert [label for part in parts for label in part.labels] == list(group.labels)
    assert parts == [group]


def test_unpooled_maps_count_in_the_memory_of_accelerators(tiny):
    group = make_plan(tiny(conditions=("same",), m=(10,), **{"net.trunk": "cnn"}), IMAGE).groups[0]
    net, aside = group.recipe.net, ROOMY._replace(side_by_side=True)
    assert nets.unpooled(net, IMAGE) == 28 * 28 * 32 + 12 * 12 * 128
    assert nets.unpooled(net, IMAGE) > 3 * nets.activity(net, IMAGE)
    rows_aside, rows = (schedule._gigabytes(group, IMAGE, each, 1, 1)["num_eval_noise"] for each in (aside, ROOMY))
    assert rows_aside > 2 * rows
    perceptron = make_plan(tiny(conditions=("same",), m=(10,)), IMAGE).groups[0]
    assert nets.unpooled(perceptron.recipe.net, IMAGE) == 0


def test_work_units_of_a_wide_net_do_not_make_others_go_alone(tiny):
    """Each part of a plan has as many seeds at a time as fit for it, and a teacher's largest part comes first."""
    conditions = tiny(conditions=("random_hidden",), m=(3,))
    wide = tiny(conditions=("random_hidden",), m=(5,), **{"student.hidden": (6_000, 16)})
    plan = make_plan([*wide, *conditions], IMAGE)
    found = schedule.work_units(plan, tuple(range(8)), IMAGE, ResourceLimits(2.9, 100, 1, False))
    sizes = [[len(unit.slice.seeds) for unit in found if unit.group.indices == places] for places in ((0,), (1,))]
    assert sizes[1] == [8] and max(sizes[0]) < 8 and sum(sizes[0]) == 8
    assert found[0].group.indices == (1,)
