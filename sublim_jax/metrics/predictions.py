"""What theory says of one student, beside what is measured: metrics whose columns lie under `theory/`.

A prediction sees the trained teacher and the student's beginning, never the student's training, but for two: the
drift of its auxiliary head, whose size is measured and whose cosine is predicted (`heads`), and the reading of its
trained latent by a class head that is not known (`class_noise`). `theory/NAME` predicts `NAME` where both are there.
Columns are NaN where a formula does not apply. Derivations and regimes of validity: docs/theory.md.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sublim_jax import theory
from sublim_jax.core import trees
from sublim_jax.core.types import Params
from sublim_jax.metrics import similarity
from sublim_jax.metrics.student import EvalContext, Metric, flat

Columns = dict[str, Float[Array, ""]]
_NAN = jnp.nan


def heads(scene: EvalContext) -> Columns:
    """Likeness of heads (D3) and what their drift leaves of it (D7): cosines of the student's and teacher's heads.

    Before training from the share and the noise alone; after it from the root-mean-square drift, as if that had no
    direction. Source: docs/theory.md, D3 and D7.
    """
    rows = {}
    for head in ("class_head", "aux_head"):
        share, ratio = scene.knobs.share[head], scene.knobs.init_noise[head] ** 2 / _variance(scene, head)
        known = _known(scene, head)
        rows[f"theory/cosine/teacher_student_init/{head}"] = jnp.where(known, theory.compatibility(ratio, share), _NAN)
    rows["theory/cosine/teacher_init_final/class_head"] = _drifted(scene, "class_head", "teacher")
    whole = _known(scene, "aux_head") & (scene.knobs.share["aux_head"] == 1) & (scene.knobs.init_noise["aux_head"] == 0)
    rows["theory/cosine/teacher_student_final/aux_head"] = jnp.where(
        whole, _drifted(scene, "aux_head", "student"), _NAN
    )
    return rows


def first_step(scene: EvalContext) -> Columns:
    """Cosine of the first step of the latent with the way it should go, on held-out noise (D2).

    The step goes along A_s'(a_t - a_s0), with a the auxiliary answers the loss sees; the way is h_t - h_s0. Predicted
    for a head that is shared, with or without noise, and 0 for one of the student's own. Source: docs/theory.md, D2.
    """
    kernel = _seen_kernel(scene)
    gap, way = _gap(scene, "noise"), _way(scene, "noise")
    measured = similarity.cosine(gap @ kernel.T, way).mean()
    share, d = scene.knobs.share["aux_head"], kernel.shape[0]
    ratio = scene.knobs.init_noise["aux_head"] ** 2 / _variance(scene, "aux_head")
    start = scene.noise.student_init.features
    offset, along = jnp.sqrt((start**2).sum() / (way**2).sum()), similarity.cosine(start.ravel(), way.ravel())
    unit = jnp.sqrt(len(way) / (way**2).sum())
    noisy = theory.first_step(_width(scene), d, ratio, offset, along, unit)
    clean = theory.first_step_mean(jnp.maximum(_width(scene), 1), d)
    found = jnp.where(share == 0, 0.0, jnp.where(ratio == 0, clean, noisy))
    known = _known(scene, "aux_head") & ((share == 0) | (share == 1)) & (_width(scene) > 0) & scene.squared
    return {"first_step_cosine": measured, "theory/first_step_cosine": jnp.where(known, found, _NAN)}


def recovery(scene: EvalContext) -> Columns:
    """What fixed heads could recover of the teacher's latent (D5), and by which way the student went.

    theory/oracle_accuracy    the student's class head on the latent that is nearest to its own beginning among those
                              with the teacher's auxiliary answers: the way through the heads alone
    theory/ceiling_accuracy   the student's class head on the teacher's latent
    theory/recovered_energy   m / d, of a latent displacement without preferred directions
    recovered_energy_noise    1 - |h_t - h_s|^2 / |h_t - h_s0|^2 on held-out noise
    inside_row_space          fraction of the student's latent displacement in the span of its auxiliary head's weights,
                              on held-out noise; near m / d where the trunk, not the head, decides

    Source: docs/theory.md, D5.
    """
    kernel = scene.params.student_init["aux_head"]["kernel"]
    factors = theory.factors(kernel, _seen(scene))
    latent = scene.test.student_init.features + theory.nearest(factors, _gap(scene, "test"))
    head = scene.params.student_init["class_head"]

    def accuracy(h: Float[Array, "n d"]) -> Float[Array, ""]:
        return ((h @ head["kernel"] + head["bias"][None]).argmax(-1) == scene.labels).mean(dtype=jnp.float32)

    noise = scene.noise
    left = noise.teacher_final.features - noise.student_final.features
    moved = noise.student_final.features - noise.student_init.features
    d = kernel.shape[0]
    return {
        "theory/oracle_accuracy": accuracy(latent),
        "theory/ceiling_accuracy": accuracy(scene.test.teacher_final.features),
        "theory/recovered_energy": theory.recovered_energy(_width(scene), d),
        "recovered_energy_noise": 1 - (left**2).sum() / (_way(scene, "noise") ** 2).sum(),
        "inside_row_space": theory.inside(factors.left, moved),
    }


def class_noise(scene: EvalContext) -> Columns:
    """Accuracy of a trained latent under a class head that is known but for noise or a partial share (D4).

    Expected over draws of the student's class head, given the latent; and bounds on it. Known are the teacher's
    initial head, the share and the noise's sigma, not the head itself. Source: docs/theory.md, D4.
    """
    head, knobs = scene.params.teacher_init["class_head"], scene.knobs
    h, share = scene.test.student_final.features, knobs.share["class_head"]
    fresh, sigma = (1 - share) ** 2, knobs.init_noise["class_head"] ** 2 + knobs.final_noise.get("class_head", 0.0) ** 2
    square = (h**2).sum(-1)
    variance = (fresh * (head["kernel"] ** 2).mean() + sigma) * square + fresh * (head["bias"] ** 2).mean() + sigma
    logits = share * (h @ head["kernel"] + head["bias"][None])
    found = theory.noisy_head(logits, jnp.sqrt(variance), scene.labels)
    known = "class_head" in scene.untrained_layers and not scene.altered
    names = {"lower": found.lower, "accuracy": found.exact, "upper": found.upper}
    return {f"theory/class_noise_{name}": jnp.where(known, value, _NAN) for name, value in names.items()}


def counting(scene: EvalContext) -> Columns:
    """Equations per unknown (D6): seen logits on N different images, over the trained weights of the trunk.

    N is right for streams of noise; one that shows images again counts them again.
    """
    trunk = {layer: arrays for layer, arrays in scene.params.student_init.items() if not layer.endswith("_head")}
    weights = sum(scene.knobs.trainable[layer] * trees.count(arrays) for layer, arrays in trunk.items())
    return {
        "theory/equations_per_weight": theory.equations(scene.knobs.logit_mask.sum(), scene.num_inputs_seen, weights)
    }


def audit(scene: EvalContext) -> Columns:
    """What an audit sees before training: the student's first update against the teacher's displacement and the trait.

    theory/coverage             cosine of the first update with what the teacher learned (D1), over shared layers
    theory/trait_change         change of the trait's loss per unit of learning rate, to first order; negative = learned
    theory/trait_cosine         cosine of the first update with the descent of the trait's loss
    theory/compatibility_class  cosine of the student's initial class head with the teacher's trained one
    theory/compatibility_aux    the same of the auxiliary heads, seen columns only

    The trait's loss is the student's cross-entropy on labelled images. NaN where the teacher's answers or the student's
    gradients are altered on the way. Source: docs/theory.md, D1; Madl 2026.
    """
    origin, trained = scene.params.teacher_init, scene.params.teacher_final
    if scene.update is None:
        names = ("coverage", "trait_change", "trait_cosine", "compatibility_class", "compatibility_aux")
        return {f"theory/{name}": jnp.float32(_NAN) for name in names}
    shared = [layer for layer, arrays in scene.update.items() if _alike(arrays, trained.get(layer))]
    update, trait = _vector(scene.update), _vector(scene.trait)
    moved = {layer: jax.tree.map(lambda a, b: a - b, dict(trained[layer]), dict(origin[layer])) for layer in shared}
    rows = {
        "coverage": similarity.cosine(*(_seen_vector(tree, shared, scene) for tree in (scene.update, moved))),
        "trait_change": (update * trait).sum(),
        "trait_cosine": similarity.cosine(update, -trait),
    }
    for head, name in (("class_head", "class"), ("aux_head", "aux")):
        ours, theirs = (flat(net, head, scene.knobs) for net in (scene.params.student_init, trained))
        rows[f"compatibility_{name}"] = jnp.float32(_NAN)
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            rows[f"compatibility_{name}"] = similarity.cosine(ours, theirs)
    return {f"theory/{name}": value for name, value in rows.items()}


ALL: tuple[Metric, ...] = (heads, first_step, recovery, class_noise, counting, audit)


def _seen(scene: EvalContext) -> Bool[Array, " aux"]:
    return scene.knobs.logit_mask[-scene.params.student_init["aux_head"]["bias"].shape[0] :]


def _seen_kernel(scene: EvalContext) -> Float[Array, "d aux"]:
    return jnp.where(_seen(scene)[None], scene.params.student_init["aux_head"]["kernel"], 0)


def _width(scene: EvalContext) -> Int[Array, ""]:
    return _seen(scene).sum()


def _gap(scene: EvalContext, inputs: str) -> Float[Array, "n aux"]:
    """What the teacher answers more than the student does at its beginning."""
    outs = getattr(scene, inputs)
    gap = outs.teacher_final.acts["aux_head"] - outs.student_init.acts["aux_head"]
    return jnp.where(_seen(scene)[None], gap, 0)


def _way(scene: EvalContext, inputs: str) -> Float[Array, "n d"]:
    outs = getattr(scene, inputs)
    return outs.teacher_final.features - outs.student_init.features


def _variance(scene: EvalContext, head: str) -> Float[Array, ""]:
    """Of the weights that the head was drawn with; of the auxiliary head's those of seen logits."""
    square = scene.params.teacher_init[head]["kernel"] ** 2
    return square.mean(where=_seen(scene)[None]) if head == "aux_head" else square.mean()


def _known(scene: EvalContext, head: str) -> Array:
    """Whether only share and noise tell the student's head from the teacher's: no rotation, no noise on the latter.

    The teacher's class head is trained, so of it the beginning counts.
    """
    teacher = scene.params
    if head == "class_head" or scene.altered:
        return jnp.asarray(not scene.altered)
    first, last = (flat(net, head, scene.knobs) for net in (teacher.teacher_init, teacher.teacher_final))
    return (first == last).all()


def _drifted(scene: EvalContext, head: str, who: str) -> Float[Array, ""]:
    first, last = (flat(getattr(scene.params, f"{who}_{when}"), head, scene.knobs) for when in ("init", "final"))
    if first is None or last is None:
        return jnp.float32(_NAN)
    return theory.drifted(((last - first) ** 2).sum() / (first**2).sum())


def _alike(ours: Params, theirs: Params | None) -> bool:
    return theirs is not None and jax.tree.map(jnp.shape, dict(ours)) == jax.tree.map(jnp.shape, dict(theirs))


def _vector(tree: Params) -> Float[Array, " size"]:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _seen_vector(tree: Params, layers: list[str], scene: EvalContext) -> Float[Array, " size"]:
    """Some layers as one vector; auxiliary columns that nobody sees count as 0."""
    parts = [flat(tree, layer, scene.knobs) for layer in layers]
    return jnp.concatenate([part for part in parts if part is not None])
