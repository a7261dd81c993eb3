"""Every column against NumPy in double precision, on four unrelated nets and with padded auxiliary columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax import metrics
from sublim_jax.core import keys
from sublim_jax.core.types import Knobs
from sublim_jax.metrics import student as student_metrics
from sublim_jax.metrics.student import EvalContext, TeacherStudent
from sublim_jax.nets import MLP, SplitHead
from sublim_jax.training import inits
from sublim_jax.training import step as training_step

CLASSES, CAP, M = 10, 8, 5
NET = SplitHead(MLP((12, 9)), CLASSES, CAP)
ONE = jnp.float32(1)


@pytest.fixture(scope="module")
def scene():
    nets = [training_step.init_params(NET, inits.torch_linear, (28, 28), keys.root(seed)) for seed in range(4)]
    x, noise = (jax.random.normal(jax.random.key(seed), (60, 28, 28)) for seed in (5, 6))
    seen = (np.arange(CLASSES + CAP) >= CLASSES) & (np.arange(CLASSES + CAP) < CLASSES + M)
    knobs = Knobs(jnp.asarray(seen), jnp.int32(1), ONE, ONE, share={}, init_noise={}, trainable={})
    apply = jax.jit(training_step.apply, static_argnums=0)
    test, held_out = (TeacherStudent(*(apply(NET, net, inputs) for net in nets)) for inputs in (x, noise))
    labels = jax.random.randint(jax.random.key(7), (60,), 0, CLASSES)
    return EvalContext(TeacherStudent(*nets), test, held_out, labels, knobs)


@pytest.fixture(scope="module")
def found(scene):
    measured = jax.jit(lambda given: metrics.measure(metrics.ALL, given))(scene)
    return {name: float(value) for name, value in measured.items()}


def double(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float64), tree)


def test_task_takes_head_and_latent_from_the_nets_it_names(scene, found):
    labels = np.asarray(scene.labels)

    def accuracy(head, latent):
        head = double(getattr(scene.params, head)["class_head"])
        logits = double(getattr(scene.test, latent).features) @ head["kernel"] + head["bias"]
        return (logits.argmax(-1) == labels).mean()

    for name, head, latent in (
        ("student_accuracy", "student_final", "student_final"),
        ("teacher_accuracy", "teacher_final", "teacher_final"),
        ("untrained_accuracy", "teacher_init", "teacher_init"),
        ("accuracy_c0_ht", "teacher_init", "teacher_final"),
        ("accuracy_ct_hs", "teacher_final", "student_final"),
        ("accuracy_c0_hs", "teacher_init", "student_final"),
    ):
        assert found[name] == pytest.approx(accuracy(head, latent), abs=1e-6), name


def test_task_cross_entropy_is_over_the_class_logits(scene, found):
    for who in ("student", "teacher"):
        logits = double(getattr(scene.test, f"{who}_final").logits)[:, :CLASSES]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        wanted = -log_p[np.arange(60), np.asarray(scene.labels)].mean()
        assert found[f"{who}_cross_entropy"] == pytest.approx(wanted, rel=1e-5)


def test_imitation_mse_is_over_held_out_noise_and_seen_logits(scene, found):
    error = double(scene.noise.student_final.logits) - double(scene.noise.teacher_final.logits)
    assert found["aux_mse"] == pytest.approx((error[:, CLASSES : CLASSES + M] ** 2).mean(), rel=1e-5)
    blind = scene._replace(knobs=scene.knobs.replace(logit_mask=jnp.arange(CLASSES + CAP) < CLASSES))
    assert np.isnan(metrics.imitation(blind)["aux_mse"]) and np.isnan(metrics.imitation(blind)["aux_r2"])


def test_imitation_r2_is_the_explained_part_of_the_teachers_variance(scene, found):
    student, teacher = (
        double(out.logits)[:, CLASSES : CLASSES + M] for out in (scene.noise.student_final, scene.noise.teacher_final)
    )
    wanted = 1 - ((student - teacher) ** 2).sum() / ((teacher - teacher.mean(0)) ** 2).sum()
    assert found["aux_r2"] == pytest.approx(wanted, rel=1e-4)


def test_representation_is_compared_on_test_images_and_on_noise(scene, found):
    for suffix, four in (("", scene.test), ("_noise", scene.noise)):
        s, t = (z - z.mean(0) for z in (double(four.student_final.features), double(four.teacher_final.features)))
        cka = np.sum((s.T @ t) ** 2) / np.linalg.norm(s.T @ s) / np.linalg.norm(t.T @ t)
        assert found[f"cka{suffix}"] == pytest.approx(cka, rel=1e-4)
        assert found[f"cka_debiased{suffix}"] < found[f"cka{suffix}"]
    h = [double(out.features) for out in scene.noise]
    student, teacher = h[3] - h[2], h[1] - h[0]
    cosines = (student * teacher).sum(-1) / np.linalg.norm(student, axis=-1) / np.linalg.norm(teacher, axis=-1)
    assert found["latent_cosine_noise"] == pytest.approx(cosines.mean(), rel=1e-4)


def test_layers_are_compared_by_all_their_arrays_and_the_auxiliary_head_by_its_seen_columns(scene, found):
    pairs = {
        "teacher_student_init": ("teacher_init", "student_init"),
        "teacher_student_final": ("teacher_final", "student_final"),
        "teacher_init_final": ("teacher_init", "teacher_final"),
        "student_init_final": ("student_init", "student_final"),
    }
    for pair, names in pairs.items():
        for layer in ("hidden_0", "hidden_1", "class_head", "aux_head"):
            arrays = [double(getattr(scene.params, name)[layer]) for name in names]
            width = M if layer == "aux_head" else None
            a, b = (np.concatenate([net["kernel"][:, :width].ravel(), net["bias"][:width]]) for net in arrays)
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found[f"cosine/{pair}/{layer}"] == pytest.approx(cosine, abs=1e-5)
            assert found[f"distance/{pair}/{layer}"] == pytest.approx(
                np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-5
            )
    assert len([name for name in found if name.startswith(("cosine/", "distance/"))]) == 2 * 4 * 4


def test_layers_are_likened_by_the_first_test_images(scene, found):
    for layer in ("hidden_0", "hidden_1"):
        ours, theirs = (double(out.acts[layer])[: student_metrics._FEW] for out in (scene.test[3], scene.test[1]))
        s, t = ours - ours.mean(0), theirs - theirs.mean(0)
        cka = np.sum((s.T @ t) ** 2) / np.linalg.norm(s.T @ s) / np.linalg.norm(t.T @ t)
        assert found[f"cka/{layer}"] == pytest.approx(cka, rel=1e-4)
        assert {f"{kind}/{layer}" for kind in ("rsa", "procrustes", "cka_debiased")} <= found.keys()


def test_readout_is_what_the_initial_class_head_reads(scene, found):
    head = double(scene.params.teacher_init["class_head"]["kernel"])
    ours, theirs = (double(scene.test[who].features) @ head for who in (3, 1))
    left = ((theirs - ours) ** 2).sum() / ((theirs - theirs.mean(0)) ** 2).sum()
    assert found["readout_r2"] == pytest.approx(1 - left, rel=1e-4)
    same = scene._replace(test=scene.test._replace(student_final=scene.test.teacher_final))
    assert metrics.readout(same)["readout_r2"] == 1


def test_measure_refuses_two_metrics_of_one_column(scene):
    with pytest.raises(ValueError, match="student_accuracy"):
        metrics.measure((metrics.task, metrics.task), scene)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("net", ["student_final", "teacher_final"])
def test_measure_of_a_net_that_diverged_is_nan_in_every_column(scene, bad, net):
    """One parameter that is not finite is enough, also where no logit shows it; the other net keeps its numbers."""
    params = getattr(scene.params, net)
    broken = {**params, "hidden_0": {**params["hidden_0"], "bias": params["hidden_0"]["bias"].at[3].set(bad)}}
    context = student_metrics.hide_diverged(scene._replace(params=scene.params._replace(**{net: broken})))
    few = (metrics.task, metrics.budget, metrics.imitation, metrics.readout, metrics.layers)
    rows = metrics.measure(few, context)
    initial = ("untrained", "cosine/teacher_student_init", "distance/teacher_student_init")
    of_others = {
        "student_final": (*initial, "teacher_", "accuracy_c0_ht", "cosine/teacher_init", "distance/teacher_init"),
        "teacher_final": (*initial, "student_", "accuracy_c0_hs", "cosine/student", "distance/student"),
    }[net]
    for name, value in rows.items():
        assert np.isnan(value) != name.startswith(of_others), name


def test_accuracy_of_logits_that_are_not_finite_is_nan():
    logits, labels = jnp.eye(4), jnp.arange(4)
    assert student_metrics.accuracy(logits, labels) == 1
    for bad in (np.nan, np.inf, -np.inf):
        assert np.isnan(student_metrics.accuracy(logits.at[2, 1].set(bad), labels))


def test_displacement_is_the_part_along_the_teachers_way(scene):
    nets = double(scene.params)
    hidden = [layer for layer in nets.student_final if layer not in ("class_head", "aux_head")]

    def way(before, after):
        parts = [after[layer][name] - before[layer][name] for layer in hidden for name in ("kernel", "bias")]
        return np.concatenate([part.ravel() for part in parts])

    theirs, ours = way(*nets[:2]), way(*nets[2:])
    rows = student_metrics.displacement(scene)
    assert float(rows["along"]) == pytest.approx(ours @ theirs / (theirs @ theirs), abs=1e-5)
    assert float(rows["moved"]) == pytest.approx(np.linalg.norm(ours) / np.linalg.norm(theirs), rel=1e-5)
    small = {
        **scene.params.student_final,
        "hidden_0": jax.tree.map(lambda a: a[:3], scene.params.student_final["hidden_0"]),
    }
    start = {
        **scene.params.student_init,
        "hidden_0": jax.tree.map(lambda a: a[:3], scene.params.student_init["hidden_0"]),
    }
    other = scene._replace(params=scene.params._replace(student_init=start, student_final=small))
    assert np.isnan(float(student_metrics.displacement(other)["along"]))
