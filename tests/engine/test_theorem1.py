"""The first-order law against NumPy, jax.hessian and finite differences, and the study of first steps. In float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.populations import quiet
from scipy import stats

from sublim_jax.config import base_config, build_conditions, resolve
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import first_steps, theorem1
from sublim_jax.theory import first_order

BATCH, INPUTS, HIDDEN, K = 7, 5, 4, 6
SEEN = np.array([0, 0, 1, 1, 1, 0])


@pytest.fixture(autouse=True)
def doubles():
    with first_steps.float64():
        yield


def toy(seed=0):
    """Inputs, parameters and a displacement of a tanh net, as NumPy arrays."""
    random = np.random.default_rng(seed)
    shapes = {"w": (INPUTS, HIDDEN), "v": (HIDDEN, K), "b": (K,)}
    params, displacement = ({name: random.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))
    return random.normal(size=(BATCH, INPUTS)), params, displacement


def says(params, x):
    """By NumPy, or by JAX where the parameters are JAX's."""
    lib = np if isinstance(params["w"], np.ndarray) else jnp
    return lib.tanh(x @ params["w"]) @ params["v"] + params["b"][None]


def moved(params, displacement, eps):
    return {name: params[name] + eps * displacement[name] for name in params}


def loss_of(kind, temperature, z, y, lib=jnp):
    """The loss of each example over the seen logits, by JAX or by NumPy."""
    z, y = (logits[..., np.flatnonzero(SEEN)] for logits in (z, y))
    if kind == "squared":
        return ((z - y) ** 2).mean(-1)
    q, p = (lib.exp(one / temperature) / lib.exp(one / temperature).sum(-1, keepdims=True) for one in (z, y))
    return -(p * lib.log(q)).sum(-1)


def curvature_of(kind, temperature):
    weights = jnp.asarray(SEEN / SEEN.sum())
    return first_order.squared(weights) if kind == "squared" else first_order.softmax(jnp.asarray(SEEN), temperature)


KINDS = [("squared", 1.0), ("softmax", 1.0), ("softmax", 2.5)]


def as_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def leading_of(kind, temperature, seed=0):
    x, params, displacement = toy(seed)
    outputs = lambda there: says(there, jnp.asarray(x))  # noqa: E731
    return first_order.leading_step(outputs, as_jax(params), as_jax(displacement), curvature_of(kind, temperature))


@pytest.mark.parametrize(("kind", "temperature"), KINDS)
def test_leading_step_is_what_finite_differences_of_numpy_give(kind, temperature):
    """The student's gradient, coordinate by coordinate, and its slope in eps: no derivative of JAX's in it."""
    x, params, displacement = toy()
    found, h, eps = leading_of(kind, temperature), 1e-5, 1e-4

    def gradient(name, place, eps):
        sides = []
        target = says(moved(params, displacement, eps), x)
        for side in (h, -h):
            there = {one: array.copy() for one, array in params.items()}
            there[name][place] += side
            sides.append(loss_of(kind, temperature, says(there, x), target, np).mean())
        return (sides[0] - sides[1]) / (2 * h)

    total = 0.0
    for name, array in params.items():
        for place in np.ndindex(array.shape):
            slope = -(gradient(name, place, eps) - gradient(name, place, -eps)) / (2 * eps)
            np.testing.assert_allclose(found.step[name][place], slope, rtol=1e-4, atol=1e-6)
            total += slope * displacement[name][place]
    np.testing.assert_allclose(found.quadratic, total, rtol=1e-4)


@pytest.mark.parametrize(("kind", "temperature"), KINDS)
def test_curvature_is_minus_the_mixed_derivative_and_positive(kind, temperature):
    random = np.random.default_rng(1)
    z = jnp.asarray(random.normal(size=(1, K)))
    curvature, loss = curvature_of(kind, temperature), functools.partial(loss_of, kind, temperature)
    matrix = np.stack([np.asarray(curvature(z, jnp.eye(K)[i : i + 1]))[0] for i in range(K)])
    mixed = jax.hessian(lambda zy: loss(zy[:K], zy[K:]))(jnp.concatenate([z[0], z[0]]))[:K, K:]
    np.testing.assert_allclose(matrix, -mixed, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() > -1e-15
    assert (matrix[SEEN == 0] == 0).all()
    if kind == "softmax":
        np.testing.assert_allclose(matrix @ SEEN, 0, atol=1e-15)  # a common shift of the logits is seen by nobody
    u = jnp.asarray(random.normal(size=(1, K)))
    np.testing.assert_allclose(first_order.of_loss(loss)(z, u), curvature(z, u), atol=1e-12)


@pytest.mark.parametrize(("kind", "temperature"), KINDS)
def test_expansion_has_a_ratio_that_goes_to_one_as_eps(kind, temperature):
    x, params, displacement = (as_jax(one) for one in toy())
    eps = np.logspace(-6, -2, 9)

    def objective(there, said):
        return loss_of(kind, temperature, says(there, x), said).mean()

    outputs, curvature = (lambda there: says(there, x)), curvature_of(kind, temperature)
    leading = first_order.leading_step(outputs, params, displacement, curvature)

    def ratio(eps):
        targets = outputs(first_order.plus(params, displacement, eps))
        step = first_order.student_step(lambda there: objective(there, targets), params)
        return first_order.overlap(step, displacement, eps, leading.quadratic).ratio

    error = np.abs(np.asarray(jax.lax.map(ratio, jnp.asarray(eps))) - 1)
    assert error[-1] < 0.1
    assert abs(np.polyfit(np.log10(eps), np.log10(error), 1)[0] - 1) < 0.05


def test_leading_step_is_zero_where_no_imitated_output_moves():
    x, params, displacement = (as_jax(one) for one in toy())
    unseen = jax.tree.map(jnp.zeros_like, displacement) | {"b": displacement["b"] * (1 - SEEN)}
    found = first_order.leading_step(lambda there: says(there, x), params, unseen, curvature_of("squared", 1.0))
    assert found.quadratic == 0 and first_order.norm(found.step) == 0
    there = first_order.overlap(found.step, unseen, 1e-3, found.quadratic)
    assert there.inner == 0 and there.cosine == 0 and np.isnan(there.ratio)


def test_dot_and_norm_take_trees_as_vectors():
    one, other = toy()[1:]
    flat = [np.concatenate([tree[name].ravel() for name in sorted(tree)]) for tree in (one, other)]
    np.testing.assert_allclose(first_order.dot(as_jax(one), as_jax(other)), flat[0] @ flat[1])
    np.testing.assert_allclose(first_order.norm(as_jax(one)), np.linalg.norm(flat[0]))


def test_positive_is_the_sign_of_sampled_labels_by_simulation():
    """Labels drawn by NumPy from a softmax shifted by eps u; the noise is that of the labels alone."""
    random = np.random.default_rng(3)
    z, u, eps, n = random.normal(size=(200, 3)), random.normal(size=(200, 3)), 0.05, 4
    p, q = (np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (z + eps * u, z))
    draws = np.stack([random.multinomial(n, p) for _ in range(4000)]) / n
    inner = ((draws - q) * u).sum(-1).mean(-1)
    quadratic = np.mean((q * u * u).sum(-1) - (q * u).sum(-1) ** 2)
    predicted = float(first_order.positive(jnp.float64(eps), jnp.float64(quadratic), jnp.float64(200 * n)))
    assert predicted == pytest.approx(stats.norm.cdf(eps * np.sqrt(200 * n * quadratic)))
    assert 0.7 < predicted < 0.95 and abs((inner > 0).mean() - predicted) < 0.03


def study(mnist, grid, seeds=3, conditions=("same", "random"), **fields):
    config = base_config("smoke")
    given = {"student.optimizer": "sgd", "student.lr": 1.0, "student.steps": 1, "student.eval_steps": (), "m": (10,)}
    config.update_from_flattened_dict({**given, "teacher.batch": 100, "conditions": conditions, **fields})
    built = build_conditions(resolve(config), mnist)
    return theorem1.run(built, [grid] * len(built), mnist, quiet(seeds))


@pytest.mark.e2e
def test_run_measures_the_law(mnist):
    eps = (1e-5, 1e-4, 1e-3)
    rows = study(mnist, first_steps.Grid(eps, (0.0, 1.0)), **{"net.activation": "tanh"})
    assert len(rows) == 2 * 3 * 3 * 2
    same, random = (rows[rows["condition"] == name] for name in ("same", "random"))
    error = (same["at/ratio"] - 1).abs().groupby(same["eps"]).median()
    assert error.max() < 1e-3 and abs(np.polyfit(np.log10(error.index), np.log10(error), 1)[0] - 1) < 0.1
    assert (same["at/inner"] > 0).all() and (same["theory/inner"] > 0).all()
    np.testing.assert_allclose(same["at/cosine"], same["theory/cosine"], rtol=1e-3)
    still, far = (same[same["alpha"] == alpha] for alpha in (0, 1))
    assert (still["at/loss_change"] == 0).all() and (far["at/loss_change"] < 0).all()
    np.testing.assert_allclose(far["at/loss_change"], far["theory/loss_change"], rtol=1e-2)
    assert random[["theory/inner", "theory/cosine", "at/ratio"]].isna().all(axis=None)
    assert (random["at/norm"] > 100 * same["at/norm"].max()).all()  # imitates the untrained teacher, at order 1


@pytest.mark.e2e
def test_run_of_a_teacher_that_moved_its_class_head_alone_is_zero(mnist):
    rows = study(mnist, first_steps.Grid(), conditions=("same",), **{"teacher.frozen": ("hidden_*",)})
    assert (rows[["at/inner", "at/cosine", "at/norm", "theory/inner"]] == 0).all(axis=None)


@pytest.mark.e2e
def test_study_measures_before_the_first_step_too(mnist):
    one_step = study(mnist, first_steps.Grid(), seeds=1, conditions=("same",))
    rows = study(mnist, first_steps.Grid(), seeds=1, conditions=("same",), **{"student.eval_steps": (0,)})
    assert rows["step"].tolist() == [0, 1]
    assert (rows.loc[0, ["at/inner", "at/norm", "at/loss_change"]] == 0).all()
    measured = [name for name in rows if "/" in name]
    np.testing.assert_allclose(rows.loc[1, measured].astype(float), one_step.loc[0, measured].astype(float), rtol=1e-6)


@pytest.mark.e2e
def test_run_goes_on_where_it_stopped_and_shares_work(mnist, tmp_path):
    config = base_config("smoke")
    fields = {"student.steps": 1, "student.eval_steps": (), "m": (10,), "conditions": ("same", "random")}
    config.update_from_flattened_dict({**fields, "teacher.batch": 100})
    built = build_conditions(resolve(config), mnist)
    given, grids = {"config": {"a": 1}}, [first_steps.Grid()] * 2
    first = theorem1.run(built, grids, mnist, quiet(workdir=tmp_path, shard=(0, 2), **given))
    assert len(first) == 2 and theorem1.left(2, range(2), tmp_path) == 1
    assert theorem1.left(2, range(2), tmp_path, (0, 2)) == 0
    both = theorem1.run(built, grids, mnist, quiet(workdir=tmp_path, **given))
    whole = theorem1.run(built, grids, mnist, quiet())
    assert theorem1.left(2, range(2), tmp_path) == 0 and both.equals(whole)
    with pytest.raises(ConfigError, match="belongs to another config"):
        theorem1.run(built, grids, mnist, quiet(workdir=tmp_path, config={"a": 2}))


def test_units_are_of_the_seeds_that_lack_rows():
    whole = theorem1._units(2, tuple(range(12)), (0, 1), {})
    ends = ("0000-0009", "0010-0011")
    assert [name for _, _, name in whole] == [f"condition00{n}-seed{end}" for n in (0, 1) for end in ends]
    done = {"condition000": {0, 1, 2}, "condition001": set(range(10))}
    left = theorem1._units(2, tuple(range(12)), (0, 1), done)
    assert [(n, seeds) for n, seeds, _ in left] == [(0, tuple(range(3, 10))), (0, (10, 11)), (1, (10, 11))]
    halves = [theorem1._units(2, tuple(range(12)), (index, 2), done) for index in range(2)]
    assert sorted(halves[0] + halves[1]) == left


BAD = {
    "student.frozen": (("hidden_*",), "config.student.frozen: must be"),
    "net.dtype": ("bfloat16", "config.net.dtype: must be float32"),
    "conditions": (("random_hidden",), "config.conditions: theorem1 knows same and random"),
}


@pytest.mark.parametrize("field", BAD)
def test_run_refuses_what_the_theorem_does_not_know(field, mnist):
    value, message = BAD[field]
    with pytest.raises(ConfigError, match=message):
        study(mnist, first_steps.Grid(), **{field: value})
    with pytest.raises(ConfigError, match=r"config.theorem1.samples=3: needs config.student.loss='kl'"):
        study(mnist, first_steps.Grid(samples=3), conditions=("same",))
