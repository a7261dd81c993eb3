"""Training of language models: layers that learn, pieces of a run, members beside each other, and origins of bases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.language import HOW, LAB, NET, WORLD, base, moved

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.documents import corpus
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.training import MemberBatch
from sublim_jax.nets import shapes
from sublim_jax.training import population


@functools.cache
def documents():
    return corpus(WORLD, 24, seed=1)


def arrays_of(params, layers):
    return {(layer, name) for layer in layers for name in params[layer]}


def school(trains="all", net=NET, **options):
    """One member that begins at the base."""
    options = {"batch": 8, "eval_steps": (3,)} | options
    phase = lm_training.phase(net, lr=1e-2, trains=trains, **options)
    return MemberBatch(phase.recipe, [phase.knobs], [base()], [(keys.root(1), keys.root(2))], [documents()])


TRAINS = {
    "all": ("embed", "block_0", "block_1", "norm", "unembed"),
    "blocks": ("block_0", "block_1"),
    "embeddings": ("embed", "unembed"),
    "block_0": ("block_0",),
    "block_1": ("block_1",),
    "first_1": ("block_0",),
    "first_2": ("block_0", "block_1"),
    "last_1": ("block_1",),
    "last_2": ("block_0", "block_1"),
}


@functools.cache
def first_steps(trains, steps):
    one = school(trains=trains)
    return one.advance(one.begin(), 0, steps)[0].params


@pytest.mark.parametrize("trains", TRAINS)
@pytest.mark.e2e
def test_phase_moves_the_layers_it_names_and_no_others(trains):
    assert moved(first_steps(trains, 3), base()) == arrays_of(base(), TRAINS[trains])
    # The first step sees the same gradient whoever moves by it: what moves, moves as if all did.
    one, all_ = first_steps(trains, 1), first_steps("all", 1)
    assert not any(moved({layer: one[layer]}, {layer: all_[layer]}) for layer in TRAINS[trains])


@pytest.mark.e2e
def test_phase_of_adapters_moves_them_alone_from_no_change():
    one = school(trains="adapters", net=NET.clone(rank=2))
    before = one.begin()[0].params
    adapters = ("adapter_0", "adapter_1")
    assert not moved({layer: before[layer] for layer in base()}, base())
    assert {name for layer in adapters for name in before[layer] if not np.any(before[layer][name])} == {
        name for name in before["adapter_0"] if name.endswith("_up")
    }
    ends = [one.advance(one.begin(), 0, steps)[0].params for steps in (1, 3)]
    ups = {(layer, name) for layer, name in arrays_of(before, adapters) if name.endswith("_up")}
    assert moved(ends[0], before) == ups  # while these are zero, nothing pulls at the others
    assert moved(ends[1], before) == arrays_of(before, adapters)
    several = school(trains="all", net=NET.clone(rank=2))
    end = several.advance(several.begin(), 0, 1)[0].params
    assert moved(end, before) == arrays_of(base(), TRAINS["all"])  # adapters learn where they are named only


@pytest.mark.parametrize("trains", ["block_2", "nonsense", "first_0", "last_0", "block_", "all_1", "embed", ""])
def test_trained_layers_refuses_layers_that_are_not_there(trains):
    with pytest.raises(ConfigError, match=rf"^config.lm.trains: {trains!r} is none of all, blocks, .*block_1"):
        lm_training.trained_layers(list(shapes(NET, (w.LENGTH,))), trains)
    with pytest.raises(ConfigError, match="adapters"):
        lm_training.trained_layers(list(shapes(NET, (w.LENGTH,))), "adapters")  # of a net without rank


@pytest.mark.e2e
def test_member_batch_in_pieces_is_the_whole_run_and_its_rate_falls_to_zero():
    one = school(decays=True, eval_steps=(5,), batch=10)  # 24 lines: epochs end inside
    whole, cut = one.advance(one.begin(), 0, 5), one.begin()
    for start, stop in ((0, 1), (1, 1), (1, 4), (4, 5)):
        cut = one.advance(cut, start, stop)
    jax.tree.map(np.testing.assert_array_equal, cut[0], whole[0])
    after = one.advance(whole, 5, 6)[0].params
    largest = max(
        np.abs(after[layer][name] - array).max() for layer in after for name, array in whole[0].params[layer].items()
    )
    assert largest < 1e-5 * 1e-2  # of the first rate; XLA divides by a product with the inverse, so not quite 0
    assert moved(whole[0].params, base()) == arrays_of(base(), TRAINS["all"])


@dataclasses.dataclass(frozen=True)
class Sum:
    """A member of two arguments, one of them a tree, with a key."""

    factor: float

    def __call__(self, number, tree, key):
        return {"sum": self.factor * number + tree["x"].sum(), "drawn": jax.random.bits(key, (2,))}


@pytest.mark.parametrize("wide", [False, True])
def test_map_members_keeps_the_order_and_loses_no_member(wide, monkeypatch):
    monkeypatch.setattr(population, "use_vmap", lambda: wide)
    members = [(np.float32(i), {"x": jnp.full(3 + i % 2, float(i))}, keys.root(i)) for i in range(5)]  # two shapes
    sums = [i * (3 + i % 2) for i in range(5)]
    for at_once in (1, 2, 3, 5, 256):  # 5 members in twos: the last call is filled up
        found = map_members(Sum(2.0), members, at_once)
        assert [float(one["sum"]) for one in found] == [2.0 * i + sums[i] for i in range(5)]
        for i, one in enumerate(found):
            np.testing.assert_array_equal(one["drawn"], jax.random.bits(keys.root(i), (2,)))
    assert map_members(Sum(2.0), []) == []
    assert [float(one["sum"]) for one in map_members(Sum(-1.0), members)] == [sums[i] - i for i in range(5)]


def test_base_seeds_name_a_base():
    assert [lm_training.base_seeds(kind, 3) for kind in lm_training.KINDS] == [
        (3, 3),
        (3, 100003),
        (100003, 3),
        (100003, 100003),
    ]
    with pytest.raises(ConfigError, match=r"config.lm.base: 'smae' is none of same, .*did you mean 'same'"):
        lm_training.base_seeds("smae", 0)


@pytest.mark.e2e
def test_pretrain_depends_on_the_two_seeds_of_a_base_only():
    origins = [lm_training.base_seeds(kind, 0) for kind in lm_training.KINDS]
    again = lm_training.pretrain(WORLD, NET, HOW, LAB.root, [(1, 1), *origins])
    assert not moved(again[1], base()) and not moved(again[2], base("other_order"))  # whoever is made beside it
    assert all(moved(again[left], again[right]) for left in range(5) for right in range(left))
    still = dataclasses.replace(HOW, lr=0.0, steps=1)  # a base that has read and not moved: its initial weights
    same, order, init, both = lm_training.pretrain(WORLD, NET, still, LAB.root, origins)
    assert not moved(same, order) and not moved(init, both)
    drawn = arrays_of(same, ("embed", "block_0", "block_1", "unembed"))
    assert moved(same, init) == {(layer, name) for layer, name in drawn if not name.endswith("_scale")}
    other = lm_training.pretrain(WORLD, NET, still, keys.root(1), origins[:1])[0]
    assert moved(same, other)
