"""What is measured of infomorphic networks: the information atoms of hidden units and of read-outs."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sublim_jax.metrics.student import EvalContext
from sublim_jax.training import infomorphic


def atoms(context: EvalContext) -> dict[str, Float[Array, ""]]:
    """Measure the information atoms in bits, averaged over units, on held-out inputs with their contexts.

    hidden/{1}{2}, ...   of hidden units; 1 is the feedforward source, then come the context and the lateral source
    readout/{1}{2}, ...  of outputs of the class head; 2 is the label
    """
    out = context.noise.student_final
    weights = jnp.full(len(out.features), 1 / len(out.features))
    rows: dict[str, Float[Array, ""]] = {}
    kinds = {"readout": infomorphic.readout_atoms(out, "class_head", weights)}
    if "drive" in out.acts:
        kinds["hidden"] = infomorphic.hidden_atoms(out, weights)
    for kind, values in kinds.items():
        named = infomorphic.atom_names(2 if values.shape[1] == 5 else 3)
        rows |= {f"{kind}/{name}": values[:, index].mean() for index, name in enumerate(named)}
    return rows
