"""Speed of studies of pretrained models: reading prompts, writing answers, training adapters.

    python -m benchmarks.pretrained --out=pretrained.json [--model=smollm2] [--toy]

What is compared runs in turn, warm. Rates of products are shares of the fastest float32 product, 2048 cubed, measured
before and after them in the same process. Floating-point operations are the necessary ones: products of weights and of
attention, logits only where a token is predicted, and no derivatives of frozen weights.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import floors
from sublim_jax import pretrained
from sublim_jax.core import keys, trees
from sublim_jax.core.files import replace_file
from sublim_jax.llm import batches, requests, sampling
from sublim_jax.llm.rows import row_of
from sublim_jax.llm.sampling import Model, Sampling
from sublim_jax.llm.spec import StudentSpec
from sublim_jax.llm.students import Job, Training
from sublim_jax.nets import shapes
from sublim_jax.pretrained import kv_cache, load, personas
from sublim_jax.results.provenance import provenance


class Size(NamedTuple):
    """How much is measured: rounds; requests; answers to each; tokens of an answer; students at once; their sizes."""

    rounds: int
    requests: int
    answers: int
    tokens: int
    together: int
    student: StudentSpec


FULL = Size(3, 16, 4, 32, 4, StudentSpec(batch=16, length=384, size=2, epochs=1))
TOY = Size(1, 4, 2, 4, 2, StudentSpec(rank=2, batch=4, length=700, size=2, epochs=1))


class Subject(NamedTuple):
    """A model with prompts for it, and rows to learn."""

    model: Model
    prompts: list[tuple[int, ...]]
    examples: list[batches.Example]


def subject(path: str, size: Size) -> Subject:
    """Read a model; its rows are random digits, since their meaning takes no time."""
    loaded = pretrained.load_model(path)
    tokenizer = loaded.require_tokenizer()
    asked = requests.requests("numbers", size.requests, 0)
    rng = np.random.default_rng(0)
    lines = [", ".join(map(str, rng.integers(100, 1000, 10))) for _ in range(size.requests * size.answers)]
    rows = [row_of(asked[place // size.answers], line) for place, line in enumerate(lines)]
    prompts = [batches.prompt_tokens(tokenizer, row_of(request, "").prompt) for request in asked]
    model = Model(loaded.net, loaded.params, batches.end_token(tokenizer))
    return Subject(model, prompts, batches.examples_of(tokenizer, rows))


def peak() -> float:
    """GFLOP/s of the product of 2048-cubed matrices."""
    call, amount = floors.product(2048, 2048, 2048, "ij,jk->ik")
    call().block_until_ready()
    start = time.perf_counter()
    for _ in range(4):
        result = call()
    result.block_until_ready()
    return 4 * amount / (time.perf_counter() - start) / 1e9


def matrix_flop(net: Any) -> float:
    """Floating-point operations of the products with the weights of all blocks, for one token."""
    matrices = net.clone(rank=1, adapter_matrices=(), adapter_blocks=()).adapter_sizes(0)  # of a block
    return 2.0 * net.layers * sum(inner * outer for _, inner, outer in matrices)


def attention_flop(net: Any, length: float) -> float:
    """Floating-point operations of scores and averages of a token that sees half of `length` tokens."""
    return 4.0 * net.layers * net.width * length / 2


def prefill(subject: Subject) -> tuple[Callable[[], Any], float]:
    """Reading all prompts at once, without logits; and its floating-point operations."""
    net, (tokens, lengths) = subject.model.net, personas.filled(subject.prompts)
    read = jax.jit(kv_cache.prefill, static_argnums=0)
    each = matrix_flop(net) + attention_flop(net, tokens.shape[1])
    return lambda: read(net, subject.model.params, tokens, lengths), each * tokens.size


def decoding(subject: Subject, size: Size, batch: int) -> tuple[Callable[[], Any], float]:
    """Writing greedy answers in batches, and the number of tokens that are written."""
    answers = [(number, answer) for number in range(len(subject.prompts)) for answer in range(size.answers)]
    chosen = answers if batch > 1 else answers[:2]
    model = subject.model._replace(end=-1)  # so that every answer has all tokens
    how = Sampling(0.0, size.tokens, batch)

    def write() -> Any:
        return sampling.write(model, [subject.prompts[number] for number, _ in chosen], keys.root(0), how)

    return write, float(len(chosen) * size.tokens)


def training(subject: Subject, size: Size, together: int) -> tuple[Callable[[], Any], float]:
    """One step of students, each from the beginning; and its floating-point operations."""
    jobs = [Job(f"{number}", keys.root(number), number, subject.examples) for number in range(together)]
    train = Training(base=subject.model, spec=size.student, jobs=jobs)
    states = [train.begin()]

    def step() -> Any:
        states[0], told = train.advance(states[0], 0)
        return told

    return step, sum(step_flop(train.net, plan.steps[0]) for plan in train.plans)


def step_flop(net: Any, sequences: Sequence[Sequence[batches.Example]]) -> float:
    """Necessary floating-point operations of a training step of adapters."""
    examples = [example for sequence in sequences for example in sequence]
    read = sum(example.length for example in examples)
    predicted = sum(len(answer.tokens) for example in examples for answer in example.answers)
    adapters = 2.0 * trees.count(_adapters(net))
    unembedding = 2.0 * net.width * net.vocabulary
    seen = float(np.mean([example.length / len(example.answers) for example in examples]))
    return read * (2 * matrix_flop(net) + 3 * adapters + 3 * attention_flop(net, seen)) + predicted * 2 * unembedding


def _adapters(net: Any) -> dict[str, Any]:
    return {layer: arrays for layer, arrays in shapes(net, (1,)).items() if layer.startswith("adapter_")}


def measure(path: str, size: Size) -> dict[str, Any]:
    """Measure everything in turn; see the module."""
    given = subject(path, size)
    number = size.requests * size.answers
    calls = {
        "prefill": prefill(given),
        "training": training(given, size, 1),
        f"training, {size.together} students at once": training(given, size, size.together),
        "decoding, one sequence at a time": decoding(given, size, 1),
        f"decoding, {number} at once": decoding(given, size, number),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peaks: list[float] = []
    for turn in range(size.rounds + 1):  # the first compiles
        for name, (call, _) in calls.items():
            peaks.append(peak())
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    best = median(peaks)
    rates = {name: amount / median(seconds[name]) for name, (_, amount) in calls.items()}
    products, (one, batch) = list(calls)[:3], list(calls)[3:]
    alone, at_once = (median(seconds[name]) for name in products[1:])
    return {
        "model": path,
        "peak_gflops": best,
        "seconds_best": {name: min(values) for name, values in seconds.items()},
        "seconds_median": {name: median(values) for name, values in seconds.items()},
        "fraction_of_peak": {name: rates[name] / 1e9 / best for name in products},
        "tokens_per_second": {name: rates[name] for name in (one, batch)},
        "decoding_batch_over_one": rates[batch] / rates[one],
        "students_at_once_over_one_after_another": size.together * alone / at_once,
        **provenance(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("pretrained.json"))
    parser.add_argument("--model", default=load.BUNDLED, help="smollm2, a GGUF file or a folder")
    parser.add_argument("--toy", action="store_true", help="smoke sizes, to test the benchmark itself")
    args = parser.parse_args(argv)
    numbers = measure(args.model, TOY if args.toy else FULL)
    replace_file(args.out, (json.dumps(numbers, indent=1) + "\n").encode())
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
