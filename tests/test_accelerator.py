"""The accelerator's benchmark at toy size, and the predictions for machines that nobody here has."""

import json
from pathlib import Path

import pytest
from absl import flags

from benchmarks import accelerator, amounts
from sublim_jax.config import base_config, grid, resolve
from sublim_jax.config.command_line import parse_flags

KINDS = ("figure2_cold", "figure2_warm", "figure2_bfloat16", "lm_transfer_laptop")


def test_accelerator_cases_begin_with_the_most_important_and_have_goals():
    names = [case.name for case in accelerator.CASES]
    assert names[:2] == ["figure2_cold", "figure2_warm"] and set(KINDS) < set(names)
    goals = {case.name: case.goal for case in accelerator.CASES if case.goal}
    assert goals == {"figure2_cold": 60, "figure2_warm": 15, "cloud_warm": 30}
    assert {case.products for case in accelerator.CASES} <= accelerator.PRODUCTS.keys()
    assert {case.config for case in accelerator.CASES} == accelerator.TOY.keys()


@pytest.mark.parametrize("toy", [False, True])
@pytest.mark.parametrize("case", accelerator.CASES, ids=lambda case: case.name)
def test_accelerator_cases_are_configs_with_the_published_numbers_of_seeds(case, toy):
    request = parse_flags(
        flags.FlagValues(), ["main", f"--config={case.config}", *accelerator.overrides(case, toy)], ""
    )
    config = request.resolve()
    seeds = {"figure2": 20, "quickstart": 4, "cloud": 100, "figure6": 20, "lm_transfer": 5}
    assert config.seeds == seeds[case.config] or (toy and config.seeds <= 2)
    if case.config == "figure6":
        assert len(grid.expand(config)) == (1 if toy else 31)


@pytest.mark.e2e
def test_accelerator_measures_every_kind_of_case(tmp_path, capsys):
    accelerator.main(["--toy", f"--out={tmp_path}", "--cases", *KINDS])
    numbers, shown = json.loads((tmp_path / "accelerator.json").read_text()), capsys.readouterr().out
    assert list(numbers) == ["peak", *KINDS]
    for name in KINDS:
        case = numbers[name]
        assert "failed" not in case, (name, case)
        assert 0 < case["seconds"]["students"] < case["seconds"]["total"] < case["wall_seconds"], (name, case)
        assert case["programs"] > 3 and case["host_gb"] > 0.1 and case["flop"]["students"] > 0, name
        rate = case["flop"]["students"] / case["seconds"]["students"] / 1e12
        for products in ("float32", "tf32"):
            assert case["share_of_peak"][products] == pytest.approx(rate / numbers["peak"][products]), name
    assert "(goal on an H100: 60 s)" in shown and "(goal on an H100: 15 s)" in shown
    assert numbers["figure2_warm"]["seconds"]["compile"] < numbers["figure2_cold"]["seconds"]["compile"]
    assert "bfloat16" in numbers["figure2_bfloat16"]["share_of_peak"]
    assert numbers["figure2_bfloat16"]["accuracy_minus_float32"]["same"]["size"] == 2


@pytest.mark.e2e
def test_accelerator_says_what_the_limit_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "_peak_rates", lambda toy, limit: {"float32": 1.0, "tf32": 1.0})
    monkeypatch.setitem(accelerator.TOY, "quickstart", ("--config.student.steps=100000", "--config.metrics=('task',)"))
    limit = accelerator._GRACE + 25
    accelerator.main(["--toy", f"--out={tmp_path}", f"--limit={limit}", "--cases", "quickstart_cold", "cloud_cold"])
    numbers = json.loads((tmp_path / "accelerator.json").read_text())
    cut = numbers["quickstart_cold"]
    assert cut["failed"].startswith("cut short after 2") and cut["seconds"]["total"] > 0
    assert numbers["cloud_cold"] == {"left_out": "no time was left"}


def test_necessary_flop_is_that_of_the_products_by_hand():
    config = base_config("smoke")
    config.conditions, config.m = ("same", "random_hidden"), (3,)
    # 784-32-16-13 and biases; the first layer has no gradient of its input.
    first, rest = 784 * 32, 32 + 32 * 16 + 16 + 16 * 13 + 13
    flop = amounts.necessary_flop(resolve(config))
    assert flop["students"] == 2 * 2 * 20 * 50 * (2 * (2 * first + 3 * rest) + first + rest)
    rest -= 3 * 17  # a teacher is trained without the auxiliary head; two epochs of 60,000 images
    assert flop["teachers"] == 2 * 2 * 400 * 300 * (2 * first + 3 * rest)


def test_scale_divides_seeds_and_adds_up_by_hand():
    config = base_config("smoke")
    config.conditions, config.m, config.seeds = ("same",), (3,), 8
    config = resolve(config)
    machine = amounts.Machine(chips=4, hosts=2, peak=1e9, share=0.5, bandwidth=1e9, memory_gb=1)
    found, rows = amounts.scale(config, machine, rows=364), 364
    first, rest = 784 * 32, 32 + 32 * 16 + 16 + 16 * 13 + 13
    weights, acts = first + rest, 32 + 16 + 13
    plain, shown = weights - 3 * 17, acts - 3  # a teacher is trained without the auxiliary head
    steps = amounts.plan_of(config).teachers[0].recipe.eval_steps[-1]
    # Two seeds on each chip: 20 steps of batches of 50 with the teacher's forward pass, and the teacher's training.
    student, teacher = 20 * 50 * (3 + 1) * weights, steps * 300 * 3 * plain
    measured = 3 * rows * 2 * 2 * weights  # at steps 0, 10 and 20: student and teacher, before and after training
    assert found["floating-point operations"] == 4 * 2 * 2 * (student + teacher + measured)
    traffic = 20 * (28 * weights + 4 * 6 * 50 * acts + 4 * 50 * (3 * 784 + 2 * acts))
    traffic += steps * (28 * plain + 4 * 6 * 300 * shown + 4 * 300 * 3 * 784)
    traffic += 3 * 2 * 8 * rows * 2 * acts  # student and teacher
    assert found["bytes of memory traffic"] == pytest.approx(4 * 2 * traffic)
    assert found["seeds of a chip, at a time"] == "2, 2"
    assert found["seconds by products"] == pytest.approx(2 * 2 * (student + teacher + measured) / 0.5e9)
    assert found["seconds compiling"] == 5 * found["programs"]
    assert found["rows, files"].startswith(f"{8 * 3}, ")


def test_amounts_prints_the_published_machines(capsys, monkeypatch):
    monkeypatch.setattr(amounts, "load_config", lambda name: (Path(name), base_config("smoke"))[1])
    amounts.main(["--scale"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("|") == 5 and "TPU v5p-256" in lines[0]
    assert any("seconds in all" in line for line in lines)
