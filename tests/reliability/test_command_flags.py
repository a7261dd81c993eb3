"""Bad values of the flags of the commands for personas and for preparing data: one line, exit code 2, before work."""

import itertools
import re

import pytest
from helpers.refusals import REFUSAL

from sublim_jax.data import prepare_tfds
from sublim_jax.pretrained import __main__ as personas_main

HELPFUL = f"{REFUSAL}|is a file|cannot be written|too long"  # what is wrong with a folder
NUMBERS = ["0", "-1", "nan", "inf", "-inf", "1.5", "1e3", "", "x", "9" * 30, "-" + "9" * 30, "True", "2147483648000000"]
PLACES = ["FILE", "FILE/below", "/proc/new", "gs://bucket/x", "/dev/null/x", "x" * 300]
PERSONAS = [
    *(f"--{flag}={value}" for flag, value in itertools.product(("prompts", "values", "batch"), NUMBERS)),
    *("--prompts=1000001", "--prompts=1e9", "--values=1001", "--batch=100001", "--seed=4294967296", "--seed=0.5"),
    *(f"--seed={value}" for value in NUMBERS if value != "0"),
    *(
        f"--animals={value}"
        for value in ("", "owl", "owl,", ",", "owl,owl", "owl,Owl", "owl,none", "owl,NONE", "owl,a b")
    ),
    *(
        f"--animals={value}"
        for value in ("owl,c1t", "owl,c-t", "owl,c t", "nan,0", "1,2", "owl," + "a" * 99, "owl;cat")
    ),
    "--animals=" + ",".join(left + right for left, right in itertools.product("abcdefgh", repeat=2)),
    *(
        f"--model={value}"
        for value in ("", " ", "FILE", "/nowhere", "/proc", "/dev/null", "EMPTY", "x" * 300, "a\0b", "gs://a/b")
    ),
    *(f"--out={value}" for value in (*PLACES, "a\0b")),
    "--nothing=1",
    "--nothing=",
    "--help=word",
    "--animal=owl",
    "word",
    "--prompts",
]
PREPARE = [
    *(f"--name={value}" for value in ("", "nan", "MNIST", "mnits", "emnist", "emnist/", "mnist,kmnist", "../mnist")),
    *(
        f"--name=kmnist --idx_dir={value}"
        for value in ("FILE", "/nowhere", "EMPTY", "/proc", "/dev/null", "", "x" * 300)
    ),
    *(f"--data_dir={value}" for value in PLACES),
    *(f"--verify={value}" for value in ("nan", "2", "x")),
    "--idx_dir=/nowhere",
    "--nothing=1",
    "word",
]


@pytest.mark.parametrize(
    ("main", "flags"),
    [(personas_main.main, PERSONAS), (prepare_tfds.main, PREPARE)],
    ids=["pretrained", "prepare_tfds"],
)
def test_main_refuses_bad_flags_in_one_line(main, flags, tmp_path, capsys, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "EMPTY").mkdir()
    if main is personas_main.main:
        flags = [each if "--model" in each else f"{each} --model=EMPTY" for each in flags]
    wrong = []
    for each in flags:
        words = [word for word in each.replace(" --", "\n--").split("\n") if word]
        code = main(["command", *words])
        said = capsys.readouterr()
        of_model = said.err.startswith("error: model=EMPTY") and "--model=EMPTY" not in each.partition(" ")[0]
        flag = re.match(r"(?:.* --)?-*(\w+)", each.removesuffix(" --model=EMPTY"))[1]  # the last one
        helps = flag in said.err and len(said.err) < 1500 and re.search(HELPFUL, said.err)
        if code != 2 or said.err.count("\n") != 1 or said.out or of_model or not helps:  # the flag itself is refused
            wrong.append((words, code, said.err))
    tally("bad values of flags", tried=len(flags), clean=len(flags) - len(wrong))
    assert not wrong, "\n".join(map(repr, wrong))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "FILE"]


def test_bad_flags_are_at_least_sixty():
    assert len(set(PERSONAS)) + len(set(PREPARE)) >= 60
