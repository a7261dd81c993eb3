"""What is measured of one student at a mark. A metric is a function of a `EvalContext` that returns named numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sublim_jax.core.types import Knobs, Params
from sublim_jax.metrics import similarity
from sublim_jax.training.losses import mse


class TeacherStudent(NamedTuple):
    """The same thing of the four nets of a condition: teacher and student, before and after training."""

    teacher_init: Any
    teacher_final: Any
    student_init: Any
    student_final: Any


class EvalContext(NamedTuple):
    """All a metric may look at; jit prunes what no metric reads.

    params  parameters of the four nets
    test    their `ModelOutput` on the test images
    noise   their `ModelOutput` on held-out inputs of the student's own stream
    labels  [n] of the test images
    knobs   of the student
    shown   different inputs the student has been shown
    update  its first update, per unit of learning rate: minus the gradient of its loss at its beginning on `noise`
    trait   gradient of its cross-entropy on test images, at its beginning
    altered whether its beginning was altered by more than shares and noise (a rotated head)
    idle    layers that its training does not reach
    squared whether its loss is the mean squared error
    """

    params: TeacherStudent
    test: TeacherStudent
    noise: TeacherStudent
    labels: Int[Array, " n"]
    knobs: Knobs
    num_inputs_seen: Any = 0
    update: Any = None
    trait: Any = None
    altered: bool = False
    untrained_layers: tuple[str, ...] = ()
    squared: bool = True


Metric = Callable[[EvalContext], dict[str, Float[Array, ""]]]

_FEW = 300  # images of which every pair is compared; a sort of the pairs is what RSA costs
PAIRS = (
    ("teacher_student_init", "teacher_init", "student_init"),
    ("teacher_student_final", "teacher_final", "student_final"),
    ("teacher_init_final", "teacher_init", "teacher_final"),
    ("student_init_final", "student_init", "student_final"),
)


def task(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """Test accuracy of student, teacher and untrained teacher; cross-entropy in nats of student and teacher."""
    student, teacher, untrained = (
        out.acts["class_head"] for out in (scene.test.student_final, scene.test.teacher_final, scene.test.teacher_init)
    )
    return {
        "student_accuracy": _accuracy(student, scene.labels),
        "teacher_accuracy": _accuracy(teacher, scene.labels),
        "untrained_accuracy": _accuracy(untrained, scene.labels),
        "student_cross_entropy": _cross_entropy(student, scene.labels).mean(),
        "teacher_cross_entropy": _cross_entropy(teacher, scene.labels).mean(),
    }


def budget(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """The error budget: accuracies of head and latent taken from different nets (C class head, h latent).

    accuracy_c0_ht  initial teacher head on the teacher's latent: what the drift of the teacher's class head costs
    accuracy_ct_hs  trained teacher head on the student's latent: how good the student's trunk is
    accuracy_c0_hs  initial teacher head on the student's latent: the student, were its class head the teacher's
    """
    initial, trained = scene.params.teacher_init["class_head"], scene.params.teacher_final["class_head"]
    teacher, student = scene.test.teacher_final.features, scene.test.student_final.features
    pairs = {"c0_ht": (initial, teacher), "ct_hs": (trained, student), "c0_hs": (initial, student)}
    return {
        f"accuracy_{name}": _accuracy(latent @ head["kernel"] + head["bias"][None], scene.labels)
        for name, (head, latent) in pairs.items()
    }


def imitation(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """How well the student says the teacher's auxiliary logits that its loss sees, on held-out noise; NaN where none.

    aux_mse  mean squared error, in squared units of logits
    aux_r2   1 - squared error / squared deviation of each of the teacher's logits from its mean over the noise

    The teacher is the trained one, whatever was done to the answers that the student heard.
    """
    aux = jnp.arange(scene.knobs.logit_mask.shape[0]) >= scene.params.student_final["class_head"]["bias"].shape[0]
    knobs = dataclasses.replace(scene.knobs, logit_mask=scene.knobs.logit_mask & aux)
    error = mse(scene.noise.student_final, scene.noise.teacher_final, knobs).mean()
    wanted = scene.noise.teacher_final
    still = wanted._replace(logits=jnp.broadcast_to(wanted.logits.mean(0, keepdims=True), wanted.logits.shape))
    r2 = 1 - error / mse(still, wanted, knobs).mean()
    return {name: jnp.where(knobs.logit_mask.any(), one, jnp.nan) for name, one in (("aux_mse", error), ("aux_r2", r2))}


def representation(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """Likeness of student's and teacher's latents: linear CKA, debiased CKA, cosine of the latent displacements.

    `latent_cosine_noise` is the mean over held-out noise of cos(h_s - h_s0, h_t - h_t0); it is NaN until both moved.
    """
    rows = {}
    for suffix, four in (("", scene.test), ("_noise", scene.noise)):
        student, teacher = four.student_final.features, four.teacher_final.features
        rows[f"cka{suffix}"] = similarity.cka(student, teacher)
        rows[f"cka_debiased{suffix}"] = similarity.cka_debiased(student, teacher)
    h: TeacherStudent = TeacherStudent(*(out.features for out in scene.noise))
    moved = similarity.cosine(h.student_final - h.student_init, h.teacher_final - h.teacher_init)
    return {**rows, "latent_cosine_noise": moved.mean()}


def readout(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """What of the teacher's latent the initial class head reads from the student's: R^2 of C_0 h_s against C_0 h_t.

    CKA stays high where accuracy collapses; this does not, because it looks where the class head looks.
    """
    head = scene.params.teacher_init["class_head"]["kernel"]
    rows = {}
    for suffix, four in (("", scene.test), ("_noise", scene.noise)):
        ours, theirs = (out.features @ head for out in (four.student_final, four.teacher_final))
        rows[f"readout_r2{suffix}"] = similarity.r_squared(ours, theirs)
    return rows


def alignment(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """Likeness of student and teacher layer by layer below the heads, on the first 300 test images.

    Linear and debiased CKA, RSA, Procrustes; of layers that both nets have.
    """
    student, teacher = scene.test.student_final.acts, scene.test.teacher_final.acts
    kinds = ("cka", "cka_debiased", "rsa", "procrustes")
    rows = {}
    for layer in (name for name in student if name in teacher and not name.endswith("_head")):
        ours, theirs = (acts[layer][:_FEW].reshape(len(acts[layer][:_FEW]), -1) for acts in (student, teacher))
        rows |= {f"{kind}/{layer}": getattr(similarity, kind)(ours, theirs) for kind in kinds}
    return rows


def layers(scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """Cosine and relative distance of each layer's parameters for four pairs of nets; of the auxiliary head, the seen
    columns only. A pair is missing where two nets do not share the layer's shape."""
    rows = {}
    for layer in scene.params.student_final:
        for pair, left, right in PAIRS:
            a, b = (flat(getattr(scene.params, who), layer, scene.knobs) for who in (left, right))
            if a is not None and b is not None and a.shape == b.shape:
                rows[f"cosine/{pair}/{layer}"] = similarity.cosine(a, b)
                rows[f"distance/{pair}/{layer}"] = similarity.distance(a, b)
    return rows


ALL: tuple[Metric, ...] = (task, budget, imitation, representation, readout, alignment, layers)


def measure(metrics: tuple[Metric, ...], scene: EvalContext) -> dict[str, Float[Array, ""]]:
    """All metrics of one student; raises ValueError where two metrics give a column of the same name."""
    rows: dict[str, Float[Array, ""]] = {}
    for metric in metrics:
        new = metric(scene)
        if twice := rows.keys() & new.keys():
            raise ValueError(f"metric {metric.__name__} gives columns that another gives too: {sorted(twice)}")
        rows |= new
    return rows


_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def _accuracy(logits: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    return (logits.argmax(-1) == labels).mean(dtype=jnp.float32)


def flat(params: Params, layer: str, knobs: Knobs) -> Float[Array, " size"] | None:
    """A layer's weights as one vector, None where there is no such layer; auxiliary columns beyond m count as 0."""
    if layer not in params:
        return None
    arrays = params[layer]
    if layer == "aux_head":
        columns = knobs.logit_mask[-arrays["bias"].shape[0] :]
        arrays = {name: jnp.where(columns.reshape((1,) * (a.ndim - 1) + (-1,)), a, 0) for name, a in arrays.items()}
    # Sorted: two nets may hold the same layer's arrays in another order.
    return jnp.concatenate([arrays[name].ravel() for name in sorted(arrays)])
