"""Theoretical predictions for one student, as metrics with columns under `theory/`.

A prediction uses the trained teacher and the student's initial parameters, not the student's training, with two
exceptions: the drift of the auxiliary head, whose size is measured and whose cosine is predicted (`heads`), and the
trained latent read by an unknown class head (`class_noise`). `theory/NAME` predicts the column `NAME` if there is one.
Columns are NaN where a formula does not apply. Derivations and regimes of validity: docs/theory.md.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from sublim_jax import theory
from sublim_jax.core import trees
from sublim_jax.core.types import Params
from sublim_jax.metrics import similarity
from sublim_jax.metrics.student import EvalContext, Metric, TeacherStudent, accuracy, flat

Columns = dict[str, Float[Array, ""]]
_NAN = jnp.nan


def heads(context: EvalContext) -> Columns:
    """Predict cosines of the student's and teacher's heads before training (D3) and after drift during training (D7).

    Before training from share and noise; after it from the root-mean-square drift, as if that had no direction.
    """
    rows, share = {}, context.knobs.share
    for head in ("class_head", "aux_head"):
        cosine = theory.compatibility(_noise_ratio(context, head), share[head])
        rows[f"theory/cosine/teacher_student_init/{head}"] = jnp.where(_known(context, head), cosine, _NAN)
    rows["theory/cosine/teacher_init_final/class_head"] = _drifted(context, "class_head", "teacher")
    equal = _known(context, "aux_head") & (share["aux_head"] == 1) & (context.knobs.init_noise["aux_head"] == 0)
    drifted = _drifted(context, "aux_head", "student")
    return {**rows, "theory/cosine/teacher_student_final/aux_head": jnp.where(equal, drifted, _NAN)}


def first_step(context: EvalContext) -> Columns:
    """Predict the cosine of the latent's first step with the displacement to the teacher's, on held-out noise (D2).

    The step direction is A_s'(a_t - a_s0), with a the auxiliary logits in the loss; the displacement is h_t - h_s0. The
    prediction is for a shared head, with or without noise, and 0 for an independent one. Source: docs/theory.md, D2.
    """
    kernel = jnp.where(_seen(context)[None], context.params.student_init["aux_head"]["kernel"], 0)
    gap, displacement = _gap(context.noise, _seen(context)), _displacement(context.noise)
    measured = similarity.cosine(gap @ kernel.T, displacement).mean()
    m, d = _seen(context).sum(), kernel.shape[0]
    share, ratio = context.knobs.share["aux_head"], _noise_ratio(context, "aux_head")
    start = context.noise.student_init.features
    square = (displacement**2).sum()
    offset, unit = jnp.sqrt((start**2).sum() / square), jnp.sqrt(len(displacement) / square)
    along = similarity.cosine(start.ravel(), displacement.ravel())
    noisy = theory.first_step(m, d, ratio, offset, along, unit)
    clean = theory.first_step_mean(jnp.maximum(m, 1), d)
    predicted = jnp.where(share == 0, 0.0, jnp.where(ratio == 0, clean, noisy))
    known = _known(context, "aux_head") & ((share == 0) | (share == 1)) & (m > 0) & context.squared
    return {"first_step_cosine": measured, "theory/first_step_cosine": jnp.where(known, predicted, _NAN)}


def recovery(context: EvalContext) -> Columns:
    """Predict what fixed heads recover of the teacher's latent (D5), and measure the student's latent direction.

    theory/oracle_accuracy    the student's class head on the latent nearest to its initial one among all with the
                              teacher's auxiliary logits: transmission through the heads alone
    theory/ceiling_accuracy   the student's class head on the teacher's latent
    theory/recovered_energy   m / d, for an isotropic latent displacement
    recovered_energy_noise    1 - |h_t - h_s|^2 / |h_t - h_s0|^2 on held-out noise
    inside_row_space          fraction of the student's latent displacement that lies in the row space of its auxiliary
                              head, on held-out noise; near m / d where the trunk, not the head, decides

    Source: docs/theory.md, D5.
    """
    kernel, seen = context.params.student_init["aux_head"]["kernel"], _seen(context)
    factors = theory.factors(kernel, seen)
    latent = context.test.student_init.features + theory.nearest(factors, _gap(context.test, seen))
    head = context.params.student_init["class_head"]

    def read(h: Float[Array, "n d"]) -> Float[Array, ""]:
        return accuracy(h @ head["kernel"] + head["bias"][None], context.labels)

    noise = context.noise
    left = noise.teacher_final.features - noise.student_final.features
    moved = noise.student_final.features - noise.student_init.features
    return {
        "theory/oracle_accuracy": read(latent),
        "theory/ceiling_accuracy": read(context.test.teacher_final.features),
        "theory/recovered_energy": theory.recovered_energy(seen.sum(), kernel.shape[0]),
        "recovered_energy_noise": 1 - (left**2).sum() / (_displacement(noise) ** 2).sum(),
        "inside_row_space": theory.inside(factors.left, moved),
    }


def class_noise(context: EvalContext) -> Columns:
    """Predict the accuracy, with bounds, under a class head known up to noise or a partial share (D4).

    The expectation is over draws of the student's class head, given its trained latent, the teacher's initial head, the
    share and the noise's standard deviation. Source: docs/theory.md, D4.
    """
    head, knobs = context.params.teacher_init["class_head"], context.knobs
    h, share = context.test.student_final.features, knobs.share["class_head"]
    fresh, sigma = (1 - share) ** 2, knobs.init_noise["class_head"] ** 2 + knobs.final_noise.get("class_head", 0.0) ** 2
    per_weight = jnp.sqrt(fresh * (head["kernel"] ** 2).mean() + sigma)
    per_bias = jnp.sqrt(fresh * (head["bias"] ** 2).mean() + sigma)
    # A product of squares may overflow where that of the standard deviations does not.
    scale = jnp.hypot(per_weight * jnp.sqrt((h**2).sum(-1)), per_bias)
    logits = share * (h @ head["kernel"] + head["bias"][None])
    bounds = theory.noisy_head(logits, scale, context.labels)
    known = "class_head" in context.untrained_layers and not context.altered
    names = {"lower": bounds.lower, "accuracy": bounds.exact, "upper": bounds.upper}
    return {f"theory/class_noise_{name}": jnp.where(known, value, _NAN) for name, value in names.items()}


def counting(context: EvalContext) -> Columns:
    """Count equations per weight (D6): masked-in logits times distinct images, over trained weights of the trunk.

    The number of images is exact for noise streams; repeated images of other streams are counted again.
    """
    trunk = {layer: arrays for layer, arrays in context.params.student_init.items() if not layer.endswith("_head")}
    weights = sum(context.knobs.trainable[layer] * trees.count(arrays) for layer, arrays in trunk.items())
    ratio = theory.equations(context.knobs.logit_mask.sum(), context.num_inputs_seen, weights)
    return {"theory/equations_per_weight": ratio}


def audit(context: EvalContext) -> Columns:
    """Compare the student's first update with the teacher's displacement and with the trait gradient, before training.

    theory/coverage             cosine of the first update with the teacher's displacement (D1), over shared layers
    theory/trait_change         change of the trait loss per unit of learning rate, to first order; negative = learned
    theory/trait_cosine         cosine of the first update with the descent direction of the trait loss
    theory/compatibility_class  cosine of the student's initial class head with the teacher's trained one
    theory/compatibility_aux    the same of the auxiliary heads, masked-in columns only

    The trait loss is the student's cross-entropy on labelled images. NaN for recipes with a target or gradient
    transform. Source: docs/theory.md, D1; Madl 2026.
    """
    initial, trained = context.params.teacher_init, context.params.teacher_final
    if context.update is None:
        names = ("coverage", "trait_change", "trait_cosine", "compatibility_class", "compatibility_aux")
        return {f"theory/{name}": jnp.float32(_NAN) for name in names}
    shapes, trained_shapes = (jax.tree.map(jnp.shape, dict(net)) for net in (context.update, trained))
    shared = [layer for layer, arrays in shapes.items() if arrays == trained_shapes.get(layer)]
    update, trait = ravel_pytree(context.update)[0], ravel_pytree(context.trait)[0]
    moved = {layer: jax.tree.map(lambda a, b: a - b, dict(trained[layer]), dict(initial[layer])) for layer in shared}
    rows = {
        "coverage": similarity.cosine(*(_seen_vector(tree, shared, context) for tree in (context.update, moved))),
        "trait_change": (update * trait).sum(),
        "trait_cosine": similarity.cosine(update, -trait),
    }
    for head, name in (("class_head", "class"), ("aux_head", "aux")):
        ours, theirs = (flat(net, head, context.knobs) for net in (context.params.student_init, trained))
        rows[f"compatibility_{name}"] = jnp.float32(_NAN)
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            rows[f"compatibility_{name}"] = similarity.cosine(ours, theirs)
    return {f"theory/{name}": value for name, value in rows.items()}


ALL: tuple[Metric, ...] = (heads, first_step, recovery, class_noise, counting, audit)


def _seen(context: EvalContext) -> Bool[Array, " aux"]:
    return context.knobs.logit_mask[-context.params.student_init["aux_head"]["bias"].shape[0] :]


def _gap(outputs: TeacherStudent, seen: Bool[Array, " aux"]) -> Float[Array, "n aux"]:
    """The teacher's minus the student's initial auxiliary logits; masked-out ones as 0."""
    return jnp.where(seen[None], outputs.teacher_final.acts["aux_head"] - outputs.student_init.acts["aux_head"], 0)


def _displacement(outputs: TeacherStudent) -> Float[Array, "n d"]:
    return outputs.teacher_final.features - outputs.student_init.features


def _noise_ratio(context: EvalContext, head: str) -> Float[Array, ""]:
    """Variance of the noise on a head over that of its initial weights, for the auxiliary head of masked-in columns."""
    square = context.params.teacher_init[head]["kernel"] ** 2
    variance = square.mean(where=_seen(context)[None]) if head == "aux_head" else square.mean()
    return context.knobs.init_noise[head] ** 2 / variance


def _known(context: EvalContext, head: str) -> Array:
    """Whether only share and noise separate the student's head from the teacher's, without rotation or teacher noise.

    The teacher's class head is trained, so its initial value counts.
    """
    nets = context.params
    if head == "class_head" or context.altered:
        return jnp.asarray(not context.altered)
    first, last = (flat(net, head, context.knobs) for net in (nets.teacher_init, nets.teacher_final))
    return (first == last).all()


def _drifted(context: EvalContext, head: str, role: str) -> Float[Array, ""]:
    first, last = (flat(getattr(context.params, f"{role}_{when}"), head, context.knobs) for when in ("init", "final"))
    if first is None or last is None:
        return jnp.float32(_NAN)
    return theory.drifted(((last - first) ** 2).sum() / (first**2).sum())


def _seen_vector(tree: Params, layers: list[str], context: EvalContext) -> Float[Array, " size"]:
    """Layers as one vector; masked-out auxiliary columns count as 0."""
    parts = [flat(tree, layer, context.knobs) for layer in layers]
    return jnp.concatenate([part for part in parts if part is not None])
