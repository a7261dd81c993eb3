"""Every scale-free measure from 1e-12 to 1e12: hypothesis draws numbers and scales, NumPy computes in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist

from sublim_jax import metrics, theory
from sublim_jax.audit.pair import audit_pair
from sublim_jax.core import keys
from sublim_jax.core.types import Knobs, ModelOutput
from sublim_jax.metrics import predictions, similarity
from sublim_jax.metrics.student import EvalContext, TeacherStudent
from sublim_jax.nets import MLP, SplitHead
from sublim_jax.theory import first_order
from sublim_jax.training import inits, losses
from sublim_jax.training import step as training_step

# Fixed examples without shrinking: a failure names scales that fail.
FAST = settings(deadline=None, derandomize=True, database=None, phases=(Phase.generate,))
EXPONENT = st.floats(-12, 12)
N, P, Q = 24, 6, 4


def centred(x):
    return x - x.mean(0)


def cosine(x, y):
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def cka(x, y):
    k, m = (centred(z) @ centred(z).T for z in (x, y))
    return (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)


def cka_debiased(x, y):
    def hsic(k, m):
        return np.trace(k @ m) + k.sum() * m.sum() / ((N - 1) * (N - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (N - 2)

    k, m = ((z @ z.T) * (1 - np.eye(N)) for z in (x, y))
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def rsa(x, y):
    return stats.spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic


def procrustes(x, y):
    x, y = centred(x), centred(y)
    return np.linalg.norm(x.T @ y, "nuc") / np.linalg.norm(x) / np.linalg.norm(y)


def inside(kernel, moved):
    left = np.linalg.svd(kernel, full_matrices=False)[0]
    return np.linalg.norm(moved @ left) ** 2 / np.linalg.norm(moved) ** 2


def cosine_loss(x, y):
    one, seen = jnp.float32(1), jnp.ones(x.shape[1], bool)
    knobs = Knobs(seen, jnp.int32(1), one, one, {}, {}, {})
    student, teacher = (ModelOutput(z[:, :0], z, {}) for z in (x, y))
    return losses.cosine(student, teacher, knobs)


def overlap(x, y):
    return first_order.overlap(x, y, 1.0, first_order.dot(x, y))


# measure, the same in NumPy, whether both arguments have one width, whether they have one scale
MEASURES = {
    "cka": (similarity.cka, cka, False, False),
    "cka_debiased": (similarity.cka_debiased, cka_debiased, False, False),
    "rsa": (similarity.rsa, rsa, False, False),
    "procrustes": (similarity.procrustes, procrustes, False, False),
    "cosine": (similarity.cosine, cosine, True, False),
    "distance": (
        similarity.distance,
        lambda x, y: np.linalg.norm(x - y, axis=-1) / np.linalg.norm(x, axis=-1),
        True,
        False,
    ),
    "r_squared": (
        similarity.r_squared,
        lambda x, y: 1 - np.linalg.norm(x - y) ** 2 / np.linalg.norm(centred(y)) ** 2,
        True,
        True,
    ),
    "inside": (
        lambda x, y: theory.inside(theory.row_space(x.T, jnp.ones(len(x), bool)), y),
        lambda x, y: inside(x.T, y),
        True,
        False,
    ),
    "oracle": (
        lambda x, y: similarity.cosine(theory.oracle(x[:3].T, jnp.ones(3, bool), y[:, :3], y), y),
        lambda x, y: cosine(y + y[:, :3] @ np.linalg.pinv(x[:3].T), y),
        True,
        True,
    ),
    "cosine loss": (cosine_loss, lambda x, y: 1 - cosine(x, y), True, False),
    "overlap": (lambda x, y: overlap(x, y).cosine, lambda x, y: cosine(x.ravel(), y.ravel()), True, False),
    "overlap's ratio": (lambda x, y: overlap(x, y).ratio, lambda x, y: 1.0, True, False),
}
COMPILED = {name: jax.jit(measure) for name, (measure, *_) in MEASURES.items()}


@pytest.mark.parametrize("name", MEASURES)
@settings(FAST, max_examples=25)
@given(seed=st.integers(0, 99), left=EXPONENT, right=EXPONENT)
def test_scale_free_measures_agree_with_float64(name, seed, left, right):
    _, wanted, same_width, same_scale = MEASURES[name]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, P)) * 10.0**left
    y = rng.normal(size=(N, P if same_width else Q)) * 10.0 ** (left if same_scale else right)
    x, y = x.astype(np.float32), y.astype(np.float32)
    expected = wanted(x.astype(float), y.astype(float))
    # A distance or an R^2 of 1e24 is right to its leading digits.
    np.testing.assert_allclose(COMPILED[name](x, y), expected, rtol=2e-3 if name == "rsa" else 2e-4, atol=2e-5)


NET = SplitHead(MLP((7, 6)), 3, 4)


@functools.cache
def nets():
    """Parameters of four unrelated nets, images, noise and labels."""
    drawn = [training_step.init_params(NET, inits.torch_linear, (5, 5), keys.root(seed)) for seed in range(4)]
    x, noise = (jax.random.normal(jax.random.key(seed), (30, 5, 5)) for seed in (5, 6))
    return TeacherStudent(*drawn), x, noise, jax.random.randint(jax.random.key(7), (30,), 0, 3)


@jax.jit
def columns(latent, head):
    """All scale-free columns of nets whose latents and whose heads are multiplied."""
    given, x, noise, labels = nets()

    def scaled(params):
        # The first layer's scale is that of the latent, because ReLU keeps it.
        sizes = {"hidden_0": latent, "hidden_1": 1.0, "class_head": head, "aux_head": head}
        return {
            layer: {"kernel": arrays["kernel"] * sizes[layer], "bias": 0 * arrays["bias"]}
            for layer, arrays in params.items()
        }

    params = TeacherStudent(*map(scaled, given))
    params = params._replace(teacher_final={**params.teacher_final, "aux_head": params.teacher_init["aux_head"]})
    test, held_out = (TeacherStudent(*(training_step.apply(NET, net, z) for net in params)) for z in (x, noise))
    one, layers = jnp.float32(1), list(given.teacher_init)
    each = {layer: one * 0.5 for layer in layers}
    sigma = {layer: jnp.float32(0) for layer in layers}
    knobs = Knobs(jnp.arange(7) >= 3, jnp.int32(1), one, one, each, sigma, {layer: one for layer in layers})
    context = EvalContext(params, test, held_out, labels, knobs, jnp.float32(30), untrained_layers=("class_head",))
    update = (jax.tree.map(lambda a, b: a - b, params.student_final, params.teacher_init), params.student_init)
    context = context._replace(update=update[0], trait=update[1])
    rows = metrics.measure((*metrics.ALL, *predictions.ALL), context)
    absolute = ("cross_entropy", "aux_mse", "theory/trait_change")
    mixed = ("theory/coverage", "theory/trait_cosine")  # of all layers together, which are multiplied differently
    return {name: value for name, value in rows.items() if not name.endswith((*absolute, *mixed))}


@pytest.mark.e2e
@settings(FAST, max_examples=25)
@given(latent=EXPONENT, head=EXPONENT)
def test_measure_is_free_of_the_scales_of_latent_and_head(latent, head):
    wanted, found = columns(1.0, 1.0), columns(10.0**latent, 10.0**head)
    assert len(wanted) > 40
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def linear(params, x):
    return x @ params["w"]


def square(params):
    return (params["w"] ** 2).sum()


@settings(FAST, max_examples=15)
@given(weights=EXPONENT, seed=st.integers(0, 99))
def test_audit_pair_is_free_of_the_scale_of_weights(weights, seed):
    rng = np.random.default_rng(seed)
    x, w, delta, own = (rng.normal(size=size).astype(np.float32) for size in ((20, 5), (5, 3), (5, 3), (5, 3)))
    size = np.float32(10.0**weights)
    student, teacher, initial = ({"w": size * each} for each in (own, w + delta, w))
    found = audit_pair(linear, student, teacher, initial, x, square)
    x, w, delta, own = (each.astype(float) for each in (x, w, delta, own))
    update = x.T @ (x @ (w + delta - own))
    assert found.coverage == pytest.approx(cosine(update.ravel(), delta.ravel()), abs=1e-4)
    assert found.trait_cosine == pytest.approx(cosine(update.ravel(), -own.ravel()), abs=1e-4)
    assert found.heads["w"] == pytest.approx(cosine(own.ravel(), (w + delta).ravel()), abs=1e-4)
    assert found.trait_change.mean == pytest.approx(
        (update * own).sum() * 2 * 2 / 60 * float(size) ** 2, rel=1e-3, abs=1e-4 * float(size) ** 2
    )
