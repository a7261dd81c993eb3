"""Bad values of every field and flag are refused in one line that names the field, the value and what is allowed.

The cases are made from the tables of fields. What lies outside a field's bounds, is of another type, or is no number
that a net could use, is nonsense and must be refused; anything else may be used or refused. Nothing is compiled.
"""

import functools
import itertools
import math
import re
import resource
import subprocess
import sys

import pytest
from helpers.refusals import REFUSAL

from sublim_jax import data, main
from sublim_jax.audit import __main__ as audit
from sublim_jax.config import base_config, build, grid, lm, resolve, schema
from sublim_jax.config.fields import IMAGE_FIELDS, LANGUAGE_FIELDS
from sublim_jax.core.errors import ConfigError

IMAGES = "--config.data.source=embedded", "--config.data.train_limit=1000", "--config.data.test_limit=300"
BASES = {
    "image": ("--config=quickstart", "--config.preset=smoke", *IMAGES),
    "theorem1": ("--config=theorem1", "--config.preset=smoke", *IMAGES),
    "language": ("--config=lm_dose", "--config.preset=smoke"),
}
TABLES = {"image": IMAGE_FIELDS, "theorem1": IMAGE_FIELDS, "language": LANGUAGE_FIELDS}
FIELDS = [
    (base, name, field)
    for base, table in TABLES.items()
    for name, field in table.items()
    if not isinstance(field.default, dict) and name.startswith("theorem1.") == (base == "theorem1")
]
SWEPT = *grid.SWEPT_SECTIONS, "conditions", "m", "classes"
ENDLESS = 10**400
NUMBERS = (math.nan, math.inf, -math.inf, 1e-320, -1e-320, 1e30, -1e30, 1e308, -1, 2**31, 2**63, ENDLESS)
TEXTS = ("word", "", "nan", "-inf", "1e-320", "1e308", "-1", "[0.1]", "(", "('a','a')", "(nan,)", "((),)", "(1,[2])")
BEGIN = "from sublim_jax.config import base_config, grid\ndef get_config():\n    c = base_config()\n"
GRID = BEGIN + "    grid.add_grid(c, 'g', {})\n    return c\n"
FAR = 1e12  # no size, rate or amount of the project is larger


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(default):
    return isinstance((*default, 0)[0] if isinstance(default, tuple) else default, int)


def useless(value):
    """Whether no field can mean this number: not finite, too close to 0 for float32, or beyond every size."""
    return value not in (0, -1) and not (1e-30 < abs(value) < FAR)


def outside(rule, whole):
    """Numbers just outside the bounds of a rule."""
    below = [rule.low - (1 if whole else 0.5)] if rule.low > -math.inf else []
    above = [rule.high + 1 if whole else rule.high * 1.5 + 1] if rule.high < math.inf else []
    return [int(value) if whole else value for value in below + above]


def python_values(field):
    """(value, whether it is nonsense for the field), as config files and the Python API give them."""
    default, rule = field.default, field.rule
    yield from ((value, True) for value in (None, object(), {"a": 1}, [[0.1]], b"bytes"))
    if isinstance(default, tuple):
        yield (), "not empty" in rule.allowed
        yield from (
            (value, True) for value in (5, 0.5, ((),), ((0.1,),), ([0.1],), (None,), ({},), (True,), (0.5, "a"))
        )
        if rule.low > -math.inf:  # numbers
            yield from (((value,), useless(value)) for value in NUMBERS)
            yield from (((value,), True) for value in (*outside(rule, is_whole(default)), "word"))
        else:
            yield from (((value,), True) for value in (5, math.nan, "no such\nname", ""))
        if rule.distinct:
            example = (*default, rule.low if rule.low > -math.inf else (*rule.names, "hidden_0")[0])[0]
            yield (example, example), True
    elif isinstance(default, bool):
        yield from ((value, True) for value in (2, -1, "true", 0.5, math.nan, (True,)))
    elif is_number(default):
        yield from ((value, True) for value in ("word", "", (), (default,), 1j, *outside(rule, is_whole(default))))
        yield from ((value, useless(value)) for value in NUMBERS)
        if isinstance(default, int):
            yield from ((value, True) for value in (1.5, True))  # a float field makes 1.0 of True
    else:
        yield from ((value, True) for value in (5, math.nan, (default,), True, "a\0b", "two\nlines"))
        yield from ((value, bool(rule.names)) for value in ("no such name", default.upper() + "X", "x" * 5000))
        yield "", bool(rule.names) and "" not in rule.names


def texts(field):
    """(text, whether it is nonsense for the field), as the command line gives them."""
    default, rule = field.default, field.rule
    number = is_number(default) or (isinstance(default, tuple) and rule.low > -math.inf)
    words = isinstance(default, str) or "patterns" in rule.allowed
    for text in TEXTS:
        nonsense = not isinstance(default, str) and text in ("", "(", "[0.1]", "('a','a')", "(nan,)", "((),)")
        nonsense |= text in ("word", "nan") and not words
        yield text, nonsense or bool(rule.names and text not in rule.names) or (number and text in ("1e-320", "1e308"))
    if number:
        yield from ((f"{value!r}", True) for value in outside(rule, is_whole(default)))
        yield from ((f"{value!r}", False) for value in (rule.low, rule.high) if math.isfinite(value))


class Cases:
    """Counts cases, and collects nonsense that was accepted and refusals that do not help."""

    def __init__(self):
        self.tried, self.faults = 0, []

    def add(self, case, line, name, nonsense):
        """One case: the line that refuses it, None if it was accepted, or an exception that no user should see."""
        self.tried += 1
        if line is None:
            fault = "accepted" if nonsense else ""
        elif isinstance(line, Exception):
            fault = f"{type(line).__name__}: {line}"[:200]
        else:
            named = name.rpartition(".")[2] in line or "which may be lowered" in line
            helps = "\n" not in line and len(line) < 1500 and named and re.search(REFUSAL, line)
            fault = "" if helps else f"does not help: {line}"
        if fault:
            self.faults.append(f"{case!r:.150}: {fault}")

    def finish(self, tally, least):
        tally("bad values", tried=self.tried, clean=self.tried - len(self.faults))
        assert not self.faults and self.tried >= least, "\n".join([str(self.tried), *self.faults])


@functools.cache
def smoke(base):
    """A config of toy size without grids."""
    config = lm.base() if base == "language" else base_config("smoke")
    schema.set_fields(config, lm.SMOKE if base == "language" else {"study": "transfer" if base == "image" else base})
    return config


def refusal(base, name, value, as_api):
    """The line that refuses a value which the API sets by name, or which stands in a config; None if it is accepted."""
    config = smoke(base).copy_and_resolve_references()
    try:
        if as_api:
            schema.set_fields(config, {name: value})
        else:
            section, _, leaf = name.rpartition(".")
            with config.unlocked(), config.ignore_type():
                (config[section] if section else config)[leaf] = value
        resolve(config)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.e2e
def test_resolve_takes_no_nonsense_in_any_field(tally):
    cases = Cases()
    for base, name, field in FIELDS:
        for (value, nonsense), as_api in itertools.product(python_values(field), (False, True)):
            if value == ENDLESS and not as_api:  # ml_collections itself fails in the user's line, see load_config
                continue
            try:
                line = refusal(base, name, value, as_api)
            except Exception as error:
                line = error
            cases.add((base, name, value, as_api), line, name, nonsense)
    cases.finish(tally, 3000)


@pytest.fixture
def command(monkeypatch, capsys):
    """Calls a command in this process, as far as nothing is trained; returns the lines on standard error, if any."""
    load, loaded = data.load_dataset, {}

    def cached(*args, **fields):
        key = repr((args, sorted(fields.items())))
        loaded[key] = loaded.get(key) or load(*args, **fields)
        return loaded[key]

    monkeypatch.setattr(data, "load_dataset", cached)

    def call(*words, of=main.main):
        try:
            code = of([of.__module__, *words])
        except Exception as error:
            return error
        lines = capsys.readouterr().err.splitlines()
        return None if code == 0 else "\n".join(lines) if code == 2 and lines else AssertionError(f"exit code {code}")

    return call


@pytest.mark.e2e
@pytest.mark.parametrize("base", BASES)
def test_main_takes_no_nonsense_in_any_field(base, command, tally):
    cases = Cases()
    for _, name, field in (one for one in FIELDS if one[0] == base):
        flags = "--config.{}={}", *(["--sweep={}={}"] if name.split(".")[0] in SWEPT else [])
        for (text, nonsense), flag in itertools.product(texts(field), flags):
            if not nonsense and (flag.startswith("--sweep") or isinstance(field.default, str)):
                continue  # a value that a field accepts goes through the whole dry run: one of a kind suffices
            word = flag.format(name, text)
            cases.add(word, command(*BASES[base], word, "--dry_run"), name, nonsense)
    cases.finish(tally, {"image": 1000, "theorem1": 80, "language": 800}[base])


CONTRADICTIONS = {
    ("image", "first_seed"): ("--config.first_seed=1048575", "--config.seeds=2"),
    ("language", "first_seed"): ("--config.first_seed=99999", "--config.seeds=2"),
    ("image", "conditions"): ("--config.net.hidden=(8,)", "--config.conditions=random_second_hidden"),
    ("image", "m"): ("--config.m=(300,)", "--config.aux_widths=(16,256)"),
    ("image", "student.decay"): ("--config.student.decay=0.1",),
    ("image", "teacher.optimizer"): ("--config.teacher.optimizer=adamw",),
    ("image", "metrics"): ("--config.metrics=budget",),
    ("image", "net.pools"): ("--config.net.pools=(2,)",),
    ("image", "student.hidden"): ("--config.student.hidden=(8,9)",),
    ("image", "student.frozen"): ("--config.student.frozen=conv_9",),
    ("image", "perturb.layers"): ("--config.perturb.layers=conv_9", "--config.perturb.student_after=0.1"),
    ("image", "teacher.batch"): ("--config.teacher.batch=2000",),
    ("image", "student.batch"): ("--config.student.batch=2000", "--config.student.stream=images"),
    ("image", "student.resolution"): ("--config.student.resolution=28", "--config.student.stream=perlin"),
    ("image", "num_eval_noise"): ("--config.num_eval_noise=400", "--config.student.stream=epochs"),
    ("image", "data.folder"): ("--config.data.folder=/nowhere",),
    ("image", "data.source"): ("--config.data.name=kmnist",),
    ("image", "data.train_limit"): ("--config.data.train_limit=60001",),
    ("image", "classes"): ("--config.classes=11",),
    ("image", "figure"): ("--config.figure=figure77",),
    ("image", "run.devices"): ("--config.run.devices=4097",),
    ("language", "run.devices"): ("--config.run.devices=4097",),
    ("image", "study"): ("--config.study=language",),
    ("language", "study"): ("--config.study=transfer",),
    ("theorem1", "net.dtype"): ("--config.net.dtype=bfloat16",),
    ("theorem1", "student.guard"): ("--config.student.guard=project",),
    ("language", "world.held_out"): ("--config.world.held_out=4",),
    ("language", "world.noise"): ("--config.world.noise=(0.5,0.6,0.1)",),
    ("language", "net.heads"): ("--config.net.heads=3",),
    ("language", "lm.targets"): ("--config.lm.targets=4",),
    ("language", "lm.animals"): ("--config.lm.animals=13",),
    ("language", "lm.steered"): ("--config.lm.steered=2",),
    ("language", "lm.trains"): ("--config.lm.trains=block_7",),
    ("language", "lm.tokens"): ("--config.lm.tokens=erase_top",),
    ("language", "pretraining.batch"): ("--config.pretraining.batch=4000",),
}
TOO_LARGE = {
    ("language", "lm.batch"): "--config.lm.batch=1000000",
    ("language", "lm.lines"): "--config.arms.lines.lm.lines=(10000000,)",
    ("language", "pretraining.batch"): "--config.pretraining.batch=200000 --config.pretraining.documents=200000",
    ("language", "pretraining.documents"): "--config.pretraining.documents=100000000",
    ("language", "world.numbers"): "--config.world.numbers=1000000",
    ("language", "net.width"): "--config.net.width=100000",
    ("language", "net.hidden"): "--config.net.hidden=1000000",
    ("language", "memory_gb"): "--config.run.memory_gb=0.001",
    ("image", "net.hidden"): "--config.net.hidden=(1000000,16)",
    ("image", "student.batch"): "--config.student.batch=10000000",
    ("image", "num_eval_noise"): "--config.num_eval_noise=10000000",
    ("image", "memory_gb"): "--config.run.memory_gb=0.001",
    ("theorem1", "student.batch"): "--config.arms.sampled.student.batch=(10000000,)",
    ("theorem1", "theorem1.samples"): "--config.arms.sampled.theorem1.samples=(1000000,)",
    ("theorem1", "memory_gb"): "--config.run.memory_gb=0.001",
}
FLAGS = {
    "config": ("", "nowhere", ".", "README.md", "a\0b", "x" * 5000, "figure6:nowhere", "/nowhere/a.py", "figure2.py:"),
    "workdir": ("", "gs://b/x", "a\0b"),
    "resume": ("", "word", "True"),
    "shard": (
        "",
        "1",
        "1/1",
        "2/1",
        "-1/2",
        "a/b",
        "0/0",
        "0/1/2",
        "0/99999999999999999999",
        "1e9/2",
        "0.5/2",
        "nan/2",
    ),
    "distributed": (
        "word",
        "host:0,0/1",
        "host:99999,0/1",
        "host,0/1",
        "host:1",
        ":1,0/1",
        "http://h:1,0/1",
    ),
    "sweep": ("", "word", "student.lr", "student.lr=", "student.lrr=1", "seeds=1,2", "m=10,10", "student=1", "m=0"),
    "plot": ("word", "a.doc", "/nowhere/a.png", "a\0b.png"),
    "verbosity": ("", "word", "5"),
    "quiet": ("word", "2"),
    "dry_run": ("word", "2"),
    "list": ("word",),
    "fields": ("word",),
    "help": ("word",),
    "nowhere": ("", "1"),
    "config.nowhere": ("1",),
    "config.student.nowhere": ("1",),
    "config.student": ("1",),
    "config.student.lr.x": ("1",),
    "config.": ("1",),
    "config.arms": ("1", "()"),
    "config.arms.nowhere.m": ("(1,)",),
}


def test_main_refuses_what_does_not_fit_together(command, tally):
    cases = Cases()
    for (base, name), words in CONTRADICTIONS.items():
        cases.add((base, *words), command(*BASES[base], *words, "--dry_run"), name, True)
    cases.finish(tally, 30)


def test_main_estimates_memory_before_anything_is_made(command, tally):
    cases, before = Cases(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for (base, name), word in TOO_LARGE.items():
        line = command(*BASES[base], *word.split(), "--dry_run")
        cases.add(word, line, name, True)
        if "memory_gb" not in str(line) or name.rpartition(".")[2] not in str(line):
            cases.faults.append(f"{word}: does not say what to lower: {line}")
    cases.finish(tally, 15)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6, "less than 1 GB was taken"


@pytest.mark.parametrize("of", [main.main, audit.main], ids=["main", "audit"])
def test_main_and_audit_refuse_nonsense_in_any_flag(of, command, tally, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "load_data", lambda config: pytest.fail("accepted"))  # what audit does first
    cases, dry = Cases(), ["--dry_run"] if of is main.main else []
    taken = (
        FLAGS if of is main.main else FLAGS.keys() - {"resume", "shard", "distributed", "plot", "verbosity", "quiet"}
    )
    for name, texts_of_flag in ((name, FLAGS[name]) for name in FLAGS if name in taken):
        for text in texts_of_flag:
            base = BASES["image"][name == "config" :]
            cases.add((name, text), command(*base, *dry, f"--{name}={text}", of=of), name.split(".")[0], True)
    cases.add("word", command(*BASES["image"], *dry, "word", of=of), "command line", True)
    cases.add("nothing", command(*dry, of=of), "config", True)
    cases.finish(tally, 35 if of is audit.main else 60)


FILES = {
    "syntax": "def get_config(:\n",
    "raises": "def get_config():\n    raise OSError('two\\nlines')\n",
    "fails when read": "import nowhere_at_all\n",
    "exits": "import sys\nsys.exit(3)\n",
    "recursion": "def get_config():\n    return get_config()\n",
    "no get_config": "config = 1\n",
    "returns None": "def get_config():\n    pass\n",
    "returns a dict": "def get_config():\n    return {'m': 1}\n",
    "empty": "",
    "NUL": "a\0b",
    "empty config": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
    "part of a config": BEGIN + "    with c.unlocked():\n        del c.student.lr\n    return c\n",
    "no section": BEGIN + "    with c.unlocked():\n        del c.student\n    return c\n",
    "text for a number": BEGIN + "    c.student.lr = 'x'\n    return c\n",
    "number for a tuple": BEGIN + "    c.m = 5\n    return c\n",
    "value for a section": BEGIN + "    c.student = 5\n    return c\n",
    "endless number": BEGIN + "    c.student.lr = 10**400\n    return c\n",
    "no such field": BEGIN + "    c.student.lrr = 1\n    return c\n",
    "None": BEGIN + "    c.student.lr = None\n    return c\n",
    "lists in a grid": GRID.format("{'student.lr': ([0.1],)}"),
    "dicts in a grid": GRID.format("{'student.lr': ({'a': 1},)}"),
    "text in a grid": GRID.format("{'student.lr': ('x',)}"),
    "NaN in a grid": GRID.format("{'student.lr': (0.1, float('nan'))}"),
    "None in a grid": GRID.format("{'student.lr': (None,)}"),
    "tuples in a grid": GRID.format("{'student.lr': ((0.1,),)}"),
    "scalar grid": GRID.format("{'student.lr': 0.1}"),
    "empty axis": GRID.format("{'student.lr': ()}"),
    "same value twice": GRID.format("{'student.lr': (0.1, 0.1)}"),
    "numbers for tuples": GRID.format("{'net.hidden': (8, 16)}"),
    "no field in a grid": GRID.format("{'student.lrr': (1,)}"),
    "one for a sweep": GRID.format("{'data.std': (1.0,)}"),
    "unknown condition": GRID.format("{'conditions': ('sane',)}"),
    "dots in a name": GRID.replace("'g'", "'a.b'").format("{'m': (3,)}"),
    "no field in a preset": BEGIN + "    grid.add_preset(c, 'smoke', {'student.lrr': 1})\n    return c\n",
    "text in a preset": BEGIN + "    grid.add_preset(c, 'smoke', {'student.lr': 'x'})\n    return c\n",
}


def test_main_refuses_config_files_that_fail(command, tally, tmp_path, capsys):
    cases = Cases()
    for case, code in FILES.items():
        (tmp_path / "mine.py").write_text(code)
        line = command(f"--config={tmp_path / 'mine.py'}", "--config.preset=smoke", "--dry_run")
        cases.tried += 1
        if not isinstance(line, str) or "\n" in line or len(line) > 800:
            cases.faults.append(f"{case}: {line!r}")
        elif (
            case.endswith("in a grid")
            and "field" not in case
            and "arms.g.student.lr" not in line.replace("arm 'g': ", "arms.g.")
        ):
            cases.faults.append(f"{case}: does not name the field: {line}")
        elif (
            case in ("text for a number", "number for a tuple", "NaN in a grid", "text in a grid")
            and "must be a" not in line
        ):
            cases.faults.append(f"{case}: does not say what is allowed: {line}")
    cases.finish(tally, 30)


def test_main_takes_config_files_as_editors_write_them(command, tmp_path):
    code = (BEGIN + "    print('hello')\n    return c\n").encode()
    for name, content in {"crlf": code.replace(b"\n", b"\r\n"), "bom": b"\xef\xbb\xbf" + code, "a b (1)": code}.items():
        (tmp_path / f"{name}.py").write_bytes(content)
        assert command(f"--config={tmp_path / name}.py", "--config.preset=smoke", *IMAGES, "--dry_run") is None


@pytest.mark.e2e
def test_main_ends_with_exit_code_2_and_one_line(tally):
    """A sample of the cases through real processes, several at a time."""
    words = [[*BASES[base], *words] for (base, _), words in [*CONTRADICTIONS.items()][:14]]
    words += [[*BASES["language"], f"--{flag}={text[0]}"] for flag, text in FLAGS.items() if "\0" not in text[0]]
    running = []
    failed = []

    def finish(command, process):
        out, err = process.communicate(timeout=120)
        if process.returncode != 2 or err.count("\n") != 1 or "Traceback" in err:
            failed.append((command[-1], process.returncode, err[-300:], out[-300:]))

    for command in words:
        whole = [sys.executable, "-m", "sublim_jax", *command, "--dry_run"]
        running.append((command, subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)))
        if len(running) == 2:
            finish(*running.pop(0))
    for each in running:
        finish(*each)
    tally("bad values, real processes", tried=len(words), clean=len(words) - len(failed))
    assert not failed and len(words) >= 30
