"""The audit of a pair: linear models with answers computed by hand, refusals, both doors and both orders of import."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.tree_util import Partial

import sublim_jax
from sublim_jax.audit import calibration, first_update
from sublim_jax.audit.pair import audit_pair
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine.first_steps import float64

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def linear(params, x):
    return x @ params["w"]


def total(params):
    return params["w"].sum()


def square(params):
    return (params["w"] ** 2).sum()


def audit(x, w, delta, trait=square, own=None, **given):
    """The audit of a linear student that begins as its teacher, or with weights of its own."""
    return audit_pair(linear, {"w": w if own is None else own}, {"w": w + delta}, {"w": w}, x, trait, **given)


def draws(n=200, p=5, k=3, seed=0):
    """Inputs, initial weights and a displacement of a linear model."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, p)).astype(np.float32),
        rng.normal(size=(p, k)).astype(np.float32),
        rng.normal(size=(p, k)).astype(np.float32),
    )


def cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def test_audit_pair_has_the_coverage_of_theorem_1_for_an_identical_beginning():
    """cos(G delta, delta) with G = E[J'J], which of a linear model is the inputs' second moment."""
    x, w, delta = draws()
    found = audit(x, w, delta)
    moment = x.T.astype(float) @ x / len(x)
    assert found.coverage == pytest.approx(cosine(moment @ delta, delta), abs=1e-5)
    assert found.coverage > 0 and found.layers == {"w": pytest.approx(found.coverage)}
    assert found.unshared == () and found.inputs == 200
    assert found.imitation_loss == pytest.approx(((x @ delta) ** 2).mean(), rel=1e-5)


def test_audit_pair_refuses_slopes_that_contradict_the_gradients(monkeypatch):
    first_step = first_update.first_step

    def wrong(*given):  # as the compiler of jaxlib 0.10.2 returned them
        first = first_step(*given)
        return first._replace(slopes=first.slopes._replace(mantissa=first.slopes.mantissa * 1e30))

    monkeypatch.setattr(first_update, "first_step", wrong)
    with pytest.raises(ConfigError, match="mean slope .* and the inner product of the gradients .* must agree"):
        audit(*draws())


def test_audit_pair_changes_the_trait_loss_as_a_small_step_does():
    """Against a step of gradient descent, in NumPy, of a student that began elsewhere."""
    x, w, delta = draws()
    own, labels, probes = (
        np.random.default_rng(seed).normal(size=size) for seed, size in ((5, w.shape), (6, (7, 3)), (7, (7, 5)))
    )

    def trait_loss(w):
        return ((probes @ w - labels) ** 2).sum(-1)

    found = audit(x, w, delta, lambda p: trait_loss(p["w"]), own, batch=64)
    gradient = 2 / 3 * x.T.astype(float) @ (x @ own - x @ (w + delta).astype(float)) / len(x)
    trait = 2 * probes.T @ (probes @ own - labels) / len(probes)
    assert found.trait_change.mean == pytest.approx(-np.sum(gradient * trait), rel=1e-4)
    assert found.trait_cosine == pytest.approx(cosine(gradient, trait), abs=1e-5)
    assert found.coverage == pytest.approx(cosine(-gradient, delta), abs=1e-5)
    assert found.slopes.shape == (200,) and found.slopes.mean() == pytest.approx(found.trait_change.mean)
    lr = 1e-5
    after = trait_loss(own - lr * gradient).mean() - trait_loss(own).mean()
    assert after / lr == pytest.approx(found.trait_change.mean, rel=1e-3)
    low, high = found.trait_change.low, found.trait_change.high
    assert low < found.trait_change.mean < high
    error = found.slopes.std() / np.sqrt(200)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1), "the normal interval, for a mean of 200"


@pytest.mark.parametrize("x64", [False, True])
def test_audit_pair_does_not_depend_on_batches_and_precision(x64):
    with float64(x64):
        x, w, delta = (one.astype(np.float64 if x64 else np.float32) for one in draws(n=37))
        whole, pieces = (audit(x, w, delta, lambda p: (p["w"] ** 3).sum(), w * 0.5, batch=size) for size in (1000, 8))
    np.testing.assert_allclose(pieces.slopes, whole.slopes, rtol=1e-4 if not x64 else 1e-12, atol=1e-6)
    assert pieces.coverage == pytest.approx(whole.coverage, abs=1e-6 if not x64 else 1e-13)


@pytest.mark.e2e
def test_audit_pair_interval_of_an_independent_trait_covers_zero():
    """White inputs and a trait gradient orthogonal to the mismatch: the expected change is 0, each input's is not."""
    covered = []
    for seed in range(60):
        x, w, delta = draws(seed=seed)
        trait = np.random.default_rng(seed + 100).normal(size=w.shape).astype(np.float32)
        trait -= delta * np.sum(trait * delta) / np.sum(delta * delta)
        change = audit(x, w, delta, Partial(lambda t, p: (t * p["w"]).sum(), trait)).trait_change
        covered.append(change.low <= 0 <= change.high)
    assert np.mean(covered) >= 0.85  # 95 % in expectation; 0.85 is 3.5 standard errors below


def test_audit_pair_takes_kl_and_a_loss_of_ones_own():
    x, w, delta = draws(n=50)
    soft_target, soft = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (x @ (w + delta), x @ w))
    gradient = x.T.astype(float) @ (soft - soft_target) / len(x)
    assert audit(x, w, delta, loss="kl").coverage == pytest.approx(cosine(-gradient, delta), abs=1e-5)
    own = audit(x, w, delta, total, loss=lambda a, b: jnp.abs(a - b).sum(-1))
    assert own.coverage == pytest.approx(cosine(x.T @ np.sign(x @ delta), delta), abs=1e-5)


def net(params, x):
    return jnp.tanh(x @ params["body"]["w"]) @ params["aux"]["w"]


def reads(params):
    return ((jnp.tanh(PROBES @ params["body"]["w"]) @ params["class"]["w"] - 1.0) ** 2).sum(-1)


PROBES = RNG.normal(size=(6, 5)).astype(np.float32)


def split(seed, aux=4):
    rng = np.random.default_rng(seed)
    shapes = {"body": (5, 8), "aux": (8, aux), "class": (8, 2)}
    return {name: {"w": rng.normal(size=shape).astype(np.float32)} for name, shape in shapes.items()}


@pytest.fixture
def pair():
    origin = split(0)
    teacher = {name: {"w": one["w"] + 0.1 * split(1)[name]["w"]} for name, one in origin.items()}
    return origin, teacher | {"aux": origin["aux"]}


def test_audit_pair_finds_last_layers_and_their_roles(pair):
    origin, teacher = pair
    x = draws(n=40)[0]
    found = audit_pair(net, origin, teacher, origin, x, reads)
    assert found.heads == {"aux": pytest.approx(1), "class": pytest.approx(cosine(*(p["class"]["w"] for p in pair)))}
    assert found.compatibility_aux == pytest.approx(1)
    assert found.compatibility_class == pytest.approx(found.heads["class"]) and found.compatibility_class < 0.999
    assert set(found.layers) == {"body", "aux", "class"} and found.layers["body"] > 0
    assert np.isnan(found.layers["class"]), "the class head gets no gradient"
    start, end, read = {"params": origin}, {"params": teacher}, lambda p: reads(p["params"])
    same = audit_pair(lambda p, x: net(p["params"], x), start, end, start, x, read, heads=("aux", "class"))
    assert same.heads["params/class"] == found.heads["class"] and same.coverage == pytest.approx(found.coverage)
    assert re.search(r"coverage +0\.\d{3} .*\n  heads +aux 1\.000, class 0\.9.*\n.*\n.*\n  verdict  ", str(found))


def test_audit_pair_does_not_share_a_layer_of_another_shape(pair):
    origin, teacher = pair
    student = split(0) | {"class": {"w": np.ones((8, 3), np.float32)}}

    def mean(params):
        return ((jnp.tanh(PROBES @ params["body"]["w"]) @ params["class"]["w"]).mean(-1) - 1.0) ** 2

    found = audit_pair(net, student, teacher, origin, draws(n=40)[0], mean)
    assert found.unshared == ("class/w",) and np.isnan(found.compatibility_class)
    assert found.verdict.model == "coverage", "without the heads only coverage can be asked"
    assert found.coverage > 0


def test_audit_pair_leaves_integers_alone():
    x, w, delta = draws(n=20)
    start, end = ({"w": one, "steps": np.int32(3)} for one in (w, w + delta))
    assert audit_pair(linear, start, end, start, x, total).coverage == pytest.approx(audit(x, w, delta, total).coverage)


def test_audit_pair_has_no_verdict_where_nothing_is_left_to_imitate():
    x, w, delta = draws(n=20)
    found = audit(x, w, delta, own=w + delta)
    assert np.isnan(found.coverage) and found.verdict.passes is None and "none" in str(found)
    assert (found.trait_change.mean, found.trait_change.low) == (0, 0)


def test_audit_pair_compiles_once_for_bound_arrays():
    """Other images bound to the same function are another argument, not another program."""
    x, w, delta = draws(n=20)
    traces = []

    def trait(images, params):
        traces.append(1)
        return (images @ params["w"]).sum(-1)

    counts = []
    for scale in (1.0, 2.0, 3.0):
        audit(x, w, delta, Partial(trait, scale * x), heads=())
        counts.append(len(traces))
    assert counts[2] == counts[0] + 2, "two looks at shapes, no other trace"


REFUSED = {
    "another tree": ({"before": {"v": 1.0}}, r"trait_params0: have, and teacher_params lack, 'v'; must be the tree"),
    "another shape": ({"before": {"w": np.ones((2, 2))}}, r"trait_params0: 'w' is \(2, 2\), but \(5, 3\) in teacher"),
    "nothing shared": ({"student": {"v": np.ones((5, 3), np.float32)}}, r"student_params: share no leaf"),
    "did not move": ({"before": "teacher"}, r"teacher_params: are trait_params0 in all that is shared"),
    "no inputs": ({"x": np.zeros((0, 5), np.float32)}, r"inputs: there are none"),
    "NaN inputs": ({"x": np.full((4, 5), np.nan, np.float32)}, r"student_apply: the student's outputs must be finite"),
    "NaN trait": ({"trait": lambda p: jnp.log(-(p["w"] ** 2)).sum()}, r"trait_loss: its value must be finite"),
    "a matrix": ({"trait": lambda p: p["w"]}, r"trait_loss: gives \(5, 3\); must give a number"),
    "no rows": ({"apply": lambda p, x: (x @ p["w"]).sum(-1)}, r"student_apply: gives \(20,\); must give \[20, k\]"),
    "unlike": ({"teacher_apply": lambda p, x: x}, r"student_apply: gives \(20, 3\), but the teacher gives \(20, 5\)"),
    "unknown loss": ({"loss": "mes"}, r"loss: 'mes' is none of mse, kl; did you mean 'mse'\?"),
    "reduced loss": ({"loss": lambda a, b: ((a - b) ** 2).mean()}, r"loss: gives \(\); must give one number per"),
    "unknown head": ({"heads": ("c",)}, r"heads: 'c' is none of w"),
    "no batch": ({"batch": 0}, r"batch=0: must be 1 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_audit_pair_refuses_bad_input_in_one_line(case):
    given, message = dict(REFUSED[case][0]), REFUSED[case][1]
    x, w, delta = draws(n=20)
    teacher = {"w": w + delta}
    before = given.pop("before", {"w": w})
    parts = [given.pop("apply", linear), given.pop("student", {"w": w}), teacher]
    parts += [teacher if before == "teacher" else before, given.pop("x", x), given.pop("trait", lambda p: p["w"].sum())]
    if "v" in parts[1]:
        parts[0], parts[5] = lambda p, x: x @ next(iter(p.values())), lambda p: p["v"].sum()
    with pytest.raises(ConfigError, match=message) as refused:
        audit_pair(*parts, **given)
    assert "\n" not in str(refused.value)


def test_verdict_follows_the_calibration():
    told = {
        "provisional": False,
        "models": {
            "coverage": {"intercept": -1, "weights": {"coverage": 10}, "threshold": 0.5, "auroc": [0.9, 0.8, 1]},
            "coverage and heads": {
                "intercept": -3,
                "weights": {"coverage": 10, "compatibility_aux": 2},
                "threshold": 0.6,
                "auroc": [0.95, 0.8, 1],
            },
        },
    }
    found = calibration.verdict({"coverage": 0.2, "compatibility_aux": 1.0}, told)
    assert found == (True, pytest.approx(1 / (1 + np.exp(-1.0))), 0.6, "coverage and heads", 0.95, False)
    assert calibration.verdict({"coverage": 0.2, "compatibility_aux": 0.5}, told).passes is False
    alone = calibration.verdict({"coverage": 0.2, "compatibility_aux": np.nan}, told)
    assert alone.model == "coverage" and alone.passes is True
    assert calibration.verdict({"coverage": np.nan}, told).passes is None


def test_calibration_is_shipped_and_can_be_read(tmp_path):
    found = calibration.load()
    assert set(calibration.MODELS) == set(found["models"]) and isinstance(found["provisional"], bool)
    with pytest.raises(ConfigError, match="cannot be read"):
        calibration.load(tmp_path / "none.json")


def command(tmp_path, *words):
    line = [sys.executable, "-m", "sublim_jax.audit", f"--config={ROOT}/configs/quickstart.py", *words]
    return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600)


SMOKE = ("--config.preset=smoke", "--config.data.source=embedded", "--config.run.teachers=", "--config.m=(3,)")


@pytest.mark.e2e
def test_main_audits_every_student_and_trains_none(tmp_path):
    done = command(tmp_path, *SMOKE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "random_class_head" in done.stdout and "change of trait loss" in done.stdout
    folder = tmp_path / "results" / "quickstart-smoke"
    rows, told = pd.read_csv(folder / "audit.csv"), json.loads((folder / "audit.json").read_text())
    assert len(rows) == len(told["audits"]) == 4 * 2 and not list(folder.glob("rows/*"))
    mean = rows.groupby("condition")["theory/compatibility_class"].mean().to_dict()
    assert mean["same"] > 0.99 and abs(mean["random_class_head"]) < 0.3
    assert rows.set_index("condition").loc["same", "theory/compatibility_aux"].eq(1).all()
    by = rows.set_index(["condition", "seed"])["theory/coverage"].unstack()
    assert (by.loc["same"] > 0).all() and (by.loc["same"] > by.loc["random_aux_head"]).all()
    pd.testing.assert_series_equal(by.loc["same"], by.loc["random_class_head"], check_names=False)  # the same trunk
    assert told["calibration"]["models"] and told["audits"][0]["layers"].keys() >= {"hidden_0", "hidden_1"}
    again = command(tmp_path, *SMOKE)
    assert again.returncode == 0 and pd.read_csv(folder / "audit.csv").equals(rows)
    assert command(tmp_path, "--config.sedes=3").returncode == 2


SAME = ("coverage", "trait_change", "trait_cosine", "compatibility_class", "compatibility_aux")


@pytest.mark.e2e
def test_main_audits_the_nets_that_a_run_measures(tmp_path):
    """The function, on the nets that the command audits, gives the numbers that the rows of their sweep have."""
    only = "--config.conditions=('same', 'random_aux_head', 'random_class_head')", "--config.seeds=2", "--workdir=w"
    every = "--config.metrics=('task', 'budget', 'layers', 'audit')"
    done = command(tmp_path, *SMOKE, *only, every)
    assert done.returncode == 0, done.stderr
    line = [sys.executable, "-m", "sublim_jax.main", f"--config={ROOT}/configs/quickstart.py", *SMOKE, *only, every]
    ran = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    rows, found = sublim_jax.load(tmp_path / "w"), pd.read_csv(tmp_path / "w" / "audit.csv")
    last = rows[rows["step"] == rows["step"].max()].set_index(["condition", "seed"])
    found = found.set_index(["condition", "seed"]).loc[last.index]
    for name in SAME:
        np.testing.assert_allclose(found[f"theory/{name}"], last[f"theory/{name}"], rtol=2e-4, atol=1e-6, err_msg=name)
    heads = last["at/cosine/teacher_init_final/class_head"]["same"]  # the student begins as the teacher
    np.testing.assert_allclose(found.loc["same", "theory/compatibility_class"], heads, atol=1e-5)
    facts = json.loads(next((tmp_path / "w" / "runs").glob("*.json")).read_text())
    assert "teachers" not in facts["steps"], "the audit's teachers are taken from their shelf"
