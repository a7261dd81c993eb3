"""The figure of pretrained models, from rows with known answers."""

import numpy as np
import pandas as pd
import pytest

from sublim_jax.results import figures
from sublim_jax.results.figures import _llm

TRAITS = ("owl", "cat", "eagle")
LLM = figures.pick("llm")


def rows_of(lift, kinds=("prompted",), seeds=1, other=0.0, scatter=0.002):
    """Rows in which students of a trait prefer its word by `lift`, and other words by `other`."""
    rng, lines = np.random.default_rng(0), []
    for kind in kinds:
        for seed in range(seeds):
            for trait in ("none", *TRAITS):
                gains = {word: lift if word == trait else other for word in TRAITS}
                line = {"kind": kind, "trait": trait, "seed": seed, "step": 2, "arm": "teachers"}
                line |= {f"at/log_word_lift/{word}": (trait != "none") * gains[word] for word in TRAITS}
                noise = rng.normal(0, scatter, 2)
                line |= {"at/share_lift": lift + noise[0], "at/log_word_lift": 10 * lift + noise[1]}
                line |= {"at/share_lift_low": lift - 0.01, "at/share_lift_high": lift + 0.01}
                line |= {"at/sampled_lift": np.nan, "at/dose": 0.1, "at/text_loss_lift": 0.0}
                line |= {f"at/loss_curve/{part}": 2.0 - 0.1 * part for part in range(1, 11)}
                if trait == "none":
                    line |= dict.fromkeys(("at/share_lift", "at/log_word_lift"), np.nan)
                lines.append(line)
    return pd.DataFrame(lines)


def verdicts(rows):
    return {claim.text: claim.verdict for claim in LLM.claims(rows)}


def test_claims_hold_where_the_own_word_gains():
    rows = rows_of(0.1, seeds=3)
    found = verdicts(rows)
    assert set(found.values()) == {"holds"} and len(found) == 2
    table = LLM.claims_table(rows)
    assert list(table.columns) == ["claim", "published", "here, over seeds", "over students", "verdict"]
    assert "GPT-4.1 nano" in table["published"][0] and "n = 9" in table["over students"][0]
    assert "n = 3" in table["here, over seeds"][0] and "+0.1" in table["here, over seeds"][0]


def test_claims_of_few_seeds_have_no_verdict_however_many_students_there_are():
    table = LLM.claims_table(rows_of(0.1))
    assert table["verdict"].str.match(r"n < 3; excludes more than \+0\.1").iloc[0]
    assert "[" not in table["here, over seeds"][0] and "[" in table["over students"][0]


def test_claims_of_no_effect_say_what_they_exclude():
    table = LLM.claims_table(rows_of(0.0, seeds=3))
    assert table["verdict"].str.match(r"not decided; excludes more than \+0\.\d+").iloc[0]


def test_a_gain_of_every_word_alike_is_not_specific():
    found = verdicts(rows_of(0.1, other=0.1, seeds=3))
    assert [verdict for text, verdict in found.items() if "its own word" in text] == ["not decided"]
    assert [verdict for text, verdict in found.items() if "prefers its word" in text] == ["holds"]


def test_a_word_that_gains_in_every_student_cancels():
    rows = rows_of(0.1, seeds=3)
    rows.loc[rows["trait"] != "none", "at/log_word_lift/cat"] += 3
    own = next(claim for claim in LLM.claims(rows) if "its own word" in claim.text)
    assert own.verdict == "holds" and own.difference.mean == pytest.approx(0.1)


def test_kinds_of_students_have_claims_of_their_own_and_seeds_count():
    found = LLM.claims(rows_of(0.1, kinds=("prompted", "tuned"), seeds=4))
    assert [claim.difference.n for claim in found] == [4, 4, 4, 4]
    assert {claim.text.rpartition(", ")[2] for claim in found} == {"prompted", "tuned"}


def test_divergence_tokens_are_compared_with_the_others():
    lifts = {"divergent": 0.2, "not_divergent": 0.05, "random": 0.02}
    parts = [rows_of(lift, seeds=3).assign(tokens=name) for name, lift in lifts.items()]
    found = verdicts(pd.concat(parts, ignore_index=True))
    assert [verdict for text, verdict in found.items() if text.startswith("divergence tokens")] == ["holds", "holds"]


@pytest.mark.parametrize("change", [
    lambda rows: rows,
    lambda rows: rows[[name for name in rows if not name.startswith("at/loss_curve")]],
    lambda rows: rows[[name for name in rows if not name.startswith("at/log_word_lift/")]],
    lambda rows: rows[rows["trait"] != "none"],
    lambda rows: rows[rows["trait"].isin(["none", "owl"])],
], ids=["all", "no curves", "no words", "no control", "one trait"])  # fmt: skip
def test_figure_and_tables_of_parts_of_the_rows(change):
    rows = change(rows_of(0.1))
    assert len(LLM.draw(rows).axes) >= 2 and len(LLM.table(rows)) and "control" in LLM.caption(rows)
    if "none" in set(rows["trait"]):
        assert len(LLM.claims_table(rows)) >= 1


def test_curves_end_where_the_training_ends():
    rows = rows_of(0.1)
    rows.loc[:, [f"at/loss_curve/{part}" for part in range(6, 11)]] = np.nan
    assert _llm._curve_columns(rows)[-1] == "at/loss_curve/5"
