"""The command line before JAX is imported: names of configs, refusals, --help, --list, --fields and --dry_run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from sublim_jax import main
from sublim_jax.config import command_line, grid
from sublim_jax.config.fields import IMAGE_FIELDS, INFOMORPHIC_FIELDS, LANGUAGE_FIELDS, LLM_FIELDS

REFUSED = {
    "nearest config": (("--config=figre2",), r"config='figre2': no such file or config; did you mean figure2"),
    "old field": (("--config=figure2", "--config.student.marks=(1,)"), r".*'student.marks' is now called 'student.ev"),
    "old field, top": (("--config=figure2", "--config.exam=9"), r".*'exam' is now called 'num_eval_noise'"),
    "old field of a grid": (
        ("--config=figure4", "--config.arms.grid.student.marks=((1,),)"),
        r".*'arms.grid.student.marks' is now called 'arms.grid.student.eval_steps'",
    ),
    "int": (("--config=figure2", "--config.seeds=many"), r"--config.seeds=many: must be a whole number from 1"),
    "float": (("--config=figure2", "--config.student.lr", "x"), r"--config.student.lr=x: must be a number above 0"),
    "tuple": (("--config=figure2", "--config.m=ten"), r"--config.m=ten: must be a tuple of whole numbers"),
    "bool": (("--config=figure2", "--config.data.verify=maybe"), r"--config.data.verify=maybe: must be true or false"),
    "axis": (
        ("--config=figure5", "--config.arms.heads.perturb.student_before=x"),
        r"--config.arms.heads.perturb.student_before=x: must be a tuple of values, each of them a finite number",
    ),
    "section": (("--config=figure2", "--config.student=3"), r".*config"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_main_refuses_in_one_line(case, capsys):
    words, message = REFUSED[case]
    assert main.main(["main", *words]) == 2
    written = capsys.readouterr().err
    assert re.match(f"error: {message}", written) and written.count("\n") == 1, written


@pytest.mark.parametrize("old", grid.RENAMED)
def test_load_config_says_the_new_name_of_a_field(old, tmp_path):
    module = "from sublim_jax.config import lm\n" if old.startswith("lm.") else "from sublim_jax import config\n"
    base = "lm.base()" if old.startswith("lm.") else "config.base_config()"
    body = f"def get_config():\n    c = {base}\n    c.{old} = 1\n    return c\n"
    (tmp_path / "mine.py").write_text(module + body)
    new = grid.RENAMED[old].rpartition(".")[2]
    with pytest.raises(ValueError, match=f"field '{old.rpartition('.')[2]}' is now called '{new}'"):
        command_line.load_config(str(tmp_path / "mine.py"))


def test_find_config_takes_bare_names_with_an_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line.load_config("figure6:emnist").data.name == "emnist/balanced"
    assert command_line.load_config("figure2").name == "figure2"


def test_parse_flags_sets_fields_of_every_type():
    words = ["main", "--config=figure2", "--config.student.lr", "0.5", "--config.run.teachers=", "--config.seeds=3"]
    words += ["--noconfig.data.verify", "--config.run.keep_params"]
    config = command_line.parse_flags(flags.FlagValues(), [*words, "--config.m=(1,2)"], "").config
    assert (config.seeds, config.student.lr, config.data.verify, config.m) == (3, 0.5, False, (1, 2))
    assert (config.run.teachers, config.run.keep_params) == ("", True)


def test_main_names_everything_in_help_list_and_fields(capsys):
    with pytest.raises(SystemExit):
        main.main(["main", "--help"])
    text = capsys.readouterr().out
    assert all(f"e.g. --{name}=" in text for name in ("config", "workdir", "resume", "shard", "distributed"))
    assert main.main(["main", "--list"]) == main.main(["main", "--fields"]) == 0
    text = capsys.readouterr().out
    assert len(command_line.config_files()) == 32 and all(f"{name}: " in text for name in command_line.config_files())
    assert text.count("minute") >= 29 and text.count("; kept in experiments/") >= 26 and "not measured" not in text
    assert all(
        f"--config.{name}=" in text for name in (*IMAGE_FIELDS, *LANGUAGE_FIELDS, *INFOMORPHIC_FIELDS, *LLM_FIELDS)
    )


SMALL = {"quickstart": (8, 16), "theorem1": (25, 50), "lm_dose": (6, 12)}


@pytest.mark.parametrize("name", SMALL)
def test_main_prints_the_work_and_trains_nothing_in_a_dry_run(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = () if name.startswith("lm") else ("--config.data.source=embedded",)
    assert main.main(["main", f"--config={name}", "--config.preset=smoke", *images, "--dry_run"]) == 0
    conditions, students = SMALL[name]
    counts = rf"conditions: {conditions}\nstudents: {students}\n"
    text = capsys.readouterr().out
    amount = r"training: [\d,]+ net-steps, \S+ floating-point operations\n"
    predicted = r"programs: \d+\npredicted: \d+ s on 2 CPU cores, [1-9]\.\d GB\n"
    assert re.fullmatch(counts + amount + predicted, text), text
    assert not list(Path(tmp_path).iterdir())


def test_main_refuses_and_lists_without_importing_jax():
    code = "import sys; from sublim_jax.main import main; sys.exit(main(sys.argv) + 10 * ('jax' in sys.modules))"
    language = "--config=lm_dose", "--config.preset=smoke"
    for words, status in (
        (("--config=figure2", "--config.student.lr=-1"), 2),
        ((*language, "--config.lm.targets=9"), 2),
        ((*language, "--config.arms.soft.lm.lr=(-1.0,)"), 2),
        (("--fields",), 0),
        (("--list",), 0),
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=100)
        assert done.returncode == status, done.stderr
