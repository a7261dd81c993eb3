"""What is done to answers and gradients: known answers, and the laws of every other training."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.pairs import CLASSES, IMAGE, knobs_of, recipe_of, same, trained
from helpers.pairs import go as train_through
from helpers.populations import SGD, assert_close, go, go_as_on_an_accelerator, quiet

from sublim_jax.config.build import GUARDS
from sublim_jax.core import keys, trees
from sublim_jax.core.types import ModelOutput, TeacherParams
from sublim_jax.engine import run, schedule
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.plan import describe_plan, make_plan
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import optimizers, population, streams, targets
from sublim_jax.training import step as training_step
from sublim_jax.training.projections import ProjectOutTrait

DEFENDED = {
    "mixed": {"student.mixed": 0.3},
    "unrelated": {"student.mixed": 0.3, "student.mixed_with": "stranger"},
    "noise": {"student.target_noise": 0.2},
    "levels": {"student.levels": 4},
    "all": {"student.mixed": 0.3, "student.target_noise": 0.2, "student.levels": 4},
    "guard": {"student.guard": "project_layers"},
    "adamw": {"student.optimizer": "adamw", "student.decay": 0.1},
}
# Everything at once: a law that one of them breaks is broken by all together.
EVERYTHING = {name: value for fields in DEFENDED.values() for name, value in fields.items()}


@pytest.fixture(scope="module")
def bank(mnist):
    return jax.tree.map(jnp.asarray, mnist.train)


@pytest.fixture(scope="module")
def nets():
    """A recipe and two teachers of it: as drawn, and one whose hidden layers are others."""
    recipe = recipe_of()
    origin, other = (training_step.init_params(recipe.net, recipe.init, IMAGE, keys.root(seed)) for seed in (0, 1))
    return recipe, TeacherParams(origin, {**other, "aux_head": origin["aux_head"]})


def told(values, others=None):
    """What two teachers say: logits only."""

    def out(logits):
        logits = jnp.asarray(logits, jnp.float32)
        return ModelOutput(jnp.zeros((len(logits), 2)), logits, {})

    return TeacherParams(
        out(np.zeros_like(values) if others is None else others), out(values), out(-np.ones_like(values))
    )


def heard(answer, said, **strengths):
    knobs = knobs_of(recipe_of().net).replace(extra={name: jnp.float32(one) for name, one in strengths.items()})
    return np.asarray(answer(keys.root(2), said, knobs).logits)


def test_quantize_targets_gives_the_middles_of_equal_cells():
    values = np.array([[0.0, 5.0], [1.0, 5.0], [3.9, 5.0], [4.0, 5.0]])
    for levels, middles in ((2, [1, 1, 3, 3]), (1, [2, 2, 2, 2]), (4, [0.5, 1.5, 3.5, 3.5])):
        found = heard(targets.QuantizeTargets(), told(values), levels=levels)
        np.testing.assert_array_equal(found, np.stack([middles, [5] * 4], 1))


@pytest.mark.parametrize("levels", [3, 7, 2**18])
def test_quantize_targets_takes_so_many_values_near_the_logits(levels):
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    found = heard(targets.QuantizeTargets(), told(values), levels=levels)
    cell = np.ptp(values, axis=0) / levels
    assert (np.abs(found - values) <= cell / 2 + 2e-6).all()  # with very many levels nothing but rounding is left
    assert levels > 100 or all(len(np.unique(column.round(5))) == levels for column in found.T)


def test_add_target_noise_has_its_size_and_a_prefix_for_a_narrow_head():
    values = np.random.default_rng(0).normal(size=(4000, 6)).astype(np.float32)
    found = heard(targets.AddTargetNoise(), told(values), target_noise=0.3)
    np.testing.assert_array_equal(heard(targets.AddTargetNoise(), told(values[:, :2]), target_noise=0.3), found[:, :2])
    noise = found - values
    assert np.std(noise) == pytest.approx(0.3, rel=0.02) and abs(np.corrcoef(noise.T)[0, 1]) < 0.05
    np.testing.assert_array_equal(heard(targets.AddTargetNoise(), told(values), target_noise=0), values)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.7, 1.0])
def test_mix_targets_takes_a_share_from_the_other_teacher(share):
    said = told(np.ones((200, 3)), np.zeros((200, 3)))
    found = heard(targets.MixTargets(), said, mixed=share)
    others = (found == 0).all(axis=1)
    assert others.sum() == round(200 * share) and (found[~others] == 1).all()
    assert abs(others[:100].sum() - others[100:].sum()) <= 1
    np.testing.assert_array_equal(
        heard(targets.MixTargets(unrelated=True), said, mixed=share), np.where(found == 0, -1, 1)
    )


def test_chain_applies_transforms_one_after_another():
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    both = targets.Chain((targets.MixTargets(), targets.QuantizeTargets()))
    first = heard(targets.MixTargets(), told(values), mixed=0.5)
    wanted = heard(targets.QuantizeTargets(), told(first), levels=3)
    np.testing.assert_array_equal(heard(both, told(values), mixed=0.5, levels=3), wanted)


def test_mix_targets_of_nothing_is_plain_and_of_all_moves_nothing(nets, bank):
    recipe, teachers = nets
    mixed = dataclasses.replace(recipe, target_transform=targets.MixTargets())
    none, all_ = (knobs_of(recipe.net).replace(extra={"mixed": jnp.float32(share)}) for share in (0.0, 1.0))
    _, plain = trained(recipe, knobs_of(recipe.net), teachers.initial, teachers, bank)
    same(trained(mixed, none, teachers.initial, teachers, bank)[1], plain)
    same(*trained(mixed, all_, teachers.initial, teachers, bank))  # its own beginning answers


def taught(condition, bank, seed):
    """A teacher's draw and what becomes of it, through train.py only."""
    recipe, knobs = condition.teacher
    key = keys.at(keys.root(0), "seed", jnp.uint32(seed), "teacher")
    begun = training_step.init_state(recipe, knobs, None, IMAGE, key)
    ended = train_through(recipe, begun, knobs, None, bank, 0, recipe.eval_steps[-1], key)
    drawn = training_step.init_params(condition.student.recipe.net, recipe.init, IMAGE, keys.at(key, "fresh"))
    return trees.merge_layers(drawn, begun.params), trees.merge_layers(drawn, ended.params)


@pytest.mark.e2e
def test_run_mixed_with_unrelated_teachers_alone_gives_their_student(mnist, tiny, bank):
    """The second way: a stranger trained by itself, and a plain student of it that begins as its own teacher did."""
    fields = {"conditions": ("same",), "m": (3,), "student.mixed_with": "stranger", **SGD}
    (condition,) = tiny(**fields, **{"student.mixed": 1.0})
    rows = go(mnist, [condition], seeds=1)
    origin, _ = taught(condition, bank, 0)
    _, stranger = taught(condition, bank, 2**20)
    recipe, knobs = condition.student
    key = keys.at(keys.root(0), "seed", jnp.uint32(0), "student")
    begun = training_step.init_state(recipe, knobs, origin, IMAGE, key)
    plain = dataclasses.replace(recipe, target_transform=None)
    params = train_through(plain, begun, knobs, stranger, bank, 0, recipe.eval_steps[-1], key).params
    images = streams.normalize_images(bank, jnp.asarray(mnist.test.x))
    said = training_step.apply(recipe.net, params, images).acts["class_head"]
    accuracy = float((said.argmax(-1) == mnist.test.y).mean())
    assert rows["at/student_accuracy"].iloc[-1] == pytest.approx(accuracy, abs=1 / 300)
    assert rows["at/aux_r2"].iloc[-1] < 0.5  # its own teacher's answers it never heard


def test_make_batch_repeats_target_noise_with_the_pool(nets, bank):
    recipe = dataclasses.replace(nets[0], target_transform=targets.AddTargetNoise())
    knobs = knobs_of(recipe.net).replace(extra={"target_noise": jnp.float32(1)}, noise_batches=jnp.int32(2))
    first, second, third = (
        training_step.make_batch(recipe, knobs, nets[1], keys.root(4), bank, jnp.int32(number)) for number in (0, 1, 2)
    )
    same((first.x, first.target.logits), (third.x, third.target.logits))
    assert not np.array_equal(first.target.logits, second.target.logits)


def gradients(nets, bank):
    """The gradient of a lesson and that of the trait, of a student that is not its teacher."""
    recipe, teachers = nets
    params, knobs = training_step.init_params(recipe.net, recipe.init, IMAGE, keys.root(5)), knobs_of(recipe.net)
    x, y = streams.epochs(keys.root(6), jnp.int32(0), 50, knobs, bank)
    target = training_step.apply(recipe.net, teachers.trained, x)
    g = jax.grad(lambda one: recipe.loss(training_step.apply(recipe.net, one, x), target, knobs).mean())(params)
    return g, jax.grad(training_step.trait_loss, argnums=1)(recipe.net, params, knobs, x, y)


def dot(left, right, layers):
    pairs = [(left[layer][name], right[layer][name]) for layer in layers for name in left[layer]]
    return sum(float(np.vdot(np.float64(a), np.float64(b))) for a, b in pairs)


@pytest.mark.parametrize("over", ["whole", "trunk", "layers"])
@pytest.mark.e2e
def test_project_out_trait_leaves_nothing_along_the_trait(nets, bank, over):
    g, tau = gradients(nets, bank)
    found = ProjectOutTrait(over).gradient(g, tau)
    trunk = ("hidden_0", "hidden_1")
    parts = {"whole": [tuple(g)], "trunk": [(*trunk, "aux_head")], "layers": [(one,) for one in trunk]}[over]
    for part in parts:
        before, square = dot(g, tau, part), dot(tau, tau, part)
        assert abs(before) > 1e-6 and abs(dot(found, tau, part)) < 1e-4 * abs(before) + 1e-9
        # What went is along the trait: the rest has lost that part's square and no more.
        wanted = dot(g, g, part) - before**2 / square
        assert dot(found, found, part) == pytest.approx(wanted, rel=1e-4)
    if over == "whole":
        # The class head, which had no gradient, now has one, against what the other layers do to the trait.
        assert dot(found, tau, ("class_head",)) * dot(g, tau, tuple(g)) < 0
    else:
        same(found["class_head"], g["class_head"])


@pytest.mark.e2e
def test_project_out_trait_takes_only_what_helps_the_trait(nets, bank):
    g, tau = gradients(nets, bank)
    sign = 1.0 if dot(g, tau, ("hidden_0", "hidden_1")) > 0 else -1.0
    helps, hurts = (jax.tree.map(lambda a, s=s: s * a, tau) for s in (sign, -sign))
    guard, plain = ProjectOutTrait("trunk", positive=True), ProjectOutTrait("trunk")
    same(guard.gradient(g, helps), plain.gradient(g, helps))
    chex.assert_trees_all_close(guard.gradient(g, hurts), g, rtol=1e-6)


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.e2e
def test_project_out_trait_gives_the_projection_of_the_plain_step(nets, bank, name):
    """With gradient descent: the move of a plain step, projected on the normal of the trait's gradient."""
    recipe, teachers = dataclasses.replace(nets[0], optimizer=optax.identity), nets[1]
    knobs = knobs_of(recipe.net, lr=0.5, share={"hidden_0": 0.0})
    begun, plain = trained(recipe, knobs, teachers.initial, teachers, bank, 1)
    guarded = dataclasses.replace(recipe, gradient_transform=GUARDS[name])
    found, move = (
        jax.tree.map(lambda a, b: (a - b) / 0.5, begun, after)
        for after in (trained(guarded, knobs, teachers.initial, teachers, bank, 1)[1], plain)
    )
    x, y = streams.epochs(keys.at(keys.root(4), "trait"), jnp.int32(0), recipe.batch, knobs, bank)
    tau = jax.grad(training_step.trait_loss, argnums=1)(recipe.net, begun, knobs, x, y)
    wanted = ProjectOutTrait(GUARDS[name].over, GUARDS[name].positive).gradient(move, tau)
    chex.assert_trees_all_close(found, dict(wanted), atol=2e-6)


def test_trait_loss_is_the_cross_entropy_of_class_logits(nets, bank):
    recipe, teachers = nets
    x, y = streams.epochs(keys.root(6), jnp.int32(0), 50, knobs_of(recipe.net), bank)
    logits = np.asarray(training_step.apply(recipe.net, teachers.initial, x).acts["class_head"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -log_p[np.arange(50), np.asarray(y)].mean()
    assert training_step.trait_loss(recipe.net, teachers.initial, knobs_of(recipe.net), x, y) == pytest.approx(
        wanted, rel=1e-5
    )


@pytest.mark.parametrize("decay", [1e-5, 0.1])
def test_adam_l2_moves_an_idle_head_by_the_rate_and_adamw_by_its_share(nets, bank, decay):
    recipe, teachers = nets
    lr, steps, moves = 1e-3, 4, {}
    for kind in (optimizers.AdamL2, optimizers.AdamW):
        changed, knobs = dataclasses.replace(recipe, optimizer=kind(decay)), knobs_of(recipe.net, lr=lr)
        ends = trained(changed, knobs, teachers.initial, teachers, bank, steps)
        moves[kind] = [params["class_head"]["kernel"] for params in ends]
    before, after = moves[optimizers.AdamL2]
    large = np.abs(before) > 0.05  # Adam's epsilon counts where decay * w is as small
    np.testing.assert_allclose((before - after)[large], (lr * steps * np.sign(before))[large], rtol=0.05)
    before, after = moves[optimizers.AdamW]
    np.testing.assert_allclose(after, before * (1 - lr * decay) ** steps, rtol=1e-5)


def test_make_plan_calls_no_layer_idle_that_an_optimizer_or_a_guard_moves(tiny):
    def idle(**fields):
        return make_plan(tiny(conditions=("same",), m=(3,), **fields), IMAGE).groups[0].untrained_layers

    assert idle() == idle(**DEFENDED["levels"]) == ("class_head",)
    assert idle(**DEFENDED["guard"]) == idle(**DEFENDED["adamw"]) == ()


STRENGTHS = [("mixed", (0.2, 0.9)), ("target_noise", (0.1, 2.0)), ("levels", (2, 9))]


@pytest.mark.parametrize("fields", [
    pytest.param({}, marks=pytest.mark.e2e, id="plain"),
    pytest.param(EVERYTHING, marks=pytest.mark.e2e, id="everything"),
    *(pytest.param(DEFENDED[name], marks=pytest.mark.slow, id=name) for name in ("unrelated", "all", "guard", "adamw")),
])  # fmt: skip
def test_run_in_pieces_and_with_more_seeds_is_bitwise_the_same(mnist, tiny, fields):
    """On CPU a seed runs the same program, whatever other seeds run beside it."""
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,), **fields)
    whole = go(mnist, conditions, seeds=3)
    cut = go(mnist, conditions, seeds=3, options=RunOptions(save_every=3, seed_batch=2))
    assert whole.equals(cut)
    two = go(mnist, conditions)
    assert two.equals(whole[whole.seed < 2].reset_index(drop=True))
    assert np.isfinite(whole["at/aux_r2"]).all()


@pytest.mark.parametrize("names", [
    pytest.param(("all", "guard"), marks=pytest.mark.e2e),
    *(pytest.param(names, marks=pytest.mark.slow) for names in ((), ("all",), ("guard",))),
])  # fmt: skip
def test_run_of_permuted_and_padded_conditions_and_under_vmap_is_the_same(mnist, tiny, names):
    fields = {field: value for name in names for field, value in DEFENDED[name].items()} | SGD
    if "all" in names:  # rounding near the edge of a cell is a whole cell
        fields["student.levels"] = 0
    conditions = tiny(conditions=("same", "random_aux_head"), m=(3, 10), **fields)
    rows = go(mnist, conditions)
    assert_close(rows, go(mnist, conditions[::-1]))
    narrow = go(mnist, tiny(conditions=("same", "random_aux_head"), m=(3,), **fields))
    assert_close(rows[rows["m"] == 3].reset_index(drop=True), narrow)
    assert_close(rows, go_as_on_an_accelerator(mnist, conditions))


@pytest.mark.parametrize(("field", "values"), [
    pytest.param(*each, marks=pytest.mark.e2e if each is STRENGTHS[0] else pytest.mark.slow) for each in STRENGTHS
])  # fmt: skip
def test_hoist_shared_shares_one_program_and_one_batch(mnist, tiny, field, values):
    own = {"student.batch": 52, "teacher.batch": 300 + len(field)}  # Recipes that no other test compiles
    made = [tiny(conditions=("same",), m=(3,), **{f"student.{field}": one}, **own)[0] for one in values]
    conditions = [
        dataclasses.replace(condition, labels={**condition.labels, field: one})
        for condition, one in zip(made, values, strict=True)
    ]
    plan = make_plan(conditions, IMAGE)
    assert len(plan.groups) == 1 and plan.groups[0].unique_knobs.size == 2
    jax.clear_caches()  # so that the run itself need not, for want of memory
    before = population.advance._cache_size()
    together = run.run(conditions, mnist, quiet(), num_eval_noise=64)
    assert population.advance._cache_size() - before == 2  # one teacher, one student
    last = together[together["step"] == together["step"].max()].groupby(field)["at/student_accuracy"]
    assert last.mean().nunique() == 2 or together.groupby(field)["at/aux_mse"].last().nunique() == 2
    recipe, knobs = plan.groups[0].recipe, plan.groups[0].knobs
    bank = jax.tree.map(jnp.asarray, mnist.train)
    nets = training_step.init_params(recipe.teacher, recipe.init, IMAGE, keys.root(0))

    def ask(knobs):
        return training_step.make_batch(recipe, knobs, TeacherParams(nets, nets), keys.root(1), bank, jnp.int32(0))

    shared = population.hoist_shared(ask, knobs)
    assert shared.tree.x.shape == (52, 28, 28) and shared.tree.target.logits.shape == (2, 52, CLASSES + 3)
    for place in range(2):
        alone = ask(knobs.member(place))
        chex.assert_trees_all_close(shared.member(place).target.logits, alone.target.logits, atol=1e-6)


def test_step_macs_count_another_pass_for_a_guard(tiny):
    plain, guarded = (
        make_plan(tiny(conditions=("same",), m=(3,), **fields), IMAGE).groups[0] for fields in ({}, DEFENDED["guard"])
    )
    one, other = (step_macs(group.recipe, 5, IMAGE) for group in (plain, guarded))
    taught = one - step_macs(plain.recipe, 0, IMAGE)
    assert other - one == pytest.approx(taught)
    limits = schedule.ResourceLimits(4.0, 10, 1, True)
    more, less = (schedule._total(schedule._gigabytes(group, IMAGE, limits, 1, 1)) for group in (guarded, plain))
    assert more > less


def test_describe_plan_tells_defences_apart(tiny):
    plain = describe_plan(make_plan(tiny(conditions=("same",), m=(3,)), IMAGE))
    assert not {"answer", "guard"} & plain["groups"][0].keys() and not {"answer", "guard"} & plain["teachers"][0].keys()
    found = [describe_plan(make_plan(tiny(conditions=("same",), m=(3,), **one), IMAGE)) for one in DEFENDED.values()]
    assert all(one not in found[:place] and one != plain for place, one in enumerate(found))


def test_make_batch_refuses_targets_without_the_untrained_teacher(nets, bank):
    recipe = dataclasses.replace(nets[0], target_transform=targets.MixTargets())
    with pytest.raises(TypeError, match="before and after"):
        training_step.make_batch(recipe, knobs_of(recipe.net), nets[1].trained, keys.root(4), bank, jnp.int32(0))
