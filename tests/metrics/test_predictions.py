"""What is predicted of a student, against NumPy in double precision and against nets that are built to obey."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.core import keys
from sublim_jax.core.types import Knobs, Recipe
from sublim_jax.metrics import predictions
from sublim_jax.metrics.evaluate import first_update
from sublim_jax.metrics.student import EvalContext, TeacherStudent, hide_diverged
from sublim_jax.nets import MLP, SplitHead
from sublim_jax.training import inits
from sublim_jax.training import step as training_step
from sublim_jax.training.losses import mse

CLASSES, CAP, M, N = 10, 8, 5, 60
LAYERS = ("hidden_0", "hidden_1", "class_head", "aux_head")
NET = SplitHead(MLP((32, 24)), CLASSES, CAP)
RECIPE = Recipe(NET, lambda *_: None, mse, inits.torch_linear, 10, (1,), NET)
HEADS = ("aux_head", "class_head")
SEEN = (np.arange(CLASSES + CAP) >= CLASSES) & (np.arange(CLASSES + CAP) < CLASSES + M)


def drawn(seed):
    return training_step.init_params(NET, inits.torch_linear, (28, 28), keys.root(seed))


def moved(net, seed, size=0.02, skip=()):
    other = drawn(seed)
    return {
        layer: arrays if layer in skip else jax.tree.map(lambda a, b: a + size * b / abs(b).max(), arrays, other[layer])
        for layer, arrays in net.items()
    }


@functools.cache
def scene_of(share=1.0, sigma=0.0, trainable=1.0, seed=0, heads=HEADS):
    """A scene with a teacher that moved all but its auxiliary head, and a student that moved all but its class head."""

    def each(value):
        return {layer: jnp.float32(value if layer in heads else 1.0 if value == share else 0.0) for layer in LAYERS}

    noise = {layer: jnp.float32(sigma if layer in heads else 0) for layer in LAYERS}
    alive = {layer: jnp.float32(trainable) for layer in LAYERS}
    one = jnp.float32(1)
    knobs = Knobs(jnp.asarray(SEEN), jnp.int32(7), one, one, each(share), noise, alive)
    origin = drawn(seed)
    teacher = moved(origin, seed + 100, skip=("aux_head",))
    begun = training_step.init_state(RECIPE, knobs, origin, (28, 28), keys.root(seed + 3)).params
    nets = TeacherStudent(origin, teacher, begun, moved(begun, seed + 200, skip=("class_head",)))
    x, held_out = (jax.random.normal(jax.random.key(seed + place), (N, 28, 28)) for place in (5, 6))
    labels = jax.random.randint(jax.random.key(seed + 7), (N,), 0, CLASSES)
    apply = jax.jit(training_step.apply, static_argnums=0)
    test, noise = (TeacherStudent(*(apply(NET, net, inputs) for net in nets)) for inputs in (x, held_out))
    batch = training_step.Batch(held_out, None, noise.teacher_final)
    update, trait = jax.jit(first_update, static_argnums=0)(RECIPE, begun, knobs, batch, x, labels)
    return EvalContext(nets, test, noise, labels, knobs, jnp.float32(3000), update, trait, False, ("class_head",))


def double(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float64), tree)


def vector(tree):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(double(tree))])


def cosine(a, b):
    return (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.e2e
def test_heads_have_the_cosine_of_share_and_noise_on_average():
    rows = [scene_of(share=0.6, sigma=0.1, seed=seed) for seed in range(0, 40, 4)]
    for head in ("class_head", "aux_head"):
        name = f"theory/cosine/teacher_student_init/{head}"
        told = np.mean([float(predictions.heads(scene)[name]) for scene in rows])
        found = [
            cosine(
                *(vector({k: v[..., :M] if head == "aux_head" else v for k, v in net[head].items()}) for net in pair)
            )
            for pair in ((scene.params.teacher_init, scene.params.student_init) for scene in rows)
        ]
        assert abs(told - np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


@pytest.mark.e2e
def test_heads_that_drift_have_the_cosine_of_its_size():
    scene = scene_of()
    found = predictions.heads(scene)["theory/cosine/teacher_init_final/class_head"]
    first, last = (vector(net["class_head"]) for net in scene.params[:2])
    assert float(found) == pytest.approx(1 / np.sqrt(1 + ((last - first) ** 2).sum() / (first**2).sum()), rel=1e-4)
    assert np.isnan(predictions.heads(scene_of(sigma=0.1))["theory/cosine/teacher_student_final/aux_head"])


def test_predictions_of_heads_that_were_altered_otherwise_are_none():
    altered = scene_of()._replace(altered=True)
    rows = predictions.heads(altered) | predictions.first_step(altered)
    known = {name for name, value in rows.items() if np.isfinite(value)}
    assert known == {"theory/cosine/teacher_init_final/class_head", "first_step_cosine"}


def test_first_step_is_measured_along_the_gradient_in_the_latent():
    scene = scene_of(sigma=0.1)
    found = predictions.first_step(scene)
    noise = double({"t": scene.noise.teacher_final.features, "s": scene.noise.student_init.features})

    def loss(latent):
        head = scene.params.student_init["aux_head"]
        wanted = scene.noise.teacher_final.acts["aux_head"][:, :M]
        return (((latent @ head["kernel"] + head["bias"][None])[:, :M] - wanted) ** 2).sum()

    slope = -double(jax.grad(loss)(scene.noise.student_init.features))
    way = noise["t"] - noise["s"]
    each = (slope * way).sum(-1) / np.linalg.norm(slope, axis=-1) / np.linalg.norm(way, axis=-1)
    assert float(found["first_step_cosine"]) == pytest.approx(each.mean(), abs=1e-4)
    random = np.random.default_rng(0)
    origin, start, way = (
        double(x) for x in (scene.params.teacher_init["aux_head"], noise["s"], noise["t"] - noise["s"])
    )
    top = below = 0.0
    for _ in range(1500):  # heads drawn like the teacher's, with the same noise on weights and biases
        deviation = np.sqrt((origin["kernel"][:, :M] ** 2).mean())
        head, wrong = deviation * random.normal(size=(24, M)), 0.1 * random.normal(size=(24, M))
        step = (way @ head - start @ wrong - 0.1 * random.normal(size=M)) @ (head + wrong).T
        top, below = top + (step * way).sum(), below + (step**2).sum()
    wanted = top / np.sqrt(below * 1500 * (way**2).sum())
    assert float(found["theory/first_step_cosine"]) == pytest.approx(wanted, rel=0.05)
    assert float(predictions.first_step(scene_of(share=0.0))["theory/first_step_cosine"]) == 0
    assert np.isnan(predictions.first_step(scene_of(share=0.5))["theory/first_step_cosine"])


def test_recovery_reads_the_nearest_latent_with_the_teachers_answers():
    scene = scene_of()
    found = predictions.recovery(scene)
    aux, head = double(scene.params.student_init["aux_head"]), double(scene.params.student_init["class_head"])
    start, teacher = double(scene.test.student_init.features), double(scene.test.teacher_final.features)
    inverse = np.linalg.pinv(aux["kernel"][:, :M])
    latent = start + (teacher - start) @ aux["kernel"][:, :M] @ inverse  # the heads are shared, biases cancel
    labels = np.asarray(scene.labels)
    for name, h in (("theory/oracle_accuracy", latent), ("theory/ceiling_accuracy", teacher)):
        wanted = ((h @ head["kernel"] + head["bias"]).argmax(-1) == labels).mean()
        assert float(found[name]) == pytest.approx(wanted, abs=1.01 / N)
    change = double(scene.noise.student_final.features) - double(scene.noise.student_init.features)
    projected = change @ aux["kernel"][:, :M] @ inverse
    assert float(found["inside_row_space"]) == pytest.approx((projected**2).sum() / (change**2).sum(), rel=1e-3)
    left = double(scene.noise.teacher_final.features) - double(scene.noise.student_final.features)
    way = double(scene.noise.teacher_final.features) - double(scene.noise.student_init.features)
    assert float(found["recovered_energy_noise"]) == pytest.approx(1 - (left**2).sum() / (way**2).sum(), abs=1e-4)
    assert float(found["theory/recovered_energy"]) == pytest.approx(M / 24)


@pytest.mark.parametrize(("share", "sigma"), [(1.0, 0.2), (0.5, 0.1), (0.0, 0.0)])
@pytest.mark.e2e
def test_class_noise_is_the_mean_over_draws_of_the_class_head(share, sigma):
    scene = scene_of(share=share, sigma=sigma, heads=("class_head",))
    told = predictions.class_noise(scene)
    assert float(told["theory/class_noise_lower"]) <= float(told["theory/class_noise_accuracy"])
    assert float(told["theory/class_noise_accuracy"]) <= float(told["theory/class_noise_upper"])
    h, labels = double(scene.test.student_final.features), np.asarray(scene.labels)
    random = np.random.default_rng(0)
    accuracies = []
    for _ in range(400):
        head = double(scene.params.teacher_init["class_head"])
        bound = 1 / np.sqrt(24)
        draw = {
            name: share * array
            + (1 - share) * random.uniform(-bound, bound, array.shape)
            + sigma * random.normal(size=array.shape)
            for name, array in head.items()
        }
        accuracies.append(((h @ draw["kernel"] + draw["bias"]).argmax(-1) == labels).mean())
    error = np.std(accuracies) / np.sqrt(400)
    assert abs(float(told["theory/class_noise_accuracy"]) - np.mean(accuracies)) < 4 * error + 0.003


def test_class_noise_at_the_end_counts_and_a_trained_head_is_not_predicted():
    scene, name = scene_of(), "theory/class_noise_accuracy"
    late = scene._replace(knobs=dataclasses.replace(scene.knobs, final_noise={"class_head": jnp.float32(0.3)}))
    early = scene_of(sigma=0.3, heads=("class_head",))._replace(test=scene.test, params=scene.params)
    assert float(predictions.class_noise(late)[name]) == pytest.approx(float(predictions.class_noise(early)[name]))
    assert np.isnan(predictions.class_noise(scene._replace(untrained_layers=()))[name])


def test_counting_is_against_trained_weights_of_the_trunk():
    trunk = 784 * 32 + 32 + 32 * 24 + 24
    name = "theory/equations_per_weight"
    assert float(predictions.counting(scene_of())[name]) == pytest.approx(M * 3000 / trunk, rel=1e-5)
    assert np.isinf(predictions.counting(scene_of(trainable=0.0))[name])


def test_audit_compares_the_first_update_with_teacher_and_trait():
    scene = scene_of()
    rows = predictions.audit(scene)

    def imitation(net):
        wanted = scene.noise.teacher_final.acts["aux_head"][:, :M]
        x = jax.random.normal(jax.random.key(6), (N, 28, 28))
        return ((training_step.apply(NET, net, x).acts["aux_head"][:, :M] - wanted) ** 2).mean()

    def trait(net):
        x = jax.random.normal(jax.random.key(5), (N, 28, 28))
        log_p = jax.nn.log_softmax(training_step.apply(NET, net, x).acts["class_head"])
        return -log_p[jnp.arange(N), scene.labels].mean()

    begun = scene.params.student_init
    update, slope = -vector(jax.grad(imitation)(begun)), vector(jax.grad(trait)(begun))
    displacement = vector(scene.params.teacher_final) - vector(scene.params.teacher_init)
    assert float(rows["theory/coverage"]) == pytest.approx(cosine(update, displacement), abs=1e-4)
    assert float(rows["theory/trait_change"]) == pytest.approx((update * slope).sum(), rel=1e-3)
    assert float(rows["theory/trait_cosine"]) == pytest.approx(-cosine(update, slope), abs=1e-4)
    # Second way: what a small step really does to the trait's loss.
    ahead, back = (
        jax.tree.map(lambda a, b, size=size: a - size * b, begun, jax.grad(imitation)(begun)) for size in (0.3, -0.3)
    )
    slope_found = (float(trait(ahead)) - float(trait(back))) / 0.6
    assert slope_found == pytest.approx(float(rows["theory/trait_change"]), rel=0.1)
    assert float(rows["theory/compatibility_aux"]) == pytest.approx(1)
    head = cosine(vector(begun["class_head"]), vector(scene.params.teacher_final["class_head"]))
    assert float(rows["theory/compatibility_class"]) == pytest.approx(head, abs=1e-5)


def test_audit_leaves_frozen_layers_out_of_the_update():
    rows = predictions.audit(scene_of(trainable=0.0))
    assert float(rows["theory/trait_change"]) == 0
    assert np.isnan(rows["theory/coverage"])


def test_predictions_for_a_net_that_diverged_are_nan():
    scene = scene_of(sigma=0.1)
    for net in ("student_final", "teacher_final"):
        outputs = getattr(scene.test, net)
        broken = outputs._replace(logits=outputs.logits.at[0, 0].set(jnp.nan))
        context = hide_diverged(scene._replace(test=scene.test._replace(**{net: broken})))
        rows = predictions.recovery(context) | predictions.class_noise(context)
        of_student = ("theory/class_noise", "inside_row_space", "recovered_energy_noise")
        of_teacher = ("theory/oracle_accuracy", "theory/ceiling_accuracy", "recovered_energy_noise")
        expected = of_student if net == "student_final" else of_teacher
        assert {name for name, value in rows.items() if np.isnan(value)} == {
            name for name in rows if name.startswith(expected)
        }
