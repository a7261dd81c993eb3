"""Laws of the decoder: who can see whom, rotary positions, shared heads, adapters, taps, and what is drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.nets import Decoder, decoder, shapes
from sublim_jax.training import inits

WIDTH, LENGTH, VOCABULARY = 16, 6, 30
NET = Decoder(VOCABULARY, width=WIDTH, layers=2, heads=4, hidden=20, length=8)
GPT: dict = {}
NEOX = {"positions": "rotary", "rotary": 0.5, "norm": "layer", "parallel": True, "bias": True}
LLAMA = {"positions": "rotary_pairs", "mlp": "swiglu", "kv_heads": 2}
KINDS = pytest.mark.parametrize("kind", [GPT, NEOX, LLAMA], ids=("gpt", "neox", "llama"))
LINES = jnp.arange(1, 2 * LENGTH + 1).reshape(2, LENGTH)  # no token twice


def params_of(net, seed=0):
    """Parameters of no particular law, gains, shifts and biases too; zero only where an adapter begins."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("_up"):
            return jnp.zeros(shape)
        x = rng.normal(size=shape, scale=0.3 if len(shape) == 1 else shape[0] ** -0.5)
        return jnp.asarray(x + name.endswith("scale"), jnp.float32)

    arrays = shapes(net, (LENGTH,))
    return {layer: {name: draw(name, x.shape) for name, x in ones.items()} for layer, ones in arrays.items()}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def said(net, params, taps=None, lines=LINES):
    return net.apply({"params": params}, lines, taps)


def replaced(params, layer, **arrays):
    return {**params, layer: {**params[layer], **arrays}}


def table(slopes):
    """[2 lines, LENGTH] x [2 lines, LENGTH]: the largest slope of what is said there by what is put in here."""
    return np.abs(np.asarray(slopes)).max(-1).reshape(2 * LENGTH, 2 * LENGTH)


# A place sees its own line up to itself.
SEEN = np.kron(np.eye(2, dtype=bool), np.tril(np.ones((LENGTH, LENGTH), bool)))


@KINDS
def test_a_place_hears_its_own_line_up_to_itself_and_nothing_else(kind):
    net = dataclasses.replace(NET, **kind)
    params, still = params_of(net), jnp.zeros((2, LENGTH, WIDTH))
    probe = normal(9, VOCABULARY)

    def of(taps, embed):
        return said(net, {**params, "embed": embed}, taps).logits @ probe

    taps, embed = jax.jit(jax.jacrev(of, (0, 1)))({"block_0": still, "block_1": still}, params["embed"])
    np.testing.assert_array_equal(table(taps["block_0"]) != 0, SEEN)
    np.testing.assert_array_equal(table(taps["block_1"]) != 0, np.eye(2 * LENGTH, dtype=bool))  # no block is left
    np.testing.assert_array_equal(table(embed["tokens"][:, :, np.ravel(LINES)]) != 0, SEEN)
    if not kind:  # learned positions are heard from their place on, in every line
        places = np.abs(embed["positions"]).max(-1) != 0
        np.testing.assert_array_equal(places, np.tile(np.tril(np.ones((LENGTH, 8), bool)), (2, 1, 1)))


def test_attention_is_the_softmax_of_scaled_products_head_by_head():
    block = decoder.Block(**{name: getattr(NET, name) for name in decoder._OF_A_BLOCK})
    query, key, value = np.asarray(2 * normal(2, 3, 1, LENGTH, WIDTH), np.float64)
    expected = np.zeros((LENGTH, WIDTH))
    for head in range(4):
        own = slice(4 * head, 4 * head + 4)
        for place in range(LENGTH):
            weight = np.exp(key[0, : place + 1, own] @ query[0, place, own] / 2)  # the root of 4 components
            expected[place, own] = weight @ value[0, : place + 1, own] / weight.sum()
    got = decoder.attend(block, *(jnp.asarray(x, jnp.float32) for x in (query, key, value)))
    np.testing.assert_allclose(got[0], expected, atol=2e-6)


def test_a_parallel_block_adds_what_its_halves_add_and_a_serial_one_does_not():
    for parallel in (True, False):
        net = dataclasses.replace(NET, layers=1, parallel=parallel)
        params = params_of(net)
        silent = {"down": jnp.zeros((20, WIDTH)), "out": jnp.zeros((WIDTH, WIDTH))}
        whole, attended, thought, still = (
            np.asarray(said(net, replaced(params, "block_0", **{name: silent[name] for name in names})).acts["block_0"])
            for names in ((), ("down",), ("out",), ("down", "out"))
        )
        gap = np.abs(whole - (attended + thought - still)).max()
        assert gap < 1e-6 if parallel else gap > 1e-2


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_normalised_stream_through_the_unembedding(tied):
    net = dataclasses.replace(NET, tied=tied)
    params = params_of(net)
    out = said(net, params)
    stream = np.asarray(out.acts["block_1"], np.float64)
    features = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(params["norm"]["scale"])
    np.testing.assert_allclose(out.features, features, atol=1e-5)
    assert ("unembed" in params) != tied
    kernel = params["embed"]["tokens"].T if tied else params["unembed"]["kernel"]
    np.testing.assert_allclose(out.logits, features @ np.asarray(kernel, np.float64), atol=2e-5)


def test_layer_norm_has_no_mean_and_unit_variance_before_its_gain():
    net = dataclasses.replace(NET, norm="layer")
    params = replaced(params_of(net), "norm", scale=jnp.ones(WIDTH), shift=jnp.zeros(WIDTH))
    features = np.asarray(said(net, params).features, np.float64)
    stream = np.asarray(said(net, params).acts["block_1"], np.float64)
    np.testing.assert_allclose(features.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose((features**2).mean(-1), stream.var(-1) / (stream.var(-1) + 1e-5), rtol=1e-5)
    shifted = said(net, replaced(params, "norm", shift=jnp.full(WIDTH, 2.0))).features
    np.testing.assert_allclose(shifted - features, 2, atol=1e-5)


PLACES = jnp.arange(40)[None]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_rotation_is_a_product_with_complex_numbers(pairs):
    x = normal(0, 2, 3, 40, 12)
    rates = decoder.wavelengths(8, 100.0)
    np.testing.assert_allclose(rates, [1, 100**-0.25, 0.1, 100**-0.75], rtol=1e-6)
    got = np.asarray(decoder.rotated(x, rates, PLACES, pairs))
    np.testing.assert_array_equal(got[..., 8:], x[..., 8:])  # the rest of a head is not rotated
    np.testing.assert_array_equal(got[:, :, 0], x[:, :, 0])  # nor is the first place
    left, right = (slice(0, 8, 2), slice(1, 8, 2)) if pairs else (slice(0, 4), slice(4, 8))
    turn = np.exp(1j * np.arange(40)[:, None] * np.asarray(rates, np.float64))
    expected = (np.asarray(x)[..., left] + 1j * np.asarray(x)[..., right]) * turn
    np.testing.assert_allclose(got[..., left], expected.real, atol=2e-5)
    np.testing.assert_allclose(got[..., right], expected.imag, atol=2e-5)


@pytest.mark.parametrize("positions", ["rotary", "rotary_pairs"])
def test_rotary_attention_does_not_know_where_a_line_begins(positions):
    fields = {name: getattr(dataclasses.replace(NET, positions=positions), name) for name in decoder._OF_A_BLOCK}
    block, seen = decoder.Block(**fields), jnp.tril(jnp.ones((1, LENGTH, LENGTH), bool))
    xs = tuple(normal(4, 3, 1, LENGTH, WIDTH))
    first, later = (
        decoder.weighed(block, *decoder.parts(block, *xs, jnp.arange(LENGTH)[None] + start), seen) for start in (0, 50)
    )
    np.testing.assert_allclose(first, later, atol=5e-6)
    spread = decoder.weighed(block, *decoder.parts(block, *xs, 3 * jnp.arange(LENGTH)[None]), seen)
    assert np.abs(spread - first).max() > 0.05


def test_pairs_are_halves_after_a_permutation():
    x = normal(0, 2, 3, 40, 10)
    order = np.array([0, 4, 1, 5, 2, 6, 3, 7, 8, 9])  # halves of 8 to pairs, two that are not rotated
    rates = decoder.wavelengths(8, 100.0)
    pairs, halves = decoder.rotated(x[..., order], rates, PLACES, True), decoder.rotated(x, rates, PLACES, False)
    np.testing.assert_array_equal(pairs, halves[..., order])
    net = dataclasses.replace(NET, positions="rotary")
    params, columns = params_of(net), np.arange(WIDTH).reshape(4, 4)[:, [0, 2, 1, 3]].ravel()
    turned = params
    for layer in ("block_0", "block_1"):
        matrices = {name: params[layer][name][:, columns] for name in ("query", "key")}
        turned = replaced(turned, layer, **matrices)
    other = dataclasses.replace(net, positions="rotary_pairs")
    np.testing.assert_allclose(said(other, turned).logits, said(net, params).logits, atol=2e-6)
    assert np.abs(said(other, params).logits - said(net, params).logits).max() > 1e-3


def test_stretched_wavelengths_keep_the_fast_and_slow_the_slow():
    """Llama 3.1's published numbers, against the rule written as its own code has it, by wavelength."""
    theta, factor, low, high, length = 500_000.0, 8.0, 1.0, 4.0, 8192.0
    plain = theta ** (-np.arange(0, 128, 2) / 128)
    expected = []
    for rate in plain:
        wave = 2 * np.pi / rate
        smooth = (length / wave - low) / (high - low)
        between = (1 - smooth) * rate / factor + smooth * rate
        expected.append(rate if wave < length / high else rate / factor if wave > length / low else between)
    got = decoder.wavelengths(128, theta, (factor, low, high, length))
    np.testing.assert_allclose(got, expected, rtol=2e-5)
    kept, slowed = np.isclose(expected, plain), np.isclose(expected, plain / 8)
    assert kept.sum() > 20 and slowed.sum() > 20 and (~kept & ~slowed).any()
    np.testing.assert_allclose(decoder.wavelengths(128, theta), plain, rtol=2e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads_are_repeated_keys_and_values(groups):
    net = dataclasses.replace(NET, **{**LLAMA, "kv_heads": groups, "bias": True})
    params = whole = params_of(net)
    for layer in ("block_0", "block_1"):
        assert params[layer]["key"].shape == params[layer]["value"].shape == (WIDTH, 4 * groups)
        ours = {name: np.asarray(params[layer][name]) for name in ("key", "value", "key_bias", "value_bias")}
        columns = np.repeat(np.arange(4 * groups).reshape(groups, 4), 4 // groups, axis=0).ravel()
        whole = replaced(whole, layer, **{name: jnp.asarray(x[..., columns]) for name, x in ours.items()})
    every = dataclasses.replace(net, kv_heads=0)
    np.testing.assert_allclose(said(every, whole).logits, said(net, params).logits, atol=2e-6)


@KINDS
def test_adapters_begin_as_no_change_to_the_bit(kind):
    net = dataclasses.replace(NET, **kind)
    low = dataclasses.replace(net, rank=3)
    params = params_of(low)
    assert set(params) - set(params_of(net)) == {"adapter_0", "adapter_1"}
    plain = {layer: arrays for layer, arrays in params.items() if not layer.startswith("adapter")}
    for ours, theirs in zip(jax.tree.leaves(said(low, params)), jax.tree.leaves(said(net, plain)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for layer in ("block_0", "block_1"):
        adapter = params[f"adapter_{layer[-1]}"]
        matrices = {name: x.shape for name, x in params[layer].items() if x.ndim == 2}
        expected = {f"{name}_down": (shape[0], 3) for name, shape in matrices.items()}
        expected |= {f"{name}_up": (3, shape[1]) for name, shape in matrices.items()}
        assert {name: x.shape for name, x in adapter.items()} == expected  # one for every matrix


NAMES = ("query", "key", "value", "out", "gate", "up", "down")


def test_an_adapter_is_the_matrix_with_its_product_added():
    net = dataclasses.replace(NET, **LLAMA)
    low = dataclasses.replace(net, rank=3)
    params = params_of(low)
    plain = {layer: arrays for layer, arrays in params.items() if not layer.startswith("adapter")}
    adapted, whole = (jax.jit(lambda params, net=net: said(net, params).logits) for net in (low, net))
    before = whole(plain)
    for names in (*((name,) for name in NAMES), NAMES):
        ups = {f"{name}_up": normal(1, *params["adapter_1"][f"{name}_up"].shape) for name in names}
        merged = {
            name: plain["block_1"][name] + params["adapter_1"][f"{name}_down"] @ ups[f"{name}_up"] for name in names
        }
        got, expected = adapted(replaced(params, "adapter_1", **ups)), whole(replaced(plain, "block_1", **merged))
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=str(names))
        assert np.abs(got - before).max() > 1e-2, names


@KINDS
def test_a_tap_adds_to_the_stream_after_its_block_and_zeros_are_nothing(kind):
    net = dataclasses.replace(NET, **kind, layers=3)
    params, tap = params_of(net), normal(3, 1, 1, WIDTH)
    plain = said(net, params)
    still = said(net, params, {f"block_{index}": jnp.zeros((1, 1, WIDTH)) for index in range(3)})
    for ours, theirs in zip(jax.tree.leaves(still), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    steered = said(net, params, {"block_1": tap})
    np.testing.assert_array_equal(steered.acts["block_0"], plain.acts["block_0"])
    np.testing.assert_array_equal(steered.acts["block_1"], plain.acts["block_1"] + tap)
    assert np.abs(steered.acts["block_2"] - (plain.acts["block_2"] + tap)).max() > 1e-3  # the next block reads it
    wide = said(net, params, {"block_1": jnp.tile(tap, (2, LENGTH, 1))})
    np.testing.assert_array_equal(wide.logits, steered.logits)


REFUSALS = [
    ({"heads": 3}, r"Decoder.heads=3: must divide width=16"),
    ({"kv_heads": 3}, r"Decoder.heads=4: .* multiple of kv_heads=3"),
    ({"length": LENGTH - 1}, rf"Decoder.length={LENGTH - 1}: must be at least {LENGTH}"),
    ({"norm": "batch"}, r"Decoder.norm"),
    ({"mlp": "relu"}, r"Decoder.mlp"),
    ({"positions": "alibi"}, r"Decoder.positions"),
]


@pytest.mark.parametrize(("bad", "message"), REFUSALS, ids=[next(iter(bad)) for bad, _ in REFUSALS])
def test_sizes_and_words_that_do_not_fit_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(NET, **bad).init(jax.random.key(0), LINES)


def test_rotary_lines_have_no_longest_length():
    net = dataclasses.replace(NET, positions="rotary", length=2)
    params = params_of(net)
    assert "positions" not in params["embed"] and jax.eval_shape(lambda: said(net, params).logits).shape == (
        2,
        LENGTH,
        VOCABULARY,
    )


def test_a_decoder_is_drawn_by_the_law_of_each_array():
    laws = {"tokens": 0.02, "positions": 0.02, "query": 0.05, "up": 0.05, "kernel": 0.05, "up_down": 0.05}
    fixed = {"up_up": 0, "mlp_scale": 1, "scale": 1, "mlp_shift": 0, "query_bias": 0}
    every = {name: jax.ShapeDtypeStruct((400, 16), jnp.float32) for name in (*laws, *fixed)}
    drawn = inits.transformer(keys.root(0), every)
    assert list(drawn) == list(every)
    for name, std in laws.items():
        assert stats.kstest(np.ravel(drawn[name]) / std, "norm").pvalue > 1e-3, name
    for name, value in fixed.items():
        np.testing.assert_array_equal(drawn[name], np.full((400, 16), value, np.float32))
    units = {float(drawn[name][0, 0]) / std for name, std in laws.items()}
    assert len(units) == len(laws)  # a draw of its own for each name
    alone = inits.transformer(keys.root(0), {"up": every["up"]})
    np.testing.assert_array_equal(alone["up"], drawn["up"])  # whatever is beside it
