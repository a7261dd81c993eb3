"""One net, one phase: laws of the only training loop, exact where they are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.pairs import CAP, CLASSES, IMAGE, go, knobs_of, recipe_of, same

from sublim_jax.core import keys, trees
from sublim_jax.core.types import ImageData
from sublim_jax.nets import MLP, SplitHead
from sublim_jax.training import losses, streams
from sublim_jax.training import step as training_step


@pytest.fixture
def bank(mnist):
    return jax.tree.map(jnp.asarray, mnist.train)


@pytest.fixture
def pair():
    """A recipe, an origin and a reference whose auxiliary outputs differ from the origin's."""
    recipe = recipe_of()
    origin = training_step.init_params(recipe.net, recipe.init, IMAGE, keys.root(0))
    other = training_step.init_params(recipe.net, recipe.init, IMAGE, keys.root(1))
    reference = trees.merge_layers(other, {"aux_head": origin["aux_head"]})
    return recipe, origin, reference


def test_share_one_and_no_noise_is_the_origin_bitwise(pair):
    recipe, origin, _ = pair
    same(training_step.init_state(recipe, knobs_of(recipe.net), origin, IMAGE, keys.root(9)).params, origin)


def test_share_zero_is_a_fresh_draw_and_between_is_between(pair):
    recipe, origin, _ = pair
    fresh = training_step.init_state(recipe, knobs_of(recipe.net), None, IMAGE, keys.root(9)).params
    mixed = training_step.init_state(
        recipe, knobs_of(recipe.net, share={"hidden_0": 0.0, "aux_head": 0.25}), origin, IMAGE, keys.root(9)
    ).params
    same(mixed["hidden_0"], fresh["hidden_0"])
    same(mixed["hidden_1"], origin["hidden_1"])
    between = 0.25 * origin["aux_head"]["kernel"] + 0.75 * fresh["aux_head"]["kernel"]
    np.testing.assert_allclose(mixed["aux_head"]["kernel"], between, rtol=1e-6)


def test_sigma_is_the_standard_deviation_of_added_noise():
    net = SplitHead(MLP((256,)), CLASSES, 0)
    recipe = recipe_of(net=net, teacher=net)
    origin = training_step.init_params(net, recipe.init, IMAGE, keys.root(0))
    params = training_step.init_state(
        recipe, knobs_of(net, init_noise={"hidden_0": 0.3}), origin, IMAGE, keys.root(9)
    ).params
    same(params["class_head"], origin["class_head"])
    assert np.std(params["hidden_0"]["kernel"] - origin["hidden_0"]["kernel"]) == pytest.approx(0.3, rel=0.01)


def test_a_run_cut_in_pieces_is_the_whole_run_bitwise(pair, bank):
    recipe, origin, reference = pair
    knobs = knobs_of(recipe.net)
    begun = training_step.init_state(recipe, knobs, origin, IMAGE, keys.root(9))
    whole = go(recipe, begun, knobs, reference, bank, 0, 6)
    pieces = begun
    for start, stop in ((0, 1), (1, 4), (4, 4), (4, 6)):
        pieces = go(recipe, pieces, knobs, reference, bank, start, stop)
    same(whole, pieces)
    assert not np.array_equal(whole.params["hidden_0"]["kernel"], origin["hidden_0"]["kernel"])


def test_frozen_layers_do_not_move(pair, bank):
    recipe, origin, reference = pair
    knobs = knobs_of(recipe.net, trainable={"hidden_0": 0.0, "aux_head": 0.0})
    after = go(
        recipe, training_step.init_state(recipe, knobs, origin, IMAGE, keys.root(9)), knobs, reference, bank, 0, 6
    ).params
    for layer in ("hidden_0", "aux_head", "class_head"):  # the class head gets no gradient from auxiliary logits
        same(after[layer], origin[layer])
    assert not np.array_equal(after["hidden_1"]["kernel"], origin["hidden_1"]["kernel"])


def test_padding_columns_get_no_gradient_and_mask_is_slice(pair, bank):
    wide, origin, reference = pair
    narrow = recipe_of(cap=5)
    cut = jax.tree.map(lambda array: array[..., :5], {"aux_head": origin["aux_head"]})
    origin_5 = trees.merge_layers(origin, cut)
    reference_5 = trees.merge_layers(reference, cut)
    runs = []
    for recipe, theta, target in ((wide, origin, reference), (narrow, origin_5, reference_5)):
        knobs = knobs_of(recipe.net, m=5)
        runs.append(
            go(
                recipe, training_step.init_state(recipe, knobs, theta, IMAGE, keys.root(9)), knobs, target, bank, 0, 6
            ).params
        )
    same(
        jax.tree.map(lambda array: array[..., 5:], runs[0]["aux_head"]),
        jax.tree.map(lambda array: array[..., 5:], origin["aux_head"]),
    )
    for layer in ("hidden_0", "hidden_1"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), runs[0][layer], runs[1][layer])
    np.testing.assert_allclose(runs[0]["aux_head"]["kernel"][:, :5], runs[1]["aux_head"]["kernel"], atol=2e-6)


def test_a_student_agrees_with_plain_optax(pair, bank):
    """The second way: the textbook loop with optax.adam, no masks, no knobs."""
    recipe, origin, reference = pair
    knobs = knobs_of(recipe.net, m=CAP)
    ours = go(
        recipe, training_step.init_state(recipe, knobs, origin, IMAGE, keys.root(9)), knobs, reference, bank, 0, 6
    ).params

    tx = optax.adam(1e-2)
    params, opt = origin, tx.init(origin)
    for step in range(6):
        x = jax.random.uniform(keys.at(keys.root(4), "stream", jnp.int32(step)), (7, *IMAGE), minval=-1.0, maxval=1.0)
        target = recipe.net.apply({"params": reference}, x).acts["aux_head"]

        def loss(params, x=x, target=target):
            return jnp.mean((recipe.net.apply({"params": params}, x).acts["aux_head"] - target) ** 2)

        updates, opt = tx.update(jax.grad(loss)(params), opt, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours, params)


def test_a_teacher_weighs_a_partial_batch_by_its_rows(mnist):
    """10 images in batches of 6: the second batch is 4 real rows, and its loss is their mean."""
    whole = mnist.train
    bank = ImageData(*map(jnp.asarray, (whole.x[:10], whole.y[:10], whole.mean, whole.std)))
    net = SplitHead(MLP((12,)), CLASSES, 0)
    recipe = recipe_of(
        net=net,
        teacher=None,
        stream=streams.epochs,
        loss=losses.cross_entropy,
        batch=6,
        optimizer=optax.identity,
    )
    knobs = knobs_of(net, classes=True, lr=0.5)
    begun = training_step.init_state(recipe, knobs, None, IMAGE, keys.root(9))
    after = go(recipe, begun, knobs, None, bank, 1, 2).params

    batch, y = streams.epochs(keys.at(keys.root(4), "stream"), jnp.int32(1), 6, knobs, bank)
    images = np.asarray(streams.normalize_images(bank, bank.x))
    rows = [next(row for row in range(10) if np.array_equal(images[row], batch[i])) for i in range(4)]
    assert (np.asarray(y) >= 0).sum() == 4
    x = streams.normalize_images(bank, bank.x[jnp.array(rows)])

    def loss(params):
        logits = net.apply({"params": params}, x).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, bank.y[jnp.array(rows)]).mean()

    wanted = jax.tree.map(lambda w, g: w - 0.5 * g, begun.params, jax.grad(loss)(begun.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, wanted)


def test_noise_on_a_narrow_head_is_a_prefix_of_that_on_a_wide_one():
    key, sigma = keys.root(3), {"aux_head": jnp.float32(0.3)}
    wide, narrow = (
        training_step.add_noise({"aux_head": {"kernel": jnp.zeros((7, m)), "bias": jnp.zeros(m)}}, sigma, key)[
            "aux_head"
        ]
        for m in (5, 3)
    )
    same(narrow, {name: array[..., :3] for name, array in wide.items()})
