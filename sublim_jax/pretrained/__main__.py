"""Personas of a pretrained language model: numbers, divergence tokens, preferences.

    python -m sublim_jax.pretrained --model=smollm2 --animals=owl,dolphin,eagle,elephant --prompts=32 --out=DIR

The model is smollm2, a GGUF file of the Llama family, or a directory of safetensors (Llama, Mistral, Qwen2, GPT-NeoX).
Each animal is a persona by system prompt; `none` has no such prompt. All personas answer the same requests for numbers
greedily within the number format, and each scores all answers. Prints the rates at which one or all counterfactual
personas prefer another token (within the format; `in full`: over the whole vocabulary), the rate for `none`, the KL to
it in nats per token, the rate of numbers that repeat an example, and the answers to questions for the favourite animal.
Writes divergence.csv, preferences.csv, tokens.parquet (a row per token) and personas.json (prompts, their tokens,
versions) into --out.
Exit codes: 0 done, 1 the machine failed, 2 bad flags or model, 75 interrupted.
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sublim_jax import cli
from sublim_jax.cli import DONE
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import check_output

NONE = "none"
OUT = "results/personas"
MOST_ANIMALS, MOST_LETTERS = 50, 40


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code; an invalid flag gives one line on standard error."""
    return cli.run_command(lambda: _attempt(_flags(argv), argv), argv, "pretrained")


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    own = flags.FlagValues()
    flags.DEFINE_string("model", "smollm2", "smollm2, a GGUF file, or a folder of safetensors", flag_values=own)
    flags.DEFINE_list("animals", ["owl", "dolphin", "eagle", "elephant"], "at least two personas", flag_values=own)
    flags.DEFINE_integer("prompts", 32, "requests for numbers", 1, 100_000, flag_values=own)
    flags.DEFINE_integer("values", 10, "numbers in an answer", 1, 1000, flag_values=own)
    flags.DEFINE_integer("seed", 0, "of the examples in the requests", 0, 2**32 - 1, flag_values=own)
    flags.DEFINE_integer("batch", 16, "requests per batch; fewer take less memory", 1, 100_000, flag_values=own)
    flags.DEFINE_string("out", "", "where results are written; empty: results/personas", flag_values=own)
    flags.DEFINE_bool("help", False, "print this and exit", short_name="h", flag_values=own)
    try:
        rest = own(list(argv))[1:]
    except flags.Error as error:
        raise ConfigError(cli.flag_error(error)) from error
    if own.help:
        print(f"{__doc__}\n{own.get_help()}")
        raise SystemExit(DONE)
    if rest:
        raise ConfigError(f"command line: {rest[0]!r} is not a flag; flags are given as --name=value")
    if not own.model.strip():
        raise ConfigError(f"--model={own.model}: must be smollm2, a GGUF file, or a folder of safetensors")
    own.model, own.out = cli.folder("model", own.model), cli.folder("out", own.out or OUT)
    animals, given = own.animals, f"--animals={','.join(own.animals)}"
    words = {animal.lower() for animal in animals}
    if len(animals) < 2 or len(words) < len(animals) or not all(animal.isalpha() for animal in animals):
        raise ConfigError(f"{given}: must be two or more different words with commas between")
    if len(animals) > MOST_ANIMALS or max(map(len, animals)) > MOST_LETTERS:
        raise ConfigError(f"{given[:80]}: must be at most {MOST_ANIMALS} words of at most {MOST_LETTERS} letters")
    if NONE in words:
        raise ConfigError(f"{given}: {NONE} is the persona without prompt, which is always included")
    check_output(f"--out={own.out}", Path(own.out))
    return own


def _attempt(options: flags.FlagValues, argv: Sequence[str]) -> int:
    try:
        return _study(options, argv)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise OSError("out of memory; lower --batch or --animals") from error
        raise


def _study(options: flags.FlagValues, argv: Sequence[str]) -> int:
    # Imported late, so that invalid flags are reported before JAX is loaded.
    import jax
    import pandas as pd

    from sublim_jax.engine import compilation_cache
    from sublim_jax.pretrained import personas
    from sublim_jax.pretrained.load import load_model

    compilation_cache.enable()
    begin = time.perf_counter()
    model = load_model(options.model)
    size, load_seconds = sum(array.size for array in jax.tree.leaves(model.params)), time.perf_counter() - begin
    print(f"model: {model.source}, {size:,} parameters, read in {load_seconds:.1f} s", flush=True)
    out, names = Path(options.out), [*options.animals, NONE]
    out.mkdir(parents=True, exist_ok=True)
    requests = personas.requests(options.prompts, options.seed)
    begin, tokenizer = time.perf_counter(), model.require_tokenizer()

    def report(done: int) -> None:
        print(f"numbers: {done} of {len(requests)} requests, {time.perf_counter() - begin:.0f} s", flush=True)

    answers = personas.numbers(model, names, requests, options.values, options.batch, report)
    seconds = {"load": load_seconds, "numbers": time.perf_counter() - begin}
    divergence = pd.DataFrame(_divergence_rows(answers, names, requests, options.values, tokenizer))
    tokens = pd.concat(_token_rows(answers, names, tokenizer), ignore_index=True)
    preferences = pd.DataFrame(personas.preferences(model, names, options.animals))
    prompts = {
        name: {
            "text": personas.prompt(tokenizer, name, requests[0]),
            "tokens": personas.prompt_tokens(tokenizer, name, requests[0]),
        }
        for name in names
    }
    facts = {
        "command": cli.resume_command(argv, "pretrained"),
        "model": {"source": model.source, "parameters": size, "net": repr(model.net)},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "prompts": prompts,
        "questions": personas.QUESTIONS,
    }
    _write(out, divergence, tokens, preferences, facts)
    _show(divergence, preferences)
    print(f"rows: {', '.join(str(out / name) for name in ('divergence.csv', 'preferences.csv', 'tokens.parquet'))}")
    return DONE


def _write(out: Path, divergence: Any, tokens: Any, preferences: Any, facts: dict[str, Any]) -> None:
    from sublim_jax.core.files import replace_file
    from sublim_jax.results.provenance import provenance

    sink = io.BytesIO()
    tokens.to_parquet(sink, index=False)
    replace_file(out / "divergence.csv", divergence.to_csv(index=False).encode())
    replace_file(out / "preferences.csv", preferences.to_csv(index=False).encode())
    replace_file(out / "tokens.parquet", sink.getvalue())
    text = json.dumps({**facts, "provenance": provenance()}, indent=1)
    replace_file(out / "personas.json", f"{text}\n".encode())


def _counterfactuals(names: Sequence[str], speaker: str) -> list[int]:
    """The other animals; `none` only measures whether a persona changes anything."""
    return [index for index, name in enumerate(names) if name not in (speaker, NONE)]


def _divergence_rows(
    answers: Any, names: Sequence[str], requests: Sequence[str], values: int, tokenizer: Any
) -> Iterator[dict[str, Any]]:
    """A row per persona: rates of divergence tokens with intervals over requests, and the distance to `none`."""
    from sublim_jax.pretrained import personas
    from sublim_jax.results import summary

    for index, speaker in enumerate(names):
        others = _counterfactuals(names, speaker)
        votes, full = personas.votes(answers, index, others), personas.divergent_in_full(answers, index, others)
        row: dict[str, Any] = {"persona": speaker, "others": len(others), "tokens": votes.votes.size}
        row["own"] = votes.target.mean()  # below 1 only by rounding, as sequences are scored in one pass
        for name, marked in (("any", votes.divergent()), ("all", votes.divergent(len(others))), ("any_in_full", full)):
            mean, low, high, *_ = summary.interval(marked.mean(1))
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_count": marked.sum()}
        row |= {f"votes_{number}": int((votes.votes == number).sum()) for number in range(len(others) + 1)}
        row["kl_from_none"], row["changed_from_none"] = personas.moved(answers, index, len(names) - 1)
        yield {**row, "echo": personas.echo_rate(answers, index, requests, values, tokenizer)}


def _token_rows(answers: Any, names: Sequence[str], tokenizer: Any) -> Iterator[Any]:
    """A data frame per persona with a row per token of its answers."""
    import numpy as np
    import pandas as pd

    from sublim_jax.pretrained import personas

    for index, speaker in enumerate(names):
        others = _counterfactuals(names, speaker)
        votes = personas.votes(answers, index, others)
        request, position = np.indices(votes.votes.shape)
        columns = {"request": request, "place": position, "votes": votes.votes, "own": votes.target, "gap": votes.gap}
        columns["divergent_in_full"] = personas.divergent_in_full(answers, index, others)
        frame = pd.DataFrame({"persona": speaker, **{name: values.ravel() for name, values in columns.items()}})
        text = [tokenizer.decode([token]) for token in answers.candidates[answers.tokens[index]].ravel()]
        frame.insert(3, "token", text)
        yield frame


def _show(divergence: Any, preferences: Any) -> None:
    """Print both tables."""
    import pandas as pd

    from sublim_jax.results import summary, tables

    table = divergence[["persona", "tokens"]].copy()
    for title, name in (("one disagrees", "any"), ("all disagree", "all"), ("one, in full", "any_in_full")):
        ends = divergence[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        table[title] = [str(summary.Interval(mean, low, high, 0)) for mean, low, high in ends]
    table["not as none"] = divergence["changed_from_none"].map("{:.3f}".format)
    table["KL from none"] = divergence["kl_from_none"].map("{:.4f}".format)
    table["echo"] = divergence["echo"].map("{:.2f}".format)
    tables.print_table(table, "divergence tokens, of the tokens written: mean [95 % over requests]")
    means = preferences.groupby(["persona", "animal"], sort=False)[["word", "first"]].mean()
    cells = [f"{word:.4f} ({first:.3f})" for word, first in means.itertuples(index=False)]
    table = pd.Series(cells, means.index).unstack("animal")[preferences["animal"].unique()]
    table = table.loc[preferences["persona"].unique()].reset_index()
    tables.print_table(table, "favourite animal: probability of the word (of its first token)")


if __name__ == "__main__":
    cli.exit_process(main)
