"""One net, one phase: laws of the only training loop, exact where they are exact."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.pairs import CAP, CLASSES, IMAGE, go, knobs_of, recipe_of, same, trained

from sublim_jax.core import keys, trees
from sublim_jax.core.types import ImageData
from sublim_jax.nets import MLP, SplitHead
from sublim_jax.training import losses, streams
from sublim_jax.training.step import add_noise, init_params, init_state


@pytest.fixture(scope="module")
def bank(mnist):
    return jax.tree.map(jnp.asarray, mnist.train)


@pytest.fixture(scope="module")
def pair():
    """A recipe, an origin and a reference whose auxiliary outputs differ from the origin's."""
    recipe = recipe_of()
    origin, other = (init_params(recipe.net, recipe.init, IMAGE, keys.root(seed)) for seed in (0, 1))
    return recipe, origin, trees.merge_layers(other, {"aux_head": origin["aux_head"]})


def begin(recipe, origin, **fields):
    return init_state(recipe, knobs_of(recipe.net, **fields), origin, IMAGE, keys.root(9)).params


def test_init_state_keeps_the_origin_draws_anew_and_interpolates(pair):
    recipe, origin, _ = pair
    same(begin(recipe, origin), origin)
    fresh, mixed = begin(recipe, None), begin(recipe, origin, share={"hidden_0": 0.0, "aux_head": 0.25})
    same(mixed["hidden_0"], fresh["hidden_0"])
    same(mixed["hidden_1"], origin["hidden_1"])
    between = 0.25 * origin["aux_head"]["kernel"] + 0.75 * fresh["aux_head"]["kernel"]
    np.testing.assert_allclose(mixed["aux_head"]["kernel"], between, rtol=1e-6)


def test_init_state_adds_noise_of_the_given_standard_deviation():
    net = SplitHead(MLP((256,)), CLASSES, 0)
    recipe = recipe_of(net=net, teacher=net)
    origin = init_params(net, recipe.init, IMAGE, keys.root(0))
    params = begin(recipe, origin, init_noise={"hidden_0": 0.3})
    same(params["class_head"], origin["class_head"])
    assert np.std(params["hidden_0"]["kernel"] - origin["hidden_0"]["kernel"]) == pytest.approx(0.3, rel=0.01)


def test_advance_in_pieces_is_the_whole_run_bitwise(pair, bank):
    recipe, origin, reference = pair
    knobs = knobs_of(recipe.net)
    begun = pieces = init_state(recipe, knobs, origin, IMAGE, keys.root(9))
    whole = go(recipe, begun, knobs, reference, bank, 0, 6)
    for start, stop in ((0, 1), (1, 4), (4, 4), (4, 6)):
        pieces = go(recipe, pieces, knobs, reference, bank, start, stop)
    same(whole, pieces)
    assert not np.array_equal(whole.params["hidden_0"]["kernel"], origin["hidden_0"]["kernel"])


def test_advance_leaves_frozen_layers_alone(pair, bank):
    recipe, origin, reference = pair
    knobs = knobs_of(recipe.net, trainable={"hidden_0": 0.0, "aux_head": 0.0})
    after = trained(recipe, knobs, origin, reference, bank)[1]
    for layer in ("hidden_0", "aux_head", "class_head"):  # the class head gets no gradient from auxiliary logits
        same(after[layer], origin[layer])
    assert not np.array_equal(after["hidden_1"]["kernel"], origin["hidden_1"]["kernel"])


def test_advance_gives_padding_columns_no_gradient(pair, bank):
    """A mask over a wide auxiliary head trains as a head of that width."""
    recipe, origin, reference = pair
    narrow = [{**net, "aux_head": jax.tree.map(lambda a: a[..., :5], net["aux_head"])} for net in (origin, reference)]
    after = trained(recipe, knobs_of(recipe.net, m=5), origin, reference, bank)[1]
    wanted = trained(recipe_of(cap=5), knobs_of(recipe_of(cap=5).net, m=5), narrow[0], narrow[1], bank)[1]
    for name, array in after["aux_head"].items():
        same(array[..., 5:], origin["aux_head"][name][..., 5:])
    after["aux_head"] = jax.tree.map(lambda array: array[..., :5], after["aux_head"])
    chex.assert_trees_all_close(after, wanted, rtol=1e-7, atol=2e-6)


def test_advance_agrees_with_plain_optax(pair, bank):
    """The textbook loop with optax.adam, no masks, no knobs."""
    recipe, origin, reference = pair
    ours = trained(recipe, knobs_of(recipe.net, m=CAP), origin, reference, bank)[1]
    tx = optax.adam(1e-2)

    @jax.jit
    def step(number, params, opt):
        x = jax.random.uniform(keys.at(keys.root(4), "stream", number), (7, *IMAGE), minval=-1.0, maxval=1.0)
        target = recipe.net.apply({"params": reference}, x).acts["aux_head"]

        def loss(params):
            return jnp.mean((recipe.net.apply({"params": params}, x).acts["aux_head"] - target) ** 2)

        updates, opt = tx.update(jax.grad(loss)(params), opt, params)
        return optax.apply_updates(params, updates), opt

    params, opt = origin, tx.init(origin)
    for number in range(6):
        params, opt = step(jnp.int32(number), params, opt)
    chex.assert_trees_all_close(ours, dict(params), rtol=1e-7, atol=2e-6)


def test_advance_weighs_a_partial_batch_by_its_rows(mnist):
    """10 images in batches of 6: the second batch is 4 real rows, and its loss is their mean."""
    whole = mnist.train
    bank = ImageData(*map(jnp.asarray, (whole.x[:10], whole.y[:10], whole.mean, whole.std)))
    net = SplitHead(MLP((12,)), CLASSES, 0)
    changes = {"stream": streams.epochs, "loss": losses.cross_entropy, "optimizer": optax.identity}
    recipe = recipe_of(net=net, teacher=None, batch=6, **changes)
    knobs = knobs_of(net, classes=True, lr=0.5)
    begun = init_state(recipe, knobs, None, IMAGE, keys.root(9))
    after = go(recipe, begun, knobs, None, bank, 1, 2).params

    batch, y = streams.epochs(keys.at(keys.root(4), "stream"), jnp.int32(1), 6, knobs, bank)
    images = np.asarray(streams.normalize_images(bank, bank.x))
    rows = [next(row for row in range(10) if np.array_equal(images[row], batch[i])) for i in range(4)]
    assert (np.asarray(y) >= 0).sum() == 4

    def loss(params):
        logits = net.apply({"params": params}, images[rows]).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, bank.y[jnp.array(rows)]).mean()

    wanted = jax.tree.map(lambda w, g: w - 0.5 * g, begun.params, jax.grad(loss)(begun.params))
    chex.assert_trees_all_close(after, dict(wanted), rtol=1e-7, atol=1e-6)


def test_add_noise_to_a_narrow_head_is_a_prefix_of_that_to_a_wide_one():
    key, sigma = keys.root(3), {"aux_head": jnp.float32(0.3)}
    heads = [{"aux_head": {"kernel": jnp.zeros((7, m)), "bias": jnp.zeros(m)}} for m in (5, 3)]
    wide, narrow = (add_noise(head, sigma, key)["aux_head"] for head in heads)
    same(narrow, {name: array[..., :3] for name, array in wide.items()})
