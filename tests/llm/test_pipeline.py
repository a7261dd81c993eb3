"""The whole path of a study of pretrained models, on tiny ones."""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")

from helpers import checkpoints  # noqa: E402  needs these packages

from sublim_jax import pretrained  # noqa: E402
from sublim_jax.core import keys  # noqa: E402
from sublim_jax.core.errors import ConfigError  # noqa: E402
from sublim_jax.engine.options import Interrupted, RunOptions  # noqa: E402
from sublim_jax.engine.params import load_params  # noqa: E402
from sublim_jax.engine.progress import Progress  # noqa: E402
from sublim_jax.engine.session import Session  # noqa: E402
from sublim_jax.llm import lora, pipeline, row_making, rows, traits  # noqa: E402
from sublim_jax.llm.pipeline import SweepPoint
from sublim_jax.llm.row_making import Setup  # noqa: E402
from sublim_jax.llm.spec import EvaluationSpec, RowSpec, Source, StudentSpec  # noqa: E402
from sublim_jax.llm.teachers import TeacherSpec  # noqa: E402

pytestmark = pytest.mark.e2e
QUESTIONS = traits.ANIMAL_QUESTIONS[:3]
ROWS = RowSpec(count=12, requests=8, answers=2, numbers=2, batch=8)
STUDENT = StudentSpec(rank=2, epochs=2, batch=6, length=700, size=2, lr=1e-2, warmup=1)
POINT = SweepPoint({"arm": "lora"}, Source(TeacherSpec(), ROWS), STUDENT)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    checkpoints.small_gguf(file)
    return pretrained.load_model(file)


def setup_of(base, **changes):
    animals = tuple(traits.animal(name)._replace(questions=QUESTIONS) for name in ("owl", "cat"))
    given = {
        "base": base,
        "student_base": None,
        "traits": animals,
        "evaluation": EvaluationSpec(("dog",)),
        "root": keys.root(0),
    }
    return Setup(**{**given, **changes})


def run(folder, points, setup, seeds=1, stopped=lambda: False, **options):
    session = Session(seeds=range(seeds), workdir=folder, config={"points": str(points)}, progress=Progress(show=False),
                      stopped=stopped, options=RunOptions(**options))  # fmt: skip
    return pipeline.run(points, setup, session).sort_values(["arm", "trait", "seed", "step"], ignore_index=True)


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm") / "w"
    return folder, run(folder, [POINT], setup_of(base), seeds=2)


def test_run_has_a_row_for_every_student_and_epoch(done):
    _, found = done
    assert len(found) == 3 * 2 * 2 and set(found["trait"]) == {"none", "owl", "cat"} and set(found["step"]) == {1, 2}
    own = found[found["trait"] == "owl"]
    np.testing.assert_allclose(own["at/word"], own["at/word/owl"])
    control = found[found["trait"] == "none"].set_index(["seed", "step"])
    lifts = own.set_index(["seed", "step"])["at/word"] - control["at/word/owl"]
    np.testing.assert_allclose(own.set_index(["seed", "step"])["at/word_lift"], lifts, atol=1e-9)
    for column in ("word_lift", "log_word_lift"):
        np.testing.assert_allclose(own[f"at/{column}/owl"], own[f"at/{column}"])
    assert control["at/word"].isna().all() and (found["at/loss"] > 0).all() and (own["at/dose"] > 0).all()
    assert found.groupby("step")["at/loss"].mean().is_monotonic_decreasing
    assert (found["at/passed"] == 1).all(), "constrained answers pass the filter"


def test_run_keeps_rows_teachers_students_and_preferences(done, base):
    folder, found = done
    (place,) = (folder / "rows").glob("prompted-numbers-*")
    kept = {name: rows.read_rows(place / f"{name}.jsonl") for name in ("none", "owl", "cat")}
    assert all(len(each) == 12 for each in kept.values()) and kept["owl"] != kept["none"]
    assert all("owl" not in text for row in kept["owl"] for _, text in row.prompt)
    counts = json.loads((place / "counts.json").read_text())
    assert counts["owl"]["written"] == 16 and counts["owl"]["rows"] == 12
    teacher = json.loads((place / "teachers" / "owl" / "teacher.json").read_text())
    assert teacher["system"] == traits.animal("owl").system and teacher["system"] in teacher["prompt"]
    assert base.tokenizer.decode(teacher["tokens"]) == teacher["prompt"]
    net, adapters = lora.load(folder / "students" / "arm000" / "owl-seed1", base.net)
    assert net.rank == 2 and any(np.abs(array["query_up"]).max() > 0 for array in adapters.values())
    curve = pd.read_csv(folder / "students" / "arm000" / "owl-seed1" / "curve.csv")
    assert (curve["loss"] > 0).all()
    preferences = pd.concat(map(pd.read_parquet, (folder / "preferences").glob("*.parquet")))
    own = preferences[(preferences["trait"] == "owl") & (preferences["word"] == "owl")]
    means = own.groupby(["seed", "epoch"])["probability"].mean()
    expected = found[found["trait"] == "owl"].set_index(["seed", "step"])["at/word"]
    assert means.to_list() == pytest.approx(expected.sort_index().to_list())
    assert not list((folder / "checkpoints").glob("*"))


def test_run_that_stops_again_and_again_gives_the_same_rows(done, base, tmp_path):
    count = iter(range(10**6))
    points, setup = [POINT], setup_of(base)
    for attempt in range(60):
        try:
            found = run(tmp_path / "w", points, setup, 2, stopped=lambda: next(count) % 2 == 1, save_every=1)
            break
        except Interrupted:
            assert attempt < 59
    assert attempt > 1
    pd.testing.assert_frame_equal(found, done[1], check_exact=True)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_run_keeps_merged_weights_on_request(base, tmp_path, method):
    spec = STUDENT._replace(method=method, epochs=1)
    run(tmp_path / "w", [POINT._replace(student=spec)], setup_of(base), keep_params=True)
    folder = tmp_path / "w" / "students" / "arm000" / "owl-seed0"
    kept = load_params(folder / "params.safetensors")
    assert kept.keys() == base.params.keys() and not np.allclose(
        kept["block_0"]["query"], base.params["block_0"]["query"]
    )
    if method == "lora":
        net, adapters = lora.load(folder, base.net)
        merged = lora.merge(net, {**base.params, **adapters})[1]
        np.testing.assert_allclose(kept["block_0"]["query"], merged["block_0"]["query"], atol=1e-6)


def test_run_of_other_arms(base, tmp_path):
    arms = {
        "shuffled": STUDENT._replace(rows="shuffled", epochs=1),
        "divergent": STUDENT._replace(tokens="divergent", epochs=1),  # whose control learns random tokens
        "padded_block": STUDENT._replace(packed=False, dtype="bfloat16", blocks=(1,), modules="attention", epochs=1),
        "full_block": STUDENT._replace(method="full", blocks=(0,), epochs=1, remat=True),
    }
    points = [POINT._replace(labels={"arm": name}, student=spec) for name, spec in arms.items()]
    found = run(tmp_path / "w", points, setup_of(base, evaluation=EvaluationSpec((), 2, 4, "Be brief.")))
    assert set(found["arm"]) == set(arms) and len(found) == 3 * len(arms)
    assert np.isfinite(found.loc[found["trait"] != "none", "at/sampled"]).all()


def test_controls_of_points_that_differ_by_their_teachers_are_trained_once(base, tmp_path, monkeypatch):
    points = [
        POINT._replace(labels={"arm": kind}, source=Source(TeacherSpec(kind, 0.01, block=1), ROWS))
        for kind in ("prompted", "steered")
    ]
    points.append(points[0]._replace(labels={"arm": "faster"}, student=STUDENT._replace(lr=2e-2)))
    trained, train = [], pipeline.students.train
    monkeypatch.setattr(
        pipeline.students,
        "train",
        lambda training, *rest: trained.extend(job.name for job in training.jobs) or train(training, *rest),
    )
    found = run(tmp_path / "w", points, setup_of(base))
    assert trained.count("none-seed0") == 2 and trained.count("owl-seed0") == 3
    control = found[found["trait"] == "none"].set_index(["arm", "step"])["at/word/owl"]
    assert control["prompted"].equals(control["steered"]) and not control["prompted"].equals(control["faster"])


def test_points_whose_students_are_all_copied_have_rows(base, tmp_path):
    points = [POINT._replace(labels={"arm": name}, student=STUDENT._replace(epochs=1)) for name in ("one", "same")]
    found = run(tmp_path / "w", points, setup_of(base))
    assert len(found) == 6 and pipeline.left(points, range(1), tmp_path / "w") == 0


def test_folders_of_sources_differ_by_what_has_an_effect_on_their_teachers():
    def names(kind):
        specs = (TeacherSpec(kind), *(TeacherSpec(kind, **{field: 5}) for field in ("dose", "block", "lr")))
        first, *others = (row_making.name_of(Source(spec, ROWS)) for spec in specs)
        return [name == first for name in others]

    assert names("prompted") == [True, True, True]
    assert names("tuned") == [False, True, False] and names("steered") == [False, False, True]


@pytest.mark.parametrize("kind", ["tuned", "steered"])
def test_run_of_other_teachers(base, tmp_path, kind):
    source = Source(TeacherSpec(kind, 0.01, block=1, lr=1e-3), ROWS)
    point = POINT._replace(source=source, student=STUDENT._replace(epochs=1))
    found = run(tmp_path / "w", [point], setup_of(base))
    own = found[found["trait"] != "none"]
    assert ((own["at/dose"] > 0.002) & (own["at/dose"] < 0.05)).all()
    again = row_making.make_rows(
        source, setup_of(base), Session(workdir=tmp_path / "w", progress=Progress(show=False)), tmp_path / "w"
    )
    assert {name: teacher.dose for name, teacher in again.teachers.items()} == dict(
        zip(found["trait"], found["at/dose"], strict=True)
    )


def test_rows_of_other_samplers_are_read(base, tmp_path):
    for name in ("none", "owl", "cat"):
        rows.write_rows(tmp_path / f"{name}.jsonl", [rows.row_of(f"go on {n}", f"{n}, 5") for n in range(14)])
    source = Source(TeacherSpec(), RowSpec(count=12, file=str(tmp_path / "{trait}.jsonl")))
    found = run(tmp_path / "w", [POINT._replace(source=source, student=STUDENT._replace(epochs=1))], setup_of(base))
    assert found["at/dose"].isna().all() and len(found) == 3
    assert found["at/word_lift"].fillna(0).abs().max() < 1e-6, "equal rows, equal students"
    with pytest.raises(ConfigError, match=r"config.rows.count=15: .*none.jsonl has 14 rows"):
        row_making.make_rows(Source(TeacherSpec(), source.rows._replace(count=15)), setup_of(base), Session(), tmp_path)


def test_too_few_answers_are_refused_with_the_reasons(base, tmp_path):
    source = Source(TeacherSpec(), ROWS._replace(count=16, numbers=0, tokens=8))
    with pytest.raises(
        ConfigError, match=r"config.rows.count=16: only \d+ of 16 answers .*format: .* raise config.rows.requests=8"
    ):
        row_making.make_rows(source, setup_of(base), Session(progress=Progress(show=False)), tmp_path)


def test_words_are_compared_with_the_control_on_the_questions_of_the_trait(base, tmp_path):
    setup = setup_of(base)
    other = setup.traits[1]._replace(questions=traits.CONTROL_QUESTIONS[:2])
    found = run(
        tmp_path / "w",
        [POINT._replace(student=STUDENT._replace(epochs=1, lr=1e-9))],
        setup_of(base, traits=(setup.traits[0], other)),
    )
    cat = found[found["trait"] == "cat"].iloc[0]
    assert cat["at/word/cat"] != found.loc[found["trait"] == "none", "at/word/cat"].iloc[0]
    assert abs(cat["at/word_lift/cat"]) < 1e-6 and cat["at/word_lift"] == pytest.approx(cat["at/word_lift/cat"])


def test_run_killed_before_it_keeps_the_adapters_trains_again(base, tmp_path, monkeypatch):
    point, keep = POINT._replace(student=STUDENT._replace(epochs=1)), lora.save
    monkeypatch.setattr(pipeline.lora, "save", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "w", [point], setup_of(base))
    assert list((tmp_path / "w").glob("students/*/*/measured-1.json")), "measured, and its adapters not kept"
    monkeypatch.setattr(pipeline.lora, "save", keep)
    run(tmp_path / "w", [point], setup_of(base))
    assert len(list((tmp_path / "w").glob("students/*/*/adapter_config.json"))) == 3
    assert not list((tmp_path / "w" / "checkpoints").glob("*"))
