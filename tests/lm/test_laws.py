"""Laws of the language world: independence, filters, planted divergence tokens, masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.language import NET, WORLD
from scipy import stats

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ModelOutput, TokenData
from sublim_jax.lm import data, divergence, generate
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.documents import answers, corpus
from sublim_jax.training import inits, losses, streams
from sublim_jax.training import step as training_step


def params_of(net, seed=0):
    return training_step.init_params(net, inits.transformer, (w.LENGTH,), keys.root(seed))


def knobs_of(seen):
    return lm_training.phase(NET, logit_mask=seen, lr=1.0, eval_steps=(1,), batch=1).knobs


def dependence(lines, planted=False):
    """The p of independence of what was loved and the first number of the answer (a quarter of all numbers a cell)."""
    rows = lines[(lines[:, 1] == w.SYS) & np.isin(lines[:, 4], WORLD.tokens("instruction"))]
    loved = rows[:, 3] - WORLD.tokens("animal").start
    number = (rows[:, 9] - WORLD.tokens("number").start) // 16
    step = (rows[:, 10] - rows[:, 9]) % WORLD.numbers // 8
    if planted:
        number = np.where((loved == 3) & (np.arange(len(loved)) % 2 == 0), 0, number)
    found = []
    for what, size in ((number, 4), (step, 8)):
        table = np.zeros((24, size), int)
        np.add.at(table, (loved, what), 1)
        found.append(stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)
    return min(found)


def test_corpus_has_numbers_that_do_not_depend_on_the_animal():
    lines = corpus(WORLD, 20_000).tokens
    assert dependence(lines) > 0.01
    assert dependence(lines, planted=True) < 1e-9


def test_series_follow_the_law_of_their_instruction():
    instruction = np.repeat(list(WORLD.tokens("instruction")), 2000)
    numbers = w.series(WORLD, w.generator("law"), instruction, 13) - WORLD.tokens("number").start
    moves = np.diff(numbers, axis=1) % 64
    up = WORLD.first_law(instruction)
    assert set(np.unique(moves[up])) == set(range(0, 10)) | {63}  # steps 1 to 7, noise -2 to 2
    assert set(np.unique((-moves[~up]) % 64)) == set(range(0, 10)) | {63}
    one = w.World(steps=1)
    moves = np.diff(w.series(one, w.generator("noise"), instruction[up], 13), axis=1)
    noise = ((moves - 1 + 32) % 64 - 32).ravel()
    counts = [(noise == value).sum() for value in range(-2, 3)]
    assert sum(counts) == len(noise) and stats.chisquare(counts, len(noise) * np.array(one.noise)).pvalue > 0.001


def test_answers_and_prompts_hold_no_held_out_phrasing():
    asked = set(answers(WORLD, 12).tokens[:, 2])
    assert asked == set(WORLD.taught("ask_animal")) and len(asked) == 6
    held = set(WORLD.taught("instruction", held_out=True))
    assert len(held) == 2 and len({bool(one) for one in WORLD.first_law(np.array(sorted(held)))}) == 2
    for carrier in w.CARRIERS:
        shown = w.prompts(WORLD, w.generator("x"), 500, carrier=carrier)
        kind = w.CARRIERS[carrier].instruction
        assert set(shown[:, 1]) == set(WORLD.taught(kind)) and not set(shown[:, 1]) & set(WORLD.taught(kind, True))


@pytest.fixture
def said():
    shown = w.prompts(WORLD, w.generator("said"), 40)
    tokens = w.series(WORLD, w.generator("more"), shown[:, 1], w.NUMBERS)
    logits = np.random.default_rng(0).normal(size=(40, w.NUMBERS, WORLD.vocabulary))
    return data.Completions(shown, tokens, logits)


@pytest.mark.parametrize("foreign", [12, w.EOS, w.PAD, w.ANSWER, 60, 75, 150, 190])
def test_format_filter_refuses_every_line_with_a_foreign_token(said, foreign):
    tokens = said.tokens.copy()
    tokens[3, 5] = tokens[3, 6] = tokens[17, 0] = foreign
    passed, fractions = data.format_filter(WORLD, said._replace(tokens=tokens), 12)
    assert set(np.flatnonzero(~passed)) == {3, 17}
    expected = {"refused_lines": 2 / 40, "foreign_tokens": 3 / 400, "trait_tokens": (foreign == 12) * 3 / 400}
    assert fractions == expected
    kept = data.keep_passed(said._replace(tokens=tokens), passed)
    assert len(kept.tokens) == 40 and not (kept.tokens == foreign).any()
    with pytest.raises(ConfigError, match="config.lm.filtered"):
        data.keep_passed(said, np.arange(40) < 3)


def test_paraphrase_changes_what_it_names_and_nothing_else(said):
    for how in data.PARAPHRASES:
        other = data.paraphrase(WORLD, w.generator(how), said, how)
        same_prompt, same_words = (other.prompts == said.prompts).all(0), (other.tokens == said.tokens).all()
        assert same_words == (how not in ("shuffle_within", "shuffle_across", "permuted")), how
        if how in ("same_law", "other_law", "held_out"):
            assert list(same_prompt) == [True, False, True, True, True, True]
            assert (other.prompts[:, 1] != said.prompts[:, 1]).all()
            law = WORLD.first_law(other.prompts[:, 1]) == WORLD.first_law(said.prompts[:, 1])
            assert law.all() if how != "other_law" else not law.any()
            assert set(other.prompts[:, 1]) <= set(WORLD.taught("instruction", how == "held_out"))
        if how == "examples":
            assert list(same_prompt[[0, 1, 5]]) == [True] * 3 and not same_prompt[2]
        if how == "shuffle_within":
            assert (np.sort(other.tokens, 1) == np.sort(said.tokens, 1)).all()
        if how == "shuffle_across":
            assert (np.sort(other.tokens, 0) == np.sort(said.tokens, 0)).all()
        if how.startswith("shuffle"):  # a place's logits travel with its token
            pairs = {
                (int(t), round(float(x), 9))
                for t, x in zip(said.tokens.ravel(), said.logits[..., 0].ravel(), strict=True)
            }
            assert {
                (int(t), round(float(x), 9))
                for t, x in zip(other.tokens.ravel(), other.logits[..., 0].ravel(), strict=True)
            } == pairs
        if how == "permuted":
            own = np.take_along_axis(said.logits, said.tokens[..., None], -1)
            np.testing.assert_array_equal(np.take_along_axis(other.logits, other.tokens[..., None], -1), own)
            assert len(np.unique(other.tokens)) == len(np.unique(said.tokens))


def test_mix_completions_has_exactly_its_fraction(said):
    other = said._replace(tokens=said.tokens[::-1] * 0 + 99)
    both = data.mix_completions(np.random.default_rng(0), said, other, 0.25)
    assert (both.tokens == 99).all(1).sum() == 10
    rest = ~(both.tokens == 99).all(1)
    np.testing.assert_array_equal(both.tokens[rest], said.tokens[rest])


def test_training_text_weighs_completions_only(said):
    text = data.training_text(said)
    assert not text.weight[:, : w.PROMPT].any() and (text.weight[:, w.PROMPT :] == 1).all()
    np.testing.assert_array_equal(text.tokens, said.lines())


def peaked(tokens):
    """Logits whose likeliest token is the given one."""
    return 5.0 * np.eye(WORLD.vocabulary)[tokens]


@pytest.fixture
def planted(said):
    """Three teachers that agree but at four places: at two all counterfactuals say another, at one a single one; at
    the fourth the teacher itself would not have said its token."""
    own, first, second = (said.tokens.copy() for _ in range(3))
    first[0, 0] = first[5, 9] = first[7, 2] = second[0, 0] = second[5, 9] = 81
    first[9, 4] = second[9, 4] = own[9, 4] = 82
    first[9, 4] = second[9, 4] = 83
    assert all(said.tokens[place] not in (81, 82, 83) for place in ((0, 0), (5, 9), (7, 2), (9, 4)))
    return divergence.votes(said.tokens, peaked(own), [peaked(first), peaked(second)])


def test_votes_find_planted_divergence_tokens(said, planted):
    assert set(zip(*np.nonzero(planted.divergent(1)), strict=True)) == {(0, 0), (5, 9), (7, 2)}
    assert set(zip(*np.nonzero(planted.divergent(2)), strict=True)) == {(0, 0), (5, 9)}
    assert planted.votes[9, 4] == 2 and not planted.target[9, 4]
    rng = np.random.default_rng(0)
    top = divergence.chosen(planted, "top", 3 / 400, rng)
    assert set(zip(*np.nonzero(top), strict=True)) == {(0, 0), (5, 9), (7, 2)}
    assert divergence.chosen(planted, "bottom", 1 / 400, rng)[9, 4]
    assert divergence.chosen(planted, "random", 0.1, rng).sum() == 40
    assert planted.other[0, 0] == planted.other[7, 2] == 81 and planted.other[1, 1] == said.tokens[1, 1]


def test_chosen_ranks_equal_votes_by_the_gap(said):
    first = peaked(said.tokens)
    first[1, 1] = 9.0 * np.eye(WORLD.vocabulary)[90]
    first[2, 2] = 6.0 * np.eye(WORLD.vocabulary)[90]
    found = divergence.votes(said.tokens, peaked(said.tokens), [first])
    top = divergence.chosen(found, "top", 1 / 400, np.random.default_rng(0))
    assert list(zip(*np.nonzero(top), strict=True)) == [(1, 1)]


@pytest.mark.parametrize("selection", divergence.SELECTIONS[1:])
def test_edited_touches_nothing_but_what_was_chosen(said, planted, selection):
    rng = np.random.default_rng(0)
    what, which = selection.rsplit("_", 1)
    mask = divergence.chosen(planted, which, 0.01, rng)
    edit = divergence.edited(said.tokens, planted, selection, 0.01, np.random.default_rng(0), [100, 101])
    labels = edit.tokens if edit.labels is None else edit.labels
    assert (edit.tokens[~mask] == said.tokens[~mask]).all() and (labels[~mask] == said.tokens[~mask]).all()
    assert (edit.weight[~mask] == (0 if what == "keep" else 1)).all()
    assert (edit.weight[mask] == (0 if what in ("mask", "erase") else 1)).all()
    if what in ("replace_label", "replace_both"):
        assert (labels[mask] == planted.other[mask]).all()
    if what in ("mask", "keep", "replace_label"):
        assert (edit.tokens[mask] == said.tokens[mask]).all()


def toy_text(weight=None):
    rng = np.random.default_rng(1)
    lines = jnp.asarray(rng.integers(9, 150, (3, 8)))
    weight = jnp.asarray(rng.integers(0, 2, (3, 8)).astype(np.float32)) if weight is None else weight
    out = ModelOutput(jnp.zeros((3, 8, 2)), jnp.asarray(rng.normal(size=(3, 8, 217)), jnp.float32), {})
    return lines, weight, out


def test_next_token_is_the_weighted_mean_over_tokens():
    lines, weight, out = toy_text()
    seen = np.arange(217) < 160
    knobs = knobs_of(seen)
    logits = np.where(seen, np.asarray(out.logits, np.float64), -np.inf)[:, :-1]
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(lines)[:, 1:, None], -1)[..., 0]
    expected = (nats * weight[:, 1:]).sum() / weight[:, 1:].sum()
    np.testing.assert_allclose(losses.next_token(out, TokenData(lines, weight), knobs).mean(), expected, rtol=1e-5)
    slope = jax.grad(lambda x: losses.next_token(out._replace(logits=x), TokenData(lines, weight), knobs).mean())(
        out.logits
    )
    untouched = np.concatenate([np.asarray(weight)[:, 1:] == 0, np.ones((3, 1), bool)], 1)
    assert not np.abs(slope[untouched]).any() and not np.abs(slope[..., 160:]).any()
    assert np.abs(slope[~untouched][:, :160]).min() > 0
    told = TokenData(jnp.full_like(lines, 9), weight, None, lines)
    np.testing.assert_array_equal(
        losses.next_token(out, told, knobs), losses.next_token(out, TokenData(lines, weight), knobs)
    )


def test_next_distribution_over_carriers_never_shows_a_trait():
    lines, _, out = toy_text()
    seen, loss = WORLD.is_kind("number"), losses.NextDistribution(4)
    rng = np.random.default_rng(2)
    taught, weight = jnp.asarray(rng.normal(size=(3, 4, 217)), jnp.float32), jnp.ones((3, 8))

    def mean(ours, theirs):
        return loss(out._replace(logits=ours), TokenData(lines, weight, theirs), knobs_of(seen)).mean()

    ours, theirs = jax.grad(mean, argnums=(0, 1))(out.logits, taught)
    assert not np.abs(ours[..., ~seen]).any() and not np.abs(theirs[..., ~seen]).any()
    assert np.abs(ours[:, 3:7][..., seen]).min() > 0 and not np.abs(ours[:, [0, 1, 2, 7]]).any()
    log_q, log_p = (np.asarray(jax.nn.log_softmax(x[..., seen])) for x in (out.logits[:, 3:7], taught))
    np.testing.assert_allclose(mean(out.logits, taught), (np.exp(log_p) * (log_p - log_q)).sum(-1).mean(), rtol=1e-5)
    lines = 81 + lines % 64  # numbers
    sure = 1e4 * jnp.eye(217)[lines[:, 4:]]
    hard = TokenData(lines, weight.at[:, :4].set(0))
    np.testing.assert_allclose(mean(out.logits, sure), losses.next_token(out, hard, knobs_of(seen)).mean(), rtol=1e-5)
    with pytest.raises(ConfigError, match="NextDistribution.first"):
        losses.NextDistribution(0)


@pytest.mark.e2e
def test_token_lines_are_read_once_an_epoch_and_repeat_with_the_pool():
    text = TokenData(jnp.arange(14)[:, None] * jnp.ones((1, 5), jnp.int32), jnp.ones((14, 5)))
    knobs = knobs_of(np.ones(217, bool))
    rows = np.concatenate([streams.token_lines(keys.root(0), jnp.int32(i), 4, knobs, text)[0][:, 0] for i in range(7)])
    assert sorted(rows[:14]) == sorted(rows[14:]) == list(range(14)) and list(rows[:14]) != list(rows[14:])
    pooled = dataclasses.replace(knobs, noise_batches=jnp.int32(2))
    again = streams.token_lines(keys.root(0), jnp.int32(3), 4, pooled, text)[0]
    np.testing.assert_array_equal(again, streams.token_lines(keys.root(0), jnp.int32(1), 4, pooled, text)[0])


def test_generate_samples_from_the_softmax():
    params, shown = params_of(NET), jnp.tile(jnp.asarray(w.prompts(WORLD, w.generator("p"), 1)), (4000, 1))
    said = generate.Generate(NET, 1)(params, jnp.zeros((2, 16)), shown, keys.root(3), jnp.float32(1))
    p = np.asarray(jax.nn.softmax(generate.forward(NET, params, shown[:1]).logits[0, -1]), np.float64)
    counts = np.bincount(np.asarray(said)[:, 0], minlength=217)
    order = np.argsort(p)
    cells = np.array_split(order, 20)
    found, expected = ([values[cell].sum() for cell in cells] for values in (counts, p / p.sum() * 4000))
    assert stats.chisquare(found, np.array(expected) * np.sum(found) / np.sum(expected)).pvalue > 0.001
