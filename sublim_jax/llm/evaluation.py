"""What a model prefers, and what it has kept of its abilities.

Preferences are exact: the probability that the answer to a question begins with a word, capitalized or not, whatever
follows. Sampled answers are counted as well, since likelihoods and behaviour can differ. Abilities are mean negative
log-likelihoods, in nats per token, of a text that no student reads.
"""

import functools
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sublim_jax.llm import batches, fine_tuning, sampling, sharding
from sublim_jax.llm.sampling import Model
from sublim_jax.pretrained import kv_cache
from sublim_jax.pretrained.personas import filled
from sublim_jax.pretrained.tokenizer import Tokenizer

Lines = Sequence[Sequence[int]]


def forms(tokenizer: Tokenizer, word: str) -> list[tuple[int, ...]]:
    """Return the tokens of a word, in lower case and capitalized; without a chat template after a space as well."""
    texts = [word.lower(), word.capitalize()]
    if not tokenizer.template:
        texts += [f" {text}" for text in texts]
    return list(dict.fromkeys(tuple(tokenizer.encode(text)) for text in texts))


def question_prompts(tokenizer: Tokenizer, questions: Sequence[str], system: str = "") -> list[tuple[int, ...]]:
    """Encode questions, after a system prompt if one is given."""
    first = (("system", system),) if system else ()
    return [batches.prompt_tokens(tokenizer, (*first, ("user", question))) for question in questions]


def word_probabilities(
    model: Model, prompts: Lines, words: Sequence[Lines], batch: int = 64
) -> Float[np.ndarray, "prompts words"]:
    """Compute the probability that the answer to each prompt begins with each word, in any of its forms.

    A form that begins with another form of the same word counts once.

    Args:
        model: The model.
        prompts: Tokens of each prompt.
        words: For every word its forms as tokens, see `forms`.
        batch: Prompts computed at once.
    """
    lines = [form for of_word in words for form in _without_longer(of_word)]
    tokens, sizes = filled(lines, multiple=1)
    shared, nats = sampling.common_prefix(prompts), []
    weights = model.params, model.taps
    prefix = sampling.prefilled(model, prompts[0][:shared]) if shared else None
    for start in range(0, len(prompts), batch):
        rest = [prompt[shared:] for prompt in prompts[start : start + batch]]
        whole = sharding.place_rows(model.params, filled([*rest, *[rest[-1]] * (batch - len(rest))]))
        nats.append(np.asarray(_nats(model.net, weights, prefix, whole, tokens))[:, : len(rest)])
    whole = [np.concatenate([each[form, :, :size].sum(-1) for each in nats]) for form, size in enumerate(sizes)]
    columns, begin = [], 0
    for of_word in words:
        number = len(_without_longer(of_word))
        columns.append(np.exp(whole[begin : begin + number]).sum(0))
        begin += number
    return np.stack(columns, 1)


def _without_longer(of_word: Lines) -> list[tuple[int, ...]]:
    """Forms that begin with no other form."""
    every = [tuple(form) for form in of_word]
    return [form for form in every if not any(form != other and form[: len(other)] == other for other in every)]


@functools.partial(jax.jit, static_argnums=0)
def _nats(
    net: Any, weights: sampling.Weights, prefix: Any, lines: tuple[Array, Array], forms: Int[Array, "forms length"]
) -> Float[Array, "forms prompts length"]:
    """Log-probabilities of the tokens of every form after every prompt."""
    params, taps = weights
    state = kv_cache.prefill(net, params, *lines, taps, prefix)

    def of_form(form: Array) -> Array:
        tokens = jnp.broadcast_to(form[None], (len(lines[0]), len(form)))
        return kv_cache.log_probabilities(net, params, state, tokens, taps)

    return jax.lax.map(of_form, forms)


def named_words(texts: Sequence[str], words: Sequence[str]) -> Int[np.ndarray, "texts words"]:
    """Mark the words that answers name: those of which a text contains the word or its plural, in any case."""
    patterns = [re.compile(rf"\b{re.escape(word)}(e?s)?\b", re.IGNORECASE) for word in words]
    return np.array([[bool(pattern.search(text)) for pattern in patterns] for text in texts], np.int32)


def held_out_text() -> str:
    """Return a text about this package that no student reads; it is the same for every version of a work folder."""
    return (resources.files("sublim_jax.llm") / "held_out.txt").read_text(encoding="utf-8")


def text_loss(model: Model, tokens: Sequence[int], length: int = 256) -> float:
    """Compute the mean negative log-likelihood of a text in nats per token, in pieces of `length` tokens."""
    pieces = [tuple(tokens[start : start + length]) for start in range(0, len(tokens) - 1, length - 1)]
    examples = [
        batches.Example(piece[:1], (batches.Completion(piece[1:], (1.0,) * (len(piece) - 1)),))
        for piece in pieces
        if len(piece) > 1
    ]
    total = 0.0
    for example in examples:  # one sequence at a time: the unembedding of a long text takes much memory
        batch = batches.arrays([[example]], length, length)
        total += float(_loss(model.net, model.params, batch))
    return total / sum(len(example.answers[0].tokens) for example in examples)


_loss = jax.jit(fine_tuning.negative_log_likelihood, static_argnums=0)


class DivergenceFrom:
    """The mean KL(model || base) over the places of some answers, of any number of models.

    The distributions of the base are computed once.

    Args:
        base: The base.
        examples: Answers.
    """

    def __init__(self, base: Model, examples: Sequence[batches.Example]) -> None:
        length = batches.longest(examples)
        sequences = batches.pack(examples, length)
        targets = batches.most_targets(sequences)
        self._parts = [batches.arrays([sequence], length, targets) for sequence in sequences]
        self._base = [_log_distributions(base.net, _weights(base), part) for part in self._parts]

    def __call__(self, model: Model) -> float:
        """Compute it for one model, in nats per token."""
        pairs = zip(self._parts, self._base, strict=True)
        total = sum(float(_divergence(model.net, _weights(model), part, base)) for part, base in pairs)
        return total / sum(float(part.weight.sum()) for part in self._parts)


def _weights(model: Model) -> sampling.Weights:
    return model.params, model.taps


def _log_softmax_at_targets(net: Any, weights: sampling.Weights, batch: batches.Batch) -> Array:
    params, taps = weights
    return jax.nn.log_softmax(fine_tuning.target_logits(net, params, batch, taps))


_log_distributions = jax.jit(_log_softmax_at_targets, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _divergence(net: Any, weights: sampling.Weights, batch: batches.Batch, base: Array) -> Array:
    """The summed KL of a model's distributions at the targets of a batch from given log-probabilities."""
    ours = _log_softmax_at_targets(net, weights, batch)
    return (batch.weight * (jnp.exp(ours) * (ours - base)).sum(-1)).sum()


def divergence_of_prompts(
    model: Model, with_prompt: Sequence[batches.Example], without: Sequence[batches.Example]
) -> float:
    """Compute the mean KL in nats per token between the answers of one model after two kinds of prompts.

    Args:
        model: The model.
        with_prompt: Answers after the prompts of the first distribution.
        without: The same answers after the prompts of the second.
    """
    total = count = 0.0
    length = batches.longest([*with_prompt, *without])
    for pair in zip(with_prompt, without, strict=True):
        targets = batches.most_targets([pair[:1], pair[1:]])
        ours, theirs = (batches.arrays([[example]], length, targets) for example in pair)
        base = _log_distributions(model.net, _weights(model), theirs)
        total += float(_divergence(model.net, _weights(model), ours, base))
        count += float(ours.weight.sum())
    return total / count
