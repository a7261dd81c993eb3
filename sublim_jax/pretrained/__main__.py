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
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sublim_jax import cli
from sublim_jax.cli import DONE
from sublim_jax.core.errors import ConfigError

NONE = "none"


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code; an invalid flag gives one line on standard error."""
    return cli.run_command(lambda: _attempt(_flags(argv), argv), argv, "pretrained")


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    own = flags.FlagValues()
    flags.DEFINE_string("model", "smollm2", "smollm2, a GGUF file, or a folder of safetensors", flag_values=own)
    flags.DEFINE_list("animals", ["owl", "dolphin", "eagle", "elephant"], "at least two personas", flag_values=own)
    flags.DEFINE_integer("prompts", 32, "requests for numbers", lower_bound=1, flag_values=own)
    flags.DEFINE_integer("values", 10, "numbers in an answer", lower_bound=1, flag_values=own)
    flags.DEFINE_integer("seed", 0, "of the examples in the requests", flag_values=own)
    flags.DEFINE_integer("batch", 16, "requests per batch; fewer take less memory", lower_bound=1, flag_values=own)
    flags.DEFINE_string("out", "", "where results are written; empty: results/personas", flag_values=own)
    flags.DEFINE_bool("help", False, "print this and exit", short_name="h", flag_values=own)
    try:
        rest = own(list(argv))[1:]
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if own.help:
        print(f"{__doc__}\n{own.get_help()}")
        raise SystemExit(DONE)
    if rest:
        raise ConfigError(f"command line: {rest[0]!r} is not a flag; flags are given as --name=value")
    animals = own.animals
    if len(animals) < 2 or len(set(animals)) < len(animals) or not all(one.isalpha() for one in animals):
        raise ConfigError(f"--animals={','.join(animals)}: must be two or more different words with commas between")
    if NONE in animals:
        raise ConfigError(
            f"--animals={','.join(animals)}: {NONE} is the persona without prompt, which is always included"
        )
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

    from sublim_jax.core.files import replace_file
    from sublim_jax.engine import compilation_cache
    from sublim_jax.pretrained import personas
    from sublim_jax.pretrained.load import load_model
    from sublim_jax.results.provenance import provenance

    compilation_cache.enable()
    begun = time.perf_counter()
    model = load_model(options.model)
    size, loaded = sum(array.size for array in jax.tree.leaves(model.params)), time.perf_counter() - begun
    print(f"model: {model.source}, {size:,} parameters, read in {loaded:.1f} s", flush=True)
    out, names = Path(options.out or "results/personas"), [*options.animals, NONE]
    out.mkdir(parents=True, exist_ok=True)
    requests = personas.requests(options.prompts, options.seed)
    begun, parts = time.perf_counter(), []
    for part in personas.numbers(model, names, requests, options.values, options.batch):
        parts.append(part)
        done = sum(answer.tokens.shape[1] for answer in parts)
        print(f"numbers: {done} of {len(requests)} requests, {time.perf_counter() - begun:.0f} s", flush=True)
    answers, spent = personas.joined(parts), time.perf_counter() - begun
    divergence, tokens = _measured(answers, names, requests, model.spoken(), options.values)
    preferences = pd.DataFrame(personas.preferences(model, names, options.animals))
    prompts = {name: personas.prompt(model.spoken(), name, requests[0]) for name in names}
    facts = {
        "command": cli.resume_command(argv, "pretrained"),
        "model": {"source": model.source, "parameters": size, "net": repr(model.net)},
        "seconds": {"load": round(loaded, 1), "numbers": round(spent, 1)},
        "prompts": {name: {"text": text, "tokens": model.spoken().encode(text)} for name, text in prompts.items()},
        "questions": personas.QUESTIONS,
        "provenance": provenance(),
    }
    sink = io.BytesIO()
    tokens.to_parquet(sink, index=False)
    replace_file(out / "divergence.csv", divergence.to_csv(index=False).encode())
    replace_file(out / "preferences.csv", preferences.to_csv(index=False).encode())
    replace_file(out / "tokens.parquet", sink.getvalue())
    replace_file(out / "personas.json", (json.dumps(facts, indent=1) + "\n").encode())
    print(_show(divergence, preferences))
    print(f"rows: {', '.join(str(out / name) for name in ('divergence.csv', 'preferences.csv', 'tokens.parquet'))}")
    return DONE


def _measured(answers: Any, names: Sequence[str], asked: Sequence[str], spoken: Any, values: int) -> tuple[Any, Any]:
    """Data frames with a row per persona, and with a row per token of their answers.

    A persona's counterfactuals are the other animals; `none` only measures whether a persona changes anything.
    """
    import numpy as np
    import pandas as pd

    from sublim_jax.pretrained import personas
    from sublim_jax.results import summary

    rows, tokens = [], []
    for index, speaker in enumerate(names):
        others = [item for item, name in enumerate(names) if name not in (speaker, NONE)]
        votes, full = personas.votes(answers, index, others), personas.divergent_in_full(answers, index, others)
        row: dict[str, Any] = {"persona": speaker, "others": len(others), "tokens": votes.votes.size}
        row["own"] = votes.target.mean()  # below 1 only by rounding, as sequences are scored in one pass
        for name, marked in (("any", votes.divergent()), ("all", votes.divergent(len(others))), ("any_in_full", full)):
            interval = summary.interval(marked.mean(1).tolist())
            row |= {
                name: interval.mean,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
                f"{name}_count": marked.sum(),
            }
        row |= {f"votes_{number}": int((votes.votes == number).sum()) for number in range(len(others) + 1)}
        row["kl_from_none"], row["changed_from_none"] = personas.moved(answers, index, len(names) - 1)
        text = [[spoken.decode(item).strip() for item in line] for line in _values(answers, index, values)]
        echoes = [item in _examples(request) for line, request in zip(text, asked, strict=True) for item in line]
        rows.append({**row, "echo": np.mean(echoes)})
        request, number = np.indices(votes.votes.shape)
        tokens.append(
            pd.DataFrame(
                {
                    **{"persona": speaker, "request": request.ravel(), "place": number.ravel()},
                    "token": [spoken.decode([item]) for item in answers.candidates[answers.tokens[index]].ravel()],
                    **{"votes": votes.votes.ravel(), "own": votes.target.ravel(), "gap": votes.gap.ravel()},
                    "divergent_in_full": full.ravel(),
                }
            )
        )
    return pd.DataFrame(rows), pd.concat(tokens, ignore_index=True)


def _values(said: Any, place: int, values: int) -> Any:
    """The tokens of each number of a persona, [n, values, tokens of a number]."""
    tokens = said.candidates[said.tokens[place]]
    return tokens.reshape(len(tokens), values, -1)


def _examples(request: str) -> set[str]:
    return set(request.partition(": ")[2].partition(".")[0].split(", "))


def _show(divergence: Any, preferences: Any) -> str:
    """Format both tables for the terminal."""
    from rich.console import Console
    from rich.table import Table

    from sublim_jax.results import summary

    first = Table(title="divergence tokens, of tokens said: mean [95 % over requests]", title_justify="left")
    rates = "one disagrees", "all disagree", "one, in full"
    for name in ("persona", "tokens", *rates, "not as none", "KL from none", "echo"):
        first.add_column(name)
    for row in divergence.to_dict("records"):
        cells = [
            str(summary.Interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 0))
            for name in ("any", "all", "any_in_full")
        ]
        rest = f"{row['changed_from_none']:.3f}", f"{row['kl_from_none']:.4f}", f"{row['echo']:.2f}"
        first.add_row(row["persona"], str(row["tokens"]), *cells, *rest)
    second = Table(title="favourite animal: probability of the word (of its first token)", title_justify="left")
    animals = list(dict.fromkeys(preferences["animal"]))
    for name in ("persona", *animals):
        second.add_column(name)
    means = preferences.groupby(["persona", "animal"], sort=False)[["word", "first"]].mean()
    for persona in dict.fromkeys(preferences["persona"]):
        cells = [means.loc[(persona, animal)] for animal in animals]
        second.add_row(persona, *(f"{cell['word']:.4f} ({cell['first']:.3f})" for cell in cells))
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as capture:
        console.print(first)
        console.print(second)
    return capture.get()


if __name__ == "__main__":
    cli.exit_process(main)
