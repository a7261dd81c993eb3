"""The parts of the benchmark run and fit together; their numbers mean nothing at this size."""

import math
from pathlib import Path

import jax
import pytest

from benchmarks import amounts, baselines, phases, protocol, rounds, run
from sublim_jax.config import schema

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    monkeypatch.setattr(rounds, "ROUNDS", 1)


def test_protocol_and_phases_know_the_conditions():
    assert set(phases.CONDITIONS) == set(protocol.RANDOM_LAYERS) <= set(schema.CONDITIONS)


def test_phases_run_and_count_their_work():
    for name, work in phases.phases(phases.lab(phases.CONDITIONS[:2], test_limit=64), seeds=2, steps=1).items():
        assert work.run() > 0 and work.net_steps > 0 and (work.flop > 0) == (name != "noise"), name


def test_baselines_are_timed_against_ours(capsys):
    with jax.numpy_rank_promotion("allow"):  # plain JAX as others write it
        told = baselines.cloud(quick=True) | baselines._pieces(quick=True)
    for name in ("speedup_vs_plain_jax_cloud", "speedup_vs_plain_jax"):
        assert math.isfinite(told[name]) and told[name] > 0
    run.show(told)
    assert "speedup_vs_plain_jax" in capsys.readouterr().out


def test_amount_counts_the_published_figure_2():
    line = amounts.amount(ROOT / "configs" / "figure2.py")
    assert (line["config"], line["programs"]) == ("figure2", 3) and line["runs of one pair"] == 36 * 20
