"""Training of infomorphic networks: goals of layers as a loss, contexts, and the connections of a lateral layer.

The loss of a layer is minus the weighted sum of its units' information atoms, in bits; the weights are its goal, a
knob. One loss is the sum of those of all layers, because no gradient passes from one layer to another.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.stats import qmc

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import ContextInputs, Knobs, ModelOutput, Params
from sublim_jax.nets.infomorphic import SOURCES, Infomorphic
from sublim_jax.theory.pid import atom_names, atoms, bins_fixed, bins_scaled

_WORK = {2: 8_000, 3: 16_000}  # multiply-adds of a unit and example by its number of sources, measured
HIDDEN_GOAL, READOUT_GOAL = "hidden_goal", "readout_goal"  # names in `Knobs.extra`


def goal(sources: int, **weights: float) -> tuple[float, ...]:
    """A goal with the given weights of atoms, for instance `goal(3, **{"{1}{2}": 1.0})`; all others are 0.

    Args:
        sources: 2 or 3; 1 is the feedforward source, then come the context and the lateral source.
        **weights: by the names of `atom_names(sources)`.

    Raises:
        ConfigError: A name is not that of an atom.
    """
    names = atom_names(sources)
    for name in weights:
        if name not in names:
            raise ConfigError(unknown_name("goal", name, names))
    return tuple(weights.get(name, 0.0) for name in names)


def drawn_goal(sources: int, number: int) -> np.ndarray:
    """A goal for a random search: a point of a scrambled Sobol sequence, between -1 and 1 in every weight.

    The sequence is the same in every run. Without scrambling its first point would be the goal of zeros, and weights
    of the first points would be correlated.

    Args:
        sources: 2 or 3.
        number: number of the point, from 1.
    """
    sequence = qmc.Sobol(len(atom_names(sources)), scramble=True, rng=0)
    if number > 1:  # SciPy skips no fewer points than one
        sequence.fast_forward(number - 1)
    return 2 * sequence.random(1)[0] - 1


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


# Published goals of hidden layers by name: number of sources, and weights. Source: files of the authors' code under
# paper_trivariate/conf/goals.
GOALS: dict[str, tuple[float, ...]] = {
    "trivariate_heuristic": goal(3, **{"{1}{2}": 1.0}),
    "trivariate_simplified": goal(3, **{"{1}{2}{3}": 0.33, "{1}{2}": 1.0, "{1}{3}": -1.0, "{12}{13}": -1.0}),
    "trivariate_optimized": _numbers(
        "0.3307 0.9781 -0.9935 0.4017 0.2428 0.6255 0.4713 0.0212 0.0605 -0.9470 -0.0199 -0.9677 -0.6924 "
        "0.4270 0.9736 0.7370 -0.1218 -0.2151 0.0350"
    ),
    "trivariate_optimized_cmaes": _numbers(
        "0.2102 0.9860 -0.4487 0.4683 -0.6238 0.4327 0.8413 0.0097 -0.4121 -0.4813 -0.1412 -0.7058 -0.5329 "
        "0.1494 0.7099 0.3392 0.7866 0.0572 0.0"
    ),
    "trivariate_optimized_1000": _numbers(
        "0.9540 -0.4539 -0.9784 -0.8978 0.1950 0.1018 -0.8268 0.9748 0.4571 -0.8036 0.0495 0.9632 0.9138 "
        "-0.4792 -0.2282 -0.0666 0.4854 0.8913 -0.2214"
    ),
    "context_heuristic": goal(2, **{"{1}{2}": 1.0}),
    "context_optimized": (0.0379, 0.3185, 0.7755, 0.1536, 0.0076),
    "lateral_heuristic": goal(2, **{"{1}": 1.0}),
    "lateral_optimized": (0.8051, -0.4079, 0.5380, 0.5634, -0.0097),
    "readout": (-0.2, 0.1, 1.0, 0.1, 0.0),
}


@dataclasses.dataclass(frozen=True)
class LocalGoals:
    """A `Loss`: minus the goals of the hidden layer and of a read-out, summed over units, equal for every example.

    Goals are `Knobs.extra["hidden_goal"]` (19 numbers for three sources, 5 for two) and `["readout_goal"]` (5). Sources
    of a read-out are its logits and the context that the net was given. Source: Schneider et al., ICLR 2025.

    Attributes:
        reads: the head that is trained as a read-out; empty: none.
        bins: bins of each source.
        scaled: bins of hidden units lie between minus and plus the largest value of a source in the batch, as those of
            read-outs do, rather than between -20 and 20.
    """

    reads: str = "class_head"
    bins: int = 20
    scaled: bool = False

    def multiply_adds(self, net: Infomorphic) -> int:
        """The work of one example's information and its gradient, as multiply-adds that take as long on 2 CPU cores."""
        sources = {"hidden": len(SOURCES[net.model]), "readout": 2}
        outputs = {"hidden": net.units, "readout": net.classes if self.reads else 0}
        return sum(outputs[kind] * _WORK.get(count, 0) for kind, count in sources.items())

    def __call__(self, out: ModelOutput, target: Any, knobs: Knobs) -> Float[Array, " batch"]:
        weights = _weights(out, target)
        loss = jnp.float32(0)
        if "drive" in out.acts and HIDDEN_GOAL in knobs.extra:
            loss -= (hidden_atoms(out, weights, self.bins, self.scaled) @ knobs.extra[HIDDEN_GOAL]).sum()
        if self.reads:
            loss -= (readout_atoms(out, self.reads, weights, self.bins) @ knobs.extra[READOUT_GOAL]).sum()
        return jnp.broadcast_to(loss, len(weights))


def _weights(out: ModelOutput, target: Any) -> Float[Array, " batch"]:
    """The share of each example in the estimated probabilities; none for padding rows, whose label is below zero."""
    size = len(out.features)
    counts = jnp.ones(size) if isinstance(target, ModelOutput) else (target >= 0).astype(jnp.float32)
    return counts / counts.sum()


def hidden_atoms(
    out: ModelOutput, weights: Float[Array, " batch"], bins: int = 20, scaled: bool = False
) -> Float[Array, "units atoms"]:
    """The information atoms of every hidden unit in bits, in the order of a goal."""
    sources = [out.acts[layer] for layer in ("hidden_0", "context", "lateral") if layer in out.acts]
    binned = [bins_scaled(one, bins, weights) if scaled else bins_fixed(one, count=bins) for one in sources]
    return atoms(tuple(binned), jax.nn.sigmoid(out.acts["drive"]), bins, weights)


def readout_atoms(
    out: ModelOutput, head: str, weights: Float[Array, " batch"], bins: int = 20
) -> Float[Array, "outputs atoms"]:
    """The information atoms of every output of a head in bits, in the order of a goal."""
    logits = out.acts["readout" if head == "class_head" else head]
    binned = tuple(bins_scaled(source, bins, weights) for source in (logits, out.acts["given"]))
    return atoms(binned, jax.nn.sigmoid(logits), bins, weights)


@dataclasses.dataclass(frozen=True)
class LabelContext:
    """An `InputTransform`: the context of an image is its label as a one-hot vector."""

    classes: int

    def __call__(self, key: Key[Array, ""], x: Array, target: Any, knobs: Knobs) -> ContextInputs:
        return ContextInputs(x, jax.nn.one_hot(target, self.classes), key)


@dataclasses.dataclass(frozen=True)
class TeacherBits:
    """An `InputTransform`: the context of an input is the teacher's auxiliary outputs, sampled from {-1, 1}.

    Attributes:
        classes: class logits of the teacher, which are left out.
        shuffled: each input gets the bits of another input of its batch, as a control.
    """

    classes: int
    shuffled: bool = False

    def __call__(self, key: Key[Array, ""], x: Array, target: Any, knobs: Knobs) -> ContextInputs:
        logits = target.logits[:, self.classes :]
        ones = keys.uniform(keys.at(key, "bits"), logits.shape) < jax.nn.sigmoid(logits)
        bits = jnp.where(ones & knobs.logit_mask[None, self.classes :], 1.0, -1.0)
        return ContextInputs(x, jnp.roll(bits, 1, 0) if self.shuffled else bits, key)


def tie_context(key: Key[Array, ""], params: Params) -> dict[str, Any]:
    """An `InitTransform`: context weights are the auxiliary head's, transposed, so a unit reads what it would send."""
    del key
    kernel = params["aux_head"]["kernel"].T
    return {**params, "context": {**params["context"], "kernel": kernel}}


@dataclasses.dataclass(frozen=True)
class SparseLateral:
    """An `InitTransform` that leaves every unit `connections` random lateral inputs and sets the others to 0.

    Source: the authors' code, `max_connections`.
    """

    connections: int

    def __call__(self, key: Key[Array, ""], params: Params) -> dict[str, Any]:
        kernel = params["lateral"]["kernel"]  # [from, to]
        others = jnp.where(jnp.eye(len(kernel), dtype=bool), 2.0, keys.uniform(key, kernel.shape))
        last = jnp.sort(others, axis=0)[min(self.connections, len(kernel) - 1) - 1]
        kept = {"kernel": jnp.where(others <= last[None], kernel, 0)}
        return {**params, "lateral": {**params["lateral"], **kept}}
