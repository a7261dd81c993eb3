"""Metrics of one student at an evaluation step: functions of an `EvalContext` that return named numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Knobs, Params
from sublim_jax.metrics import similarity
from sublim_jax.training import plugins
from sublim_jax.training.losses import accuracy, mse


class TeacherStudent(NamedTuple):
    """One value for each of the four nets of a condition: teacher and student, before and after training."""

    teacher_init: Any
    teacher_final: Any
    student_init: Any
    student_final: Any


class EvalContext(NamedTuple):
    """All inputs of a metric; jit removes the computation of unused ones.

    Attributes:
        params: parameters of the four nets.
        test: their `ModelOutput` on the test images.
        noise: their `ModelOutput` on held-out inputs of the student's stream.
        labels: labels [n] of the test images.
        knobs: knobs of the student.
        num_inputs_seen: number of distinct inputs in the student's training so far.
        update: the student's first update per unit of learning rate: minus the gradient of its initial loss on `noise`.
        trait: gradient of its initial cross-entropy on test images.
        altered: an `init_transform` changed its initial parameters.
        untrained_layers: layers that its training does not change.
        squared: its loss is the mean squared error.
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

_FEW = 300  # images of `alignment`; RSA sorts all pairs of them
PAIRS = (
    ("teacher_student_init", "teacher_init", "student_init"),
    ("teacher_init_final", "teacher_init", "teacher_final"),
    ("teacher_student_final", "teacher_final", "student_final"),
    ("student_init_final", "student_init", "student_final"),
)


def task(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure test accuracy of student, teacher and untrained teacher; cross-entropy in nats of the first two."""
    logits: TeacherStudent = TeacherStudent(*(outputs.acts["class_head"] for outputs in context.test))
    student, teacher = logits.student_final, logits.teacher_final
    return {
        "student_accuracy": accuracy(student, context.labels),
        "teacher_accuracy": accuracy(teacher, context.labels),
        "untrained_accuracy": accuracy(logits.teacher_init, context.labels),
        "student_cross_entropy": _cross_entropy(student, context.labels).mean(),
        "teacher_cross_entropy": _cross_entropy(teacher, context.labels).mean(),
    }


def budget(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure accuracies of heads and latents taken from different nets (C class head, h latent).

    accuracy_c0_ht  initial teacher head on the teacher's latent: the cost of the drift of the teacher's class head
    accuracy_ct_hs  trained teacher head on the student's latent: the quality of the student's trunk
    accuracy_c0_hs  initial teacher head on the student's latent: the student with the teacher's class head
    """
    initial, trained = context.params.teacher_init["class_head"], context.params.teacher_final["class_head"]
    teacher, student = context.test.teacher_final.features, context.test.student_final.features
    pairs = {"c0_ht": (initial, teacher), "ct_hs": (trained, student), "c0_hs": (initial, student)}
    return {
        f"accuracy_{name}": accuracy(latent @ head["kernel"] + head["bias"][None], context.labels)
        for name, (head, latent) in pairs.items()
    }


def imitation(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the error of the student's masked-in auxiliary logits on held-out noise; NaN where there are none.

    aux_mse  mean squared error, in squared units of logits
    aux_r2   1 - squared error / squared deviation of each of the teacher's logits from its mean over the noise

    The reference is the trained teacher without target transform.
    """
    aux = jnp.arange(context.knobs.logit_mask.shape[0]) >= context.params.student_final["class_head"]["bias"].shape[0]
    knobs = dataclasses.replace(context.knobs, logit_mask=context.knobs.logit_mask & aux)
    student, teacher = context.noise.student_final, context.noise.teacher_final
    ours, theirs = (jnp.where(knobs.logit_mask[None], outputs.logits, 0) for outputs in (student, teacher))
    rows = {"aux_mse": mse(student, teacher, knobs).mean(), "aux_r2": similarity.r_squared(ours, theirs)}
    return {name: jnp.where(knobs.logit_mask.any(), value, jnp.nan) for name, value in rows.items()}


def representation(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the similarity of student and teacher latents: CKA, debiased CKA, cosine of the displacements.

    `latent_cosine_noise` is the mean over held-out noise of cos(h_s - h_s0, h_t - h_t0); NaN until both have moved.
    """
    rows = {}
    for suffix, nets in (("", context.test), ("_noise", context.noise)):
        student, teacher = nets.student_final.features, nets.teacher_final.features
        rows[f"cka{suffix}"] = similarity.cka(student, teacher)
        rows[f"cka_debiased{suffix}"] = similarity.cka_debiased(student, teacher)
    h: TeacherStudent = TeacherStudent(*(out.features for out in context.noise))
    moved = similarity.cosine(h.student_final - h.student_init, h.teacher_final - h.teacher_init)
    return {**rows, "latent_cosine_noise": moved.mean()}


def readout(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the R^2 of C_0 h_s as a prediction of C_0 h_t, with C_0 the teacher's initial class head.

    Unlike CKA it is low where accuracy collapses, because it measures the subspace that the class head reads.
    """
    head = context.params.teacher_init["class_head"]["kernel"]
    rows = {}
    for suffix, nets in (("", context.test), ("_noise", context.noise)):
        ours, theirs = (out.features @ head for out in (nets.student_final, nets.teacher_final))
        rows[f"readout_r2{suffix}"] = similarity.r_squared(ours, theirs)
    return rows


def alignment(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the similarity of student and teacher in each common layer below the heads, on the first 300 test images.

    Linear and debiased CKA, RSA, Procrustes.
    """
    student, teacher = context.test.student_final.acts, context.test.teacher_final.acts
    kinds = ("cka", "cka_debiased", "rsa", "procrustes")
    rows = {}
    for layer in (name for name in student if name in teacher and not name.endswith("_head")):
        ours, theirs = (acts[layer][:_FEW].reshape(len(acts[layer][:_FEW]), -1) for acts in (student, teacher))
        rows |= {f"{kind}/{layer}": getattr(similarity, kind)(ours, theirs) for kind in kinds}
    return rows


def layers(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure cosine and relative distance of each layer's parameters for four pairs of nets.

    Masked-out columns of the auxiliary head count as 0; pairs with different shapes are omitted.
    """
    rows: dict[str, Array] = {}
    for layer in context.params.student_final:
        vectors = {net: flat(params, layer, context.knobs) for net, params in context.params._asdict().items()}
        for pairs in (PAIRS[:2], PAIRS[2:]):  # without and with the trained student, which later stages know
            named = [(pair, vectors[left], vectors[right]) for pair, left, right in pairs]
            known = [(pair, a, b) for pair, a, b in named if a is not None and b is not None and a.shape == b.shape]
            if known:
                names, *sides = zip(*known, strict=True)
                one, other = map(jnp.stack, sides)
                cosines, distances = similarity.cosine(one, other), similarity.distance(one, other)
                rows |= {f"cosine/{name}/{layer}": cosines[index] for index, name in enumerate(names)}
                rows |= {f"distance/{name}/{layer}": distances[index] for index, name in enumerate(names)}
    return rows


def displacement(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure how far the student has moved along the teacher's way, over the layers below the heads.

    along  the student's displacement, projected on the teacher's, as a fraction of the teacher's
    moved  length of the student's displacement, as a fraction of the teacher's

    Both are differences from the initial weights; NaN where the teacher has not moved or has other layers.
    """
    nets, heads = context.params, ("class_head", "aux_head")
    pairs = {"teacher": (nets.teacher_init, nets.teacher_final), "student": (nets.student_init, nets.student_final)}
    ways = {
        name: [flat_change(*both, layer) for layer in both[1] if layer not in heads] for name, both in pairs.items()
    }
    if [way.shape for way in ways["teacher"]] != [way.shape for way in ways["student"]]:
        return {"along": jnp.full((), jnp.nan), "moved": jnp.full((), jnp.nan)}
    theirs, ours = (jnp.concatenate(way) for way in ways.values())
    size = jnp.where((theirs != 0).any(), (theirs**2).sum(), jnp.nan)
    return {"along": (ours * theirs).sum() / size, "moved": jnp.sqrt((ours**2).sum() / size)}


def flat_change(before: Params, after: Params, layer: str) -> Float[Array, " size"]:
    """Return the change of a layer's arrays as one vector."""
    return jnp.concatenate([(after[layer][name] - before[layer][name]).ravel() for name in sorted(after[layer])])


ALL: tuple[Metric, ...] = (task, budget, imitation, representation, readout, alignment, layers)


def hide_diverged(context: EvalContext) -> EvalContext:
    """Replace all numbers of a net by NaN if a parameter or a logit of it is not finite.

    Every measure of a net that diverged is then NaN, instead of what comparisons with NaN or infinity happen to give.
    """

    def hidden(*net: Any) -> Any:
        params, test, noise = net
        finite = trees.all_finite((params, test.logits, noise.logits))
        return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), net)

    nets = [hidden(*net) for net in zip(context.params, context.test, context.noise, strict=True)]
    params, test, noise = (TeacherStudent(*of_nets) for of_nets in zip(*nets, strict=True))
    return context._replace(params=params, test=test, noise=noise)


def measure(metrics: tuple[Metric, ...], context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Evaluate all metrics of one student; raises `ConfigError` if two return a column of the same name."""
    rows: dict[str, Float[Array, ""]] = {}
    for metric in metrics:
        new = plugins.columns_of(metric, context)
        if twice := rows.keys() & new.keys():
            raise ConfigError(
                f"metrics {plugins.name_of(metric)}: returns columns of another metric, {sorted(twice)}; must differ"
            )
        rows |= new
    return rows


_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


def flat(params: Params, layer: str, knobs: Knobs) -> Float[Array, " size"] | None:
    """Concatenate a layer's weights to one vector, masked-out auxiliary columns as 0; None for a missing layer."""
    if layer not in params:
        return None
    arrays = params[layer]
    if layer == "aux_head":
        columns = knobs.logit_mask[-arrays["bias"].shape[0] :]
        arrays = {name: jnp.where(columns.reshape((1,) * (a.ndim - 1) + (-1,)), a, 0) for name, a in arrays.items()}
    # Sorted, because two nets may hold a layer's arrays in different order.
    return jnp.concatenate([arrays[name].ravel() for name in sorted(arrays)])
