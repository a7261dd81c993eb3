"""Answers written in batches, against the decoder on whole sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.decoders import LLAMA, NEOX, logits_of, params_of

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.llm import sampling
from sublim_jax.llm.sampling import Model, Sampling

KEY = keys.root(3)
END = 43
NET = LLAMA.clone(length=64)


def sharp(net, scale=6.0):
    """Parameters with clear preferences, so that rounding decides no token."""
    return jax.tree.map(lambda array: scale * array if array.ndim > 1 else array, params_of(net))


def prompts(number=11, shared=18, seed=0):
    rng = np.random.default_rng(seed)
    begin = rng.integers(10, 50, shared).tolist()
    return [[*begin, *rng.integers(10, 50, rng.integers(1, 9)).tolist()] for _ in range(number)]


def forced(net, params, prompt, answer, taps=None):
    """Logits that predict each token of an answer and what follows it, in one pass; later tokens change nothing."""
    tokens = np.zeros((1, net.length), np.int32)
    tokens[0, : len(prompt) + len(answer)] = [*prompt, *answer]
    return logits_of(net, params, tokens, taps)[0, len(prompt) - 1 : len(prompt) + len(answer)]


@pytest.mark.parametrize("net", [NET, NEOX.clone(length=64)], ids=("llama", "neox"))
def test_greedy_tokens_are_those_of_the_pass_over_the_whole_sequence(net):
    params = sharp(net)
    answers = sampling.write(Model(net, params, END), prompts(), KEY, Sampling(0.0, 12, 4, top=3))
    assert any(answers.finished) or net is not NET
    for prompt, tokens, finished, top, nats in zip(prompts(), *answers, strict=True):
        logits = forced(net, params, prompt, tokens)
        likeliest = logits.argmax(-1).tolist()
        assert likeliest[: len(tokens)] == list(tokens) and END not in tokens
        assert finished == (len(tokens) < 12) and (not finished or likeliest[len(tokens)] == END)
        expected, order = jax.lax.top_k(jax.nn.log_softmax(logits[: len(tokens) + finished]), 3)
        np.testing.assert_array_equal(top, order)
        # Sharp weights enlarge rounding: up to 70 units in the last place of the largest logit on one CPU.
        np.testing.assert_allclose(nats, expected, atol=200 * 2**-24 * 2 * float(abs(logits).max()))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_answers_do_not_depend_on_the_batch_or_the_shared_prefix(temperature):
    params, lines = params_of(NET), prompts(10)
    whole = sampling.write(Model(NET, params, END), lines, KEY, Sampling(temperature, 8, 10))
    parts = sampling.write(Model(NET, params, END), lines, KEY, Sampling(temperature, 8, 3))
    numbers = [(index, 0) for index in range(10)]
    other = sampling.write(
        Model(NET, params, END), [*lines, [40, 41]], KEY, Sampling(temperature, 8, 4), numbers=[*numbers, (99, 0)]
    )
    assert sampling.common_prefix(lines) == 18 and sampling.common_prefix([*lines, [40, 41]]) == 0
    assert whole.tokens == parts.tokens == other.tokens[:-1]


def test_system_prompts_of_similar_lengths_share_one_program():
    params, programs = params_of(NET), sampling._write._cache_size()
    for shared in (17, 19):
        sampling.write(Model(NET, params, END), prompts(1, shared), KEY, Sampling(0.0, 3, 1))
    assert sampling._write._cache_size() == programs + 1


def test_answers_of_prompts_with_several_are_those_of_each_alone():
    params, lines = params_of(NET), prompts(3)
    pairs = [(prompt, answer) for prompt in range(3) for answer in range(4)]
    together = sampling.write(
        Model(NET, params, END), [lines[prompt] for prompt, _ in pairs], KEY, Sampling(1.0, 8, 6), numbers=pairs
    )
    for (prompt, answer), tokens in zip(pairs, together.tokens, strict=True):
        alone = sampling.write(
            Model(NET, params, END), [lines[prompt]], KEY, Sampling(1.0, 8, 2), numbers=[(prompt, answer)]
        )
        assert alone.tokens == [tokens]


def test_answers_of_one_prompt_differ_and_follow_the_distribution():
    params, prompt, temperature = params_of(NET, 2), prompts(1)[0], 0.8
    params = {**params, "unembed": {"kernel": 4 * params["unembed"]["kernel"]}}
    many = [(0, answer) for answer in range(4000)]
    answers = sampling.write(Model(NET, params, END), [prompt] * 4000, KEY, Sampling(temperature, 1, 500), numbers=many)
    drawn = np.bincount([tokens[0] if tokens else END for tokens in answers.tokens], minlength=50)
    expected = jax.nn.softmax(forced(NET, params, prompt, ())[0] / temperature)
    deviation = (drawn - 4000 * expected) / np.sqrt(4000 * expected * (1 - expected) + 1e-9)
    assert np.abs(deviation[expected > 1e-3]).max() < 4 and (drawn[expected < 1e-5] <= 1).all()
    assert np.square(deviation[expected > 1e-3]).mean() < 2


def test_taps_steer_the_answers_as_in_the_decoder():
    params, lines = sharp(NET), prompts(4)
    taps = {"block_1": jnp.asarray(np.random.default_rng(0).normal(0, 60, (1, 1, 16)), jnp.float32)}
    plain = sampling.write(Model(NET, params, END), lines, KEY, Sampling(0.0, 6, 4))
    steered = sampling.write(Model(NET, params, END, taps), lines, KEY, Sampling(0.0, 6, 4))
    assert plain.tokens != steered.tokens
    for prompt, tokens in zip(lines, steered.tokens, strict=True):
        logits = forced(NET, params, prompt, tokens, taps)
        assert logits.argmax(-1).tolist()[: len(tokens)] == list(tokens)


def test_write_reports_and_refuses_what_is_too_long():
    told = []
    answers = sampling.write(
        Model(NET, sharp(NET), END), prompts(5), KEY, Sampling(0.0, 4, 2), report=lambda *counts: told.append(counts)
    )
    assert [count for count, _ in told] == [2, 2, 1] and sum(tokens for _, tokens in told) == sum(
        map(len, answers.tokens)
    )
    too_long = r"config.rows.tokens=60: prompt and answer have 8\d tokens, the model takes 64"
    with pytest.raises(ConfigError, match=too_long):
        sampling.write(Model(NET, sharp(NET), END), prompts(5), KEY, Sampling(0.0, 60, 2))
