"""What is measured of infomorphic networks: information atoms, and how alike the codes of two nets are."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ContextInputs, ImageData, ModelOutput
from sublim_jax.metrics.student import EvalContext
from sublim_jax.nets.infomorphic import upright
from sublim_jax.training import infomorphic, streams
from sublim_jax.training.losses import accuracy


def atoms(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the information atoms in bits, averaged over units, on held-out inputs with their contexts.

    Bins of hidden units lie between -20 and 20 whatever bins a network was trained with.

    hidden/{1}{2}, ...   of hidden units; 1 is the feedforward source, then come the context and the lateral source
    readout/{1}{2}, ...  of outputs of the head that reads out the context; 2 is the label, or the bit
    """
    out = context.noise.student_final
    if "given" not in out.acts:
        return {}
    heads = [head for head in ("aux_head", "class_head") if head in out.acts]
    heads = [head for head in heads if out.acts[head].shape == out.acts["given"].shape]
    kinds = {"hidden": _hidden(out)} if "drive" in out.acts else {}
    if heads:
        kinds["readout"] = infomorphic.readout_atoms(out, heads[0], _even(out))
    return {
        f"{kind}/{name}": values[:, index].mean()
        for kind, values in kinds.items()
        for index, name in enumerate(infomorphic.atom_names(2 if values.shape[1] == 5 else 3))
    }


def _even(out: ModelOutput) -> Float[Array, " batch"]:
    return jnp.full(len(out.features), 1 / len(out.features))


def _hidden(out: ModelOutput) -> Float[Array, "units atoms"]:
    return infomorphic.hidden_atoms(out, _even(out))


def codes(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure how alike the hidden units of student and teacher are, whatever the signs of their outputs.

    code_match, code_match_noise  mean over units of the size of the correlation with the teacher's unit of that number
    code_best                     the same with the most alike unit of the teacher; test images
    signs_alike                   share of units whose correlation with the teacher's is above 0; test images
    accuracy_own                  accuracy of the student's class head
    accuracy_unmatched            accuracy of the teacher's class head on the student's units
    accuracy_matched              the same with the units' signs turned as correlations on held-out noise say, which
                                  needs no label
                                  Columns of a class head that local goals have trained have no sign of their own;
                                  they are read as in `nets.Infomorphic`, whatever net the student is.
    redundancy_match              correlation over units between {1}{2} and the size of their correlation on test images
    """
    student, teacher = context.test.student_final, context.test.teacher_final
    if student.features.shape != teacher.features.shape:
        return {}
    correlations = _correlations(student.features, teacher.features)
    own = jnp.diagonal(correlations)
    noise = context.noise.student_final, context.noise.teacher_final
    on_noise = jnp.diagonal(_correlations(*(out.features for out in noise)))
    head = context.params.teacher_final["class_head"]
    matched = student.features * jnp.where(on_noise < 0, -1.0, 1.0)[None]
    read = upright if "readout" in teacher.acts else lambda logits: logits
    own_logits = student.acts.get("readout", student.acts["class_head"])
    rows = {
        "code_match": jnp.abs(own).mean(),
        "code_match_noise": jnp.abs(on_noise).mean(),
        "code_best": jnp.abs(correlations).max(1).mean(),
        "signs_alike": (own > 0).mean(),
        "accuracy_own": accuracy(read(own_logits), context.labels),
    }
    for name, units in (("unmatched", student.features), ("matched", matched)):
        logits = read(units @ head["kernel"] + head["bias"][None])
        rows[f"accuracy_{name}"] = accuracy(logits, context.labels)
    if "drive" in noise[0].acts:
        redundancy = _hidden(noise[0])[:, infomorphic.atom_names(2).index("{1}{2}")]
        rows["redundancy_match"] = _correlations(redundancy[:, None], jnp.abs(own)[:, None])[0, 0]
    return rows


def _correlations(a: Float[Array, "n units"], b: Float[Array, "n others"]) -> Float[Array, "units others"]:
    """Correlations over inputs of every unit with every other; 0 where one is constant."""
    a, b = (values - values.mean(0, keepdims=True) for values in (a, b))
    sizes = jnp.sqrt((a**2).sum(0))[:, None] * jnp.sqrt((b**2).sum(0))[None]
    return jnp.where(sizes > 0, a.T @ b / jnp.where(sizes > 0, sizes, 1), 0)


def unit_atoms(
    net: nn.Module, params: Mapping[str, Any], data: ImageData, count: int = 2000
) -> Float[Array, "units atoms"]:
    """Compute the information atoms of every hidden unit on labelled images, whose labels are the contexts.

    Args:
        net: The `nets.Infomorphic` of a condition, `condition.student.recipe.net`, whose contexts are labels.
        params: Its parameters, for instance of `sublim_jax.params`, or `train_pair(...).student`.
        data: Images and labels, for instance `dataset.test`.
        count: Most images to use, the first. Estimates from fewer images are larger: bins are then emptier.

    Returns:
        Bits, in the order of `training.infomorphic.atom_names`.

    Raises:
        ConfigError: The network has no hidden units.
    """
    if "hidden_0" not in params:
        raise ConfigError(f"params: layers {', '.join(params)}; a layer 'hidden_0' is needed")
    with jax.default_matmul_precision("highest"):
        return _unit_atoms(net, params, data.x[:count], data.y[:count], data.mean, data.std)


@functools.partial(jax.jit, static_argnums=0)
def _unit_atoms(net: Any, params: Any, x: Array, y: Array, mean: Array, std: Array) -> Float[Array, "units atoms"]:
    images = streams.normalize_images(ImageData(x, y, mean, std), x)
    inputs = ContextInputs(images, jax.nn.one_hot(y, net.contexts), keys.root(0))
    out = net.apply({"params": params}, inputs)
    return _hidden(out)
