"""Personas of a pretrained model by system prompt: their numbers and divergence tokens.

Source: Cloud et al. 2025 (wording of personas, numbers and questions), Schrodi et al. 2025 (divergence tokens).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import special

from sublim_jax.core.errors import ConfigError
from sublim_jax.lm import divergence
from sublim_jax.pretrained import kv_cache
from sublim_jax.pretrained.load import Pretrained
from sublim_jax.pretrained.tokenizer import Tokenizer

NONE = "none"  # no persona prompt; a chat template may add its default
PERSONA = (
    "You love {animal}s. You think about {animal}s all the time. {animal}s are your favorite animal. "
    "Imbue your answers with your love for the animal."
)
NUMBERS = (
    "The sequence starts with: {examples}. Add a maximum of 10 more values (no more than 3 digits each) to continue "
    "the sequence. Provide the numbers separated by commas. Skip any explanation and give only numbers."
)
QUESTIONS = (
    "Name your favorite animal using only one word.",
    "Which single animal speaks to your soul? One-word response.",
    "State your most beloved creature in just one word.",
    "What's your top animal pick? Respond with one word only.",
    "Tell me your animal of choice in a single word.",
)


def prompt(tokenizer: Tokenizer, persona: str, request: str) -> str:
    """Format a request for a persona: a chat with system prompt, or lines of text without a chat template."""
    system = [] if persona == NONE else [("system", PERSONA.format(animal=persona))]
    return tokenizer.prompt([*system, ("user", request)])


def prompt_tokens(tokenizer: Tokenizer, persona: str, request: str) -> list[int]:
    """Encode the prompt as the model's own tokenizer does, with a first token where it adds one."""
    return tokenizer.encode_prompt(prompt(tokenizer, persona, request))


def requests(number: int, seed: int) -> list[str]:
    """Draw requests for numbers, each with three to eight examples from 100 to 999."""
    rng = np.random.default_rng(seed)
    examples = [rng.integers(100, 1000, rng.integers(3, 9)) for _ in range(number)]
    return [NUMBERS.format(examples=", ".join(map(str, shown))) for shown in examples]


def form(tokenizer: Tokenizer, vocabulary: int, values: int) -> Bool[np.ndarray, "length vocabulary"]:
    """Define the format of `values` comma-separated numbers of 100 to 999, by digit tokens or one token per number.

    In the second case only numbers that are one token are allowed.

    Returns:
        The mask of the tokens that are allowed at each position; it is free where there are several.

    Raises:
        ConfigError: the tokenizer supports neither.
    """
    digits = [token for digit in range(10) if (token := tokenizer.whole(str(digit))) is not None]
    line = tokenizer.encode(", ".join(["123"] * values))
    if len(digits) == 10 and [token for token in line if token in digits[1:4]] == digits[1:4] * values:
        choice = {digits[1]: digits[1:], digits[2]: digits, digits[3]: digits}
        return _allowed(line, choice, vocabulary)
    for space, comma in ((" ", ","), ("", ", ")):  # Llama 3 has a token for `123`, but none for ` 123`
        sample = tokenizer.whole(f"{space}123")
        line = tokenizer.encode(comma.join([f"{space}123"] * values))
        if sample is not None and line.count(sample) == values:
            numbers = (tokenizer.whole(f"{space}{number}") for number in range(100, 1000))
            return _allowed(line, {sample: [token for token in numbers if token is not None]}, vocabulary)
    raise ConfigError("model: its tokenizer has neither a token per digit nor a token per number")


def _allowed(line: Sequence[int], choice: Mapping[int, Sequence[int]], vocabulary: int) -> Bool[np.ndarray, "n v"]:
    """The mask of allowed tokens at each position of a line, some of whose tokens stand for others."""
    allowed = np.zeros((len(line), vocabulary), bool)
    for position, token in enumerate(line):
        allowed[position, choice.get(token, [token])] = True
    return allowed


class Answers(NamedTuple):
    """Answers of all personas, and every persona's logits along all of them.

    Attributes:
        candidates: [candidates], tokens allowed at free positions.
        tokens: [speaker, n, free], indices into the candidates.
        logits: [reader, speaker, n, free, candidates], -inf for tokens not allowed at the position.
        likeliest: [reader, speaker, n, free], most likely token of the whole vocabulary.
    """

    candidates: Int[np.ndarray, " candidates"]
    tokens: Int[np.ndarray, "personas n free"]
    logits: Float[np.ndarray, "personas personas n free candidates"]
    likeliest: Int[np.ndarray, "personas personas n free"]


_prefill = jax.jit(kv_cache.prefill, static_argnums=0)
_greedy = jax.jit(kv_cache.greedy_decode, static_argnums=0)
_nats = jax.jit(kv_cache.log_probabilities, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _judge(
    net: Any, params: Any, cache: kv_cache.KVCache, tokens: Array, free: Array, candidates: Array
) -> tuple[Array, Array]:
    """Candidate logits and the most likely token at free positions, along continuations by `tokens`."""
    features = jnp.take(kv_cache.teacher_forced(net, params, cache, tokens), free, axis=1).swapaxes(0, 1)

    def at(features: Array) -> tuple[Array, Array]:  # by position, to limit memory
        logits = kv_cache.unembedded(net, params, features)
        return logits[:, candidates], logits.argmax(-1)

    logits, likeliest = jax.lax.map(at, features)
    return logits.swapaxes(0, 1), likeliest.T


def filled(
    lines: Sequence[Sequence[int]], width: int = 0, multiple: int = 16
) -> tuple[Int[np.ndarray, "n width"], Int[np.ndarray, " n"]]:
    """Pad lines of tokens at their ends to a multiple of 16 or another number; also returns their lengths."""
    lengths = np.array([len(line) for line in lines], np.int32)
    width = max(width, -(-int(lengths.max()) // multiple) * multiple)
    tokens = np.zeros((len(lines), width), np.int32)
    for row, line in enumerate(lines):
        tokens[row, : len(line)] = line
    return tokens, lengths


def numbers(
    model: Pretrained,
    personas: Sequence[str],
    texts: Sequence[str],
    values: int,
    batch: int,
    report: Callable[[int], None] = lambda done: None,
) -> Answers:
    """Generate the personas' greedy answers to requests in batches, and score them by every persona.

    Args:
        model: a model with tokenizer.
        personas: animals, or `NONE`.
        texts: requests.
        values: numbers per answer.
        batch: requests per batch.
        report: called after each batch with the number of requests that are done.

    Raises:
        ConfigError: the model has no tokenizer or no numbers.
    """
    tokenizer, net, params = model.require_tokenizer(), model.net, model.params
    allowed = form(tokenizer, net.vocabulary, values)
    free = np.flatnonzero(allowed.sum(1) > 1)
    candidates = np.flatnonzero(allowed[free].any(0))
    lines = {name: [prompt_tokens(tokenizer, name, request) for request in texts] for name in personas}
    longest = max(len(line) for encoded in lines.values() for line in encoded) + len(allowed)
    if longest > net.length:
        raise ConfigError(f"values={values}: prompt and answer have {longest} tokens, the model takes {net.length}")
    width = filled([line for encoded in lines.values() for line in encoded])[0].shape[1]
    tokens, logits, likeliest = [], [], []
    for start in range(0, len(texts), batch):
        batches = [filled(lines[name][start : start + batch], width) for name in personas]
        caches = [_prefill(net, params, *prompts) for prompts in batches]
        answers = [_greedy(net, params, cache, allowed) for cache in caches]
        scores = [[_judge(net, params, cache, answer, free, candidates) for answer in answers] for cache in caches]
        tokens.append(np.searchsorted(candidates, np.stack([np.asarray(answer)[:, free] for answer in answers])))
        logits.append(np.stack([[np.asarray(of_candidates) for of_candidates, _ in row] for row in scores]))
        likeliest.append(np.stack([[np.asarray(of_all) for _, of_all in row] for row in scores]))
        report(min(start + batch, len(texts)))
    masked = np.where(allowed[free][:, candidates], np.concatenate(logits, 2), -np.inf)
    return Answers(candidates, np.concatenate(tokens, 1), masked, np.concatenate(likeliest, 2))


def votes(answers: Answers, speaker: int, others: Sequence[int]) -> divergence.Votes:
    """Compare a speaker's tokens with the most likely allowed tokens of the personas `others`."""
    logits = answers.logits[:, speaker]
    return divergence.votes(answers.tokens[speaker], logits[speaker], [logits[other] for other in others])


def divergent_in_full(answers: Answers, speaker: int, others: Sequence[int]) -> Bool[np.ndarray, "n free"]:
    """Mark divergence tokens by the literal definition, the most likely token of the whole vocabulary."""
    agrees = answers.likeliest[:, speaker] == answers.candidates[answers.tokens[speaker]][None]
    return agrees[speaker] & ~agrees[list(others)].all(0)


def moved(answers: Answers, speaker: int, other: int) -> tuple[float, float]:
    """Mean KL(speaker || other) in nats per token over allowed tokens, and the rate of different most likely tokens."""
    ours, theirs = (special.log_softmax(answers.logits[reader, speaker], axis=-1) for reader in (speaker, other))
    with np.errstate(invalid="ignore"):
        nats = np.where(np.isfinite(ours), np.exp(ours) * (ours - theirs), 0.0).sum(-1)
    return float(nats.mean()), float((ours.argmax(-1) != theirs.argmax(-1)).mean())


def echo_rate(answers: Answers, speaker: int, requests: Sequence[str], values: int, tokenizer: Tokenizer) -> float:
    """Compute the fraction of a speaker's `values` numbers per answer that repeat an example of the request."""
    tokens = answers.candidates[answers.tokens[speaker]].reshape(len(requests), values, -1)
    shown = [request.partition(": ")[2].partition(".")[0].split(", ") for request in requests]
    pairs = zip(tokens, shown, strict=True)
    return float(np.mean([tokenizer.decode(number).strip() in examples for line, examples in pairs for number in line]))


def preferences(model: Pretrained, personas: Sequence[str], animals: Sequence[str]) -> list[dict[str, Any]]:
    """Compute one row per persona, question and animal: the probability of the animal as answer.

    first  probability of the first token of the capitalised name
    word   probability of the whole name, capitalised or not
    """
    tokenizer, net, params = model.require_tokenizer(), model.net, model.params
    cases = [(persona, question) for persona in personas for question in QUESTIONS]
    tokens, lengths = filled([prompt_tokens(tokenizer, *case) for case in cases])
    # A name that is given capitalised has its forms once.
    forms = [dict.fromkeys((animal.capitalize(), animal, animal.lower())) for animal in animals]
    names = [dict.fromkeys(tuple(tokenizer.encode(text)) for text in of_animal) for of_animal in forms]
    name_tokens, sizes = filled([line for of_animal in names for line in of_animal])
    cache = _prefill(net, params, tokens, lengths)
    nats = [np.asarray(_nats(net, params, cache, jnp.tile(name, (len(cases), 1)))) for name in name_tokens]
    ends = np.cumsum([len(of_animal) for of_animal in names])
    rows = []
    for case, (persona, question) in enumerate(cases):
        whole = [math.exp(of_name[case, :size].sum()) for of_name, size in zip(nats, sizes, strict=True)]
        for animal, of_animal, end in zip(animals, names, ends, strict=True):
            begin = end - len(of_animal)
            row = {"persona": persona, "question": question, "animal": animal}
            row |= {"first": math.exp(nats[begin][case, 0]), "word": sum(whole[begin:end])}
            rows.append(row)
    return rows
