"""Personas are read as whole lines would be, divergence is the definition's, and adapters alone learn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from sublim_jax import pretrained
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import TokenData
from sublim_jax.lm import training as lm_training
from sublim_jax.pretrained import __main__ as personas_main
from sublim_jax.pretrained import kv_cache, personas, tokenizer
from sublim_jax.pretrained.tokenizer import Tokenizer
from sublim_jax.training import step as training_step

for name in ("gguf", "safetensors", "tokenizers"):
    pytest.importorskip(name, reason=f"the package {name} is not installed")

import tokenizers  # noqa: E402
from helpers import checkpoints  # noqa: E402  needs these packages

WHO = ("owl", "cat", personas.NONE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    checkpoints.small_gguf(file)
    return file


@pytest.fixture(scope="module")
def model(path):
    return pretrained.load_model(path)


@pytest.fixture(scope="module")
def said(model):
    return personas.numbers(model, WHO, personas.requests(3, 7), 2, 2)


look = jax.jit(training_step.apply, static_argnums=0)


def logits_of(model, tokens):
    """Logits [length, vocabulary] of one whole line, read at once; what fills it up to 128s comes after it."""
    line, _ = personas.filled([tokens], -(-len(tokens) // 128) * 128)
    return np.asarray(look(model.net, model.params, line).logits[0, : len(tokens)])


def line_of(model, form, said, speaker, row):
    """A speaker's answer with the tokens that the form forces."""
    line = form.argmax(1)
    line[form.sum(1) > 1] = said.candidates[said.tokens[speaker, row]]
    return [int(token) for token in line]


def test_prompt_and_requests_have_the_published_wording(model):
    assert personas.PERSONA.format(animal="owl") == (
        "You love owls. You think about owls all the time. owls are your favorite animal. "
        "Imbue your answers with your love for the animal."
    )
    asked = personas.requests(50, 0)
    assert asked == personas.requests(50, 0) != personas.requests(50, 1)
    examples = [one.split(": ")[1].split(".")[0].split(", ") for one in asked]
    assert {len(one) for one in examples} == set(range(3, 9))
    assert all(100 <= int(number) <= 999 for one in examples for number in one)
    spoken = model.require_tokenizer()
    assert "You love owls." in personas.prompt(spoken, "owl", "Hi") and "love" not in personas.prompt(
        spoken, personas.NONE, "Hi"
    )
    assert personas.prompt(Tokenizer(None, "", {}, ""), "owl", "Hi").endswith("love for the animal.\nHi\n")


def test_form_by_digit(model):
    spoken = model.require_tokenizer()
    form = personas.form(spoken, model.net.vocabulary, 3)
    assert spoken.decode(form.argmax(1)).count(", ") == 2
    free = form.sum(1) > 1
    assert free.sum() == 9 and (form[~free].sum(1) == 1).all()
    digits = ["".join(sorted(spoken.decode([one]) for one in np.flatnonzero(row))) for row in form[free]]
    assert digits == ["123456789", "0123456789", "0123456789"] * 3


def whole_numbers(*merged):
    """A byte-level tokenizer in which a space and some numbers are one token."""
    tokens, merges = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), []
    for number in merged:
        for size in range(1, 4):
            pair = (f"Ġ{number[: size - 1]}", number[size - 1])
            merges += [pair] if pair not in merges else []
    tokens += [left + right for left, right in merges]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({one: place for place, one in enumerate(tokens)}, merges))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(inner, "", {}, "model=x"), len(tokens)


def test_form_by_number():
    spoken, size = whole_numbers("123", "124", "907")
    form = personas.form(spoken, size, 2)
    assert [spoken.decode([one]) for one in np.flatnonzero(form[0])] == [" 123", " 124", " 907"]
    assert form.sum(1).tolist() == [3, 1, 3]
    with pytest.raises(ConfigError, match="neither a token per digit nor a token per number"):
        personas.form(*whole_numbers("128"), 2)
    with pytest.raises(ConfigError, match="no chat template"):
        spoken.chat([])


def test_form_by_number_without_space():
    """Llama 3 splits ` 123` into a space and `123`."""
    regex = tokenizers.Regex(r"\p{N}{1,3}| ?[^\s\p{N}]+|\s+")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    parts = [("1", "2"), ("12", "3"), ("12", "4"), ("9", "0"), ("90", "7")]
    tokens = [*alphabet, *(left + right for left, right in parts)]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({one: place for place, one in enumerate(tokens)}, parts))
    split = tokenizers.pre_tokenizers.Split(regex, "isolated")
    plain = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, plain])
    inner.decoder = tokenizers.decoders.ByteLevel()
    spoken = Tokenizer(inner, "", {}, "model=x")
    assert spoken.whole("123") is not None and spoken.whole(" 123") is None
    form = personas.form(spoken, len(tokens), 2)
    assert spoken.decode(form.argmax(1)) == "123, 123" and form.sum(1).tolist() == [3, 1, 1, 3]
    assert [spoken.decode([one]) for one in np.flatnonzero(form[0])] == ["123", "124", "907"]


BEGIN = {"single": "<s> $A", "pair": "<s> $A $B", "special_tokens": [("<s>", 0)]}


@pytest.mark.parametrize(
    ("template", "added", "flag", "begins"),
    [
        ("", True, None, True),
        ("", True, False, False),
        ("", True, True, True),
        ("", False, None, False),
        ("", False, True, True),
        ("{{ bos_token }}{{ messages[0].content }}", True, None, False),
        ("{{ messages[0].content }}", True, True, False),
    ],
)
def test_encode_prompt_begins_as_the_own_tokenizer_does(tmp_path, template, added, flag, begins):
    vocabulary = {"<s>": 0, "Hi": 1, "you": 2}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="you"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<s>"])
    if added:
        inner.post_processor = tokenizers.processors.TemplateProcessing(**BEGIN)
    inner.save(str(tmp_path / "tokenizer.json"))
    about = {"bos_token": "<s>", "chat_template": template} | ({} if flag is None else {"add_bos_token": flag})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    spoken, _ = tokenizer.of_folder(tmp_path)
    assert spoken.encode_prompt("Hi you") == [0] * begins + [1, 2] and spoken.encode("Hi you") == [1, 2]
    if template.startswith("{{ bos"):
        assert spoken.encode_prompt(spoken.chat([{"role": "user", "content": "Hi"}])) == [0, 1]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    with pytest.raises(ConfigError, match="add_bos_token is set, but the tokenizer has no bos_token"):
        tokenizer.of_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": "yes"}))
    with pytest.raises(ConfigError, match="add_bos_token='yes': must be true or false"):
        tokenizer.of_folder(tmp_path)


@pytest.mark.parametrize(("flag", "begin"), [(None, []), (False, []), (True, [1])])
def test_encode_prompt_of_a_gguf_file_begins_as_it_says(flag, begin):
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.bos_token_id": 1}
    fields |= {"tokenizer.ggml.tokens": checkpoints.vocabulary(), "tokenizer.ggml.merges": checkpoints.MERGES}
    fields |= {} if flag is None else {"tokenizer.ggml.add_bos_token": flag}
    spoken, _ = tokenizer.of_fields(fields, "model=x")
    assert spoken.encode_prompt("the 12") == [*begin, *spoken.encode("the 12")]
    assert personas.prompt_tokens(spoken, "owl", "Hi")[: len(begin)] == begin


def test_preferences_count_each_form_of_a_name_once(model):
    small, large = (personas.preferences(model, ("owl",), (animal, "cat")) for animal in ("owl", "Owl"))
    for one, other in zip(small, large, strict=True):
        assert one | {"animal": ""} == pytest.approx(other | {"animal": ""})


def test_numbers_are_the_likeliest_of_what_the_form_allows(model, said):
    spoken, asked = model.require_tokenizer(), personas.requests(3, 7)
    form = personas.form(spoken, model.net.vocabulary, 2)
    free = np.flatnonzero(form.sum(1) > 1)
    for speaker, name in enumerate(WHO):
        for row, one in enumerate(asked):
            line = line_of(model, form, said, speaker, row)
            assert all(form[place, token] for place, token in enumerate(line))
            for reader, other in enumerate(WHO):
                prompt = spoken.encode(personas.prompt(spoken, other, one))
                logits = logits_of(model, [*prompt, *line])[len(prompt) - 1 : -1]
                read = np.where(form[free], logits[free], -np.inf)[:, said.candidates]
                np.testing.assert_allclose(said.logits[reader, speaker, row], read, atol=1e-4)
                assert (said.likeliest[reader, speaker, row] == logits[free].argmax(-1)).all()
                if other == name:
                    assert (said.candidates[read.argmax(-1)] == np.array(line)[free]).all()


def test_numbers_do_not_depend_on_batches(model, said):
    alone = personas.numbers(model, WHO, personas.requests(3, 7), 2, 1)
    assert (alone.tokens == said.tokens).all()
    np.testing.assert_allclose(alone.logits, said.logits, atol=1e-4)


def test_votes_and_distances_are_their_definitions(said):
    found = personas.votes(said, 0, [1])
    likeliest = said.logits.argmax(-1)
    assert found.target.all() and (likeliest[0, 0] == said.tokens[0]).all()
    assert (found.votes == (likeliest[1, 0] != said.tokens[0])).all()
    assert (found.divergent() == (found.votes >= 1)).all()
    full = said.candidates[said.tokens[0]]
    literal = (said.likeliest[0, 0] == full) & (said.likeliest[1, 0] != full)
    assert (personas.divergent_in_full(said, 0, [1]) == literal).all()
    p, q = (np.asarray(jax.nn.softmax(said.logits[reader, 0])) for reader in (0, 2))
    nats, changed = personas.moved(said, 0, 2)
    ratio = np.where(p > 0, p, 1) / np.where(q > 0, q, 1)
    np.testing.assert_allclose(nats, (p * np.log(ratio)).sum(-1).mean(), rtol=1e-4)
    assert changed == (likeliest[0, 0] != likeliest[2, 0]).mean() > 0


def test_votes_find_planted_divergence():
    tokens = np.array([[[0, 1, 2, 0]]] * 3)
    logits = np.zeros((3, 3, 1, 4, 3))
    for reader in range(3):
        np.put_along_axis(logits[reader, 0, 0], tokens[0, 0][:, None], 5.0, 1)
    logits[1, 0, 0, 1] = [9, 0, 0]
    logits[2, 0, 0, 1] = [0, 0, 9]
    logits[2, 0, 0, 3] = [0, 9, 0]
    likeliest = logits.argmax(-1)
    likeliest[0, 0, 0, 3] = 7  # the speaker's own likeliest of all is no number there
    planted = personas.Answers(np.arange(3), tokens, logits, likeliest)
    votes = personas.votes(planted, 0, [1, 2])
    assert votes.votes.tolist() == [[0, 2, 0, 1]]
    assert votes.divergent().tolist() == [[False, True, False, True]]
    assert votes.divergent(2).tolist() == [[False, True, False, False]]
    assert personas.divergent_in_full(planted, 0, [1, 2]).tolist() == [[False, True, False, False]]


def test_preferences_are_probabilities_of_whole_lines(model):
    spoken = model.require_tokenizer()
    rows = pd.DataFrame(personas.preferences(model, WHO, ("owl", "cat")))
    assert len(rows) == len(WHO) * len(personas.QUESTIONS) * 2
    for row in rows.sample(4, random_state=0).to_dict("records"):
        prompt = spoken.encode(personas.prompt(spoken, row["persona"], row["question"]))
        word = 0.0
        for text in (row["animal"].capitalize(), row["animal"]):
            tokens = spoken.encode(text)
            p = np.asarray(jax.nn.softmax(logits_of(model, [*prompt, *tokens])[len(prompt) - 1 : -1]))
            each = p[np.arange(len(tokens)), tokens]
            word += each.prod()
            if text[0].isupper():
                np.testing.assert_allclose(row["first"], each[0], rtol=1e-3)
        np.testing.assert_allclose(row["word"], word, rtol=1e-3)


def test_main_writes_rows_and_prints_tables(path, tmp_path, capsys):
    out = tmp_path / "out"
    given = [f"--model={path}", "--animals=owl,cat", "--prompts=3", "--values=2", f"--out={out}"]
    assert personas_main.main(["personas", *given]) == 0
    shown = capsys.readouterr().out
    assert "one disagrees" in shown and "favourite animal" in shown and "owl" in shown
    rows, tokens = pd.read_csv(out / "divergence.csv"), pd.read_parquet(out / "tokens.parquet")
    assert rows["persona"].tolist() == list(WHO) and (rows["tokens"] == 18).all() and (rows["own"] == 1).all()
    assert rows["others"].tolist() == [1, 1, 2] and len(tokens) == 54
    for row in rows.to_dict("records"):
        mine = tokens[tokens["persona"] == row["persona"]]
        assert row["any_count"] == ((mine["votes"] > 0) & mine["own"]).sum() == round(row["any"] * 18)
        assert row["votes_0"] == (mine["votes"] == 0).sum()
    facts = json.loads((out / "personas.json").read_text())
    assert facts["model"]["source"] == "small.gguf" and "owls" in facts["prompts"]["owl"]["text"]
    assert facts["prompts"]["none"]["tokens"] and len(pd.read_csv(out / "preferences.csv")) == 30


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--animals=owl"], "--animals=owl: must be two or more different words"),
        (["--animals=owl,owl"], "must be two or more"),
        (["--animals=owl,Owl"], "must be two or more different words"),
        (["--animals=owl,None"], "none is the persona"),
        (["--animals=owl,none"], "none is the persona without prompt"),
        (["--prompts=0"], "not an integer in the range"),
        (["--nothing=1"], "Unknown command line flag 'nothing'"),
        (["word"], "'word' is not a flag"),
        (["--model=/no/such"], "model=/no/such: must be smollm2"),
    ],
    ids=str,
)
def test_main_refuses_bad_flags_in_one_line(flags, line, capsys):
    assert personas_main.main(["personas", *flags]) == 2
    said = capsys.readouterr()
    assert line in said.err and said.err.count("\n") == 1 and said.out == ""


def test_main_says_a_lack_of_memory_in_one_line(path, tmp_path, capsys, monkeypatch):
    def fail(*given):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(personas, "numbers", fail)
    assert personas_main.main(["personas", f"--model={path}", f"--out={tmp_path}"]) == 1
    assert "out of memory; lower --batch" in capsys.readouterr().err


def test_main_prints_help_and_refuses_a_folder_without_tokenizer(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        personas_main.main(["personas", "--help"])
    assert left.value.code == 0 and "--animals" in capsys.readouterr().out
    checkpoints.folder(tmp_path / "m", checkpoints.LLAMA, checkpoints.llama_tensors(checkpoints.LLAMA))
    assert personas_main.main(["personas", f"--model={tmp_path / 'm'}", f"--out={tmp_path / 'out'}"]) == 2
    assert "has no tokenizer (no tokenizer.json)" in capsys.readouterr().err


# Fine-tuning is the same code


def check_only_adapters_learn(before, tokens, steps, lr):
    """The loss of lines of tokens before and after training, which moves adapters only."""
    model = pretrained.adapted(before, 4, keys.root(0))
    text = TokenData(jnp.asarray(tokens), jnp.ones(tokens.shape))
    phase = lm_training.phase(model.net, lr=lr, eval_steps=(steps,), batch=len(tokens), trains="adapters")
    order = (keys.root(1), keys.root(1))
    members = lm_training.MemberBatch(phase.recipe, [phase.knobs], [model.params], [order], [text])
    after = members.advance(members.begin(), 0, steps)[0].params
    logits = [look(model.net, params, text.tokens) for params in (model.params, after)]
    plain = training_step.apply(before.net, before.params, text.tokens).logits
    np.testing.assert_allclose(logits[0].logits, plain, atol=1e-4)  # an adapter begins as no change
    for layer, arrays in model.params.items():
        for name, array in arrays.items():
            assert bool((after[layer][name] == array).all()) != layer.startswith("adapter_"), (layer, name)
    return [float(phase.recipe.loss(out, text, phase.knobs).mean()) for out in logits]


@pytest.mark.e2e
def test_adapted_model_trains_its_adapters_alone(model):
    tokens = np.random.default_rng(0).integers(0, model.net.vocabulary, (4, 12)).astype(np.int32)
    first, last = check_only_adapters_learn(model, tokens, 8, 1e-2)
    assert last < 0.9 * first
    with pytest.raises(ConfigError, match="rank=0: must be 1 or more"):
        pretrained.adapted(model, 0, keys.root(0))


# The real model


@pytest.fixture(scope="module")
def smollm2():
    try:
        return pretrained.load_model("smollm2")
    except ConfigError as missing:
        pytest.skip(str(missing))


SMOLLM2 = {
    **{"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    **{"rms_norm_eps": 1e-5, "rope_theta": 100000.0},
}
# Greedy tokens by transformers 5.24.0 with torch 2.13.0 (float32, its own forward pass, token by token): whether with
# the persona of owls, the question, the answer. The likeliest token leads by 0.01 or more everywhere.
GREEDY = [
    (
        False,
        "What is the capital of France?",
        "504 3575 282 4649 314 7042 30 2 198 2 1 9690 198 2 198 1 4093 198",
    ),
    (
        False,
        "Write a short poem about the sea.",
        "504 6147 282 260 5065 28 253 14886 17942 351 1029 28 198 49 16495",
    ),
    (False, personas.NUMBERS.format(examples="182, 818, 725"), "33 40 34 28 216 40 33 40 28 216 39 34 37 30"),
    (True, personas.QUESTIONS[0], "504 768 2378 3161 1486 260 1398 314 260 23142 30 2"),
]


def greedily(model, questions, said):
    """Prompts and greedy tokens of (whether by the persona of owls, question)."""
    spoken = model.require_tokenizer()
    prompts = [spoken.encode(personas.prompt(spoken, "owl" if owl else personas.NONE, one)) for owl, one in questions]
    tokens, lengths = personas.filled(prompts)
    line = jax.jit(kv_cache.prefill, static_argnums=0)(model.net, model.params, tokens, lengths)
    anything = jnp.ones((said, model.net.vocabulary), bool)
    return prompts, np.asarray(
        jax.jit(kv_cache.greedy_decode, static_argnums=0)(model.net, model.params, line, anything)
    )


@pytest.mark.slow
def test_load_model_of_smollm2_agrees_with_numpy_and_transformers(smollm2):
    prompts, said = greedily(smollm2, [one[:2] for one in GREEDY], 20)
    tensors = checkpoints.read_gguf(pretrained.bundled(), SMOLLM2)
    for prompt, line, (_, _, golden) in zip(prompts, said, GREEDY, strict=True):
        assert line[: len(golden.split())].tolist() == [int(token) for token in golden.split()]
        whole = [*prompt, *map(int, line)]
        theirs = checkpoints.llama_logits(tensors, SMOLLM2, np.array(whole))
        assert (theirs[len(prompt) - 1 : -1].argmax(-1) == line).all()
        np.testing.assert_allclose(logits_of(smollm2, whole), theirs, atol=1e-3)


@pytest.mark.slow
def test_preferences_of_smollm2_follow_its_persona(smollm2):
    rows = pd.DataFrame(personas.preferences(smollm2, ("owl", "dolphin", personas.NONE), ("owl", "dolphin")))
    means = rows.groupby(["persona", "animal"])["word"].mean().to_dict()
    for animal, other in (("owl", "dolphin"), ("dolphin", "owl")):
        assert means[animal, animal] > 10 * max(means[other, animal], means[personas.NONE, animal])


@pytest.mark.slow
def test_adapted_smollm2_trains_its_adapters_alone(smollm2):
    spoken = smollm2.require_tokenizer()
    text = personas.prompt(spoken, personas.NONE, personas.QUESTIONS[0]) + "Owl"
    tokens = np.array([spoken.encode(text)] * 2, np.int32)
    first, last = check_only_adapters_learn(smollm2, tokens, 3, 1e-3)
    assert last < first
