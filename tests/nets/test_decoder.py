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
def test_decoder_sees_its_own_line_up_to_each_place_and_nothing_else(kind):
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


def test_wavelengths_stretched_keep_the_fast_and_slow_the_slow():
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


@KINDS
def test_decoder_adapters_begin_as_no_change_to_the_bit(kind):
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


def test_decoder_adapter_is_the_matrix_with_its_product_added():
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
def test_decoder_tap_adds_to_the_stream_after_its_block(kind):
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
def test_decoder_refuses_sizes_and_words_that_do_not_fit(bad, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(NET, **bad).init(jax.random.key(0), LINES)


def test_decoder_with_rotary_positions_has_no_longest_length():
    net = dataclasses.replace(NET, positions="rotary", length=2)
    params = params_of(net)
    assert "positions" not in params["embed"] and jax.eval_shape(lambda: said(net, params).logits).shape == (
        2,
        LENGTH,
        VOCABULARY,
    )


def test_transformer_draws_each_array_by_its_law():
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
