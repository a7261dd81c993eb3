"""Partial information decomposition with shared exclusions: atoms of two or three binned sources about a binary target.

Sources are numbered from 1. An antichain is a tuple of source subsets none of which contains another; its atom is the
information about the target that exactly its subsets share. Definitions and the order of atoms: docs/infomorphic.md;
Makkeh, Gutknecht and Wibral, Phys. Rev. E 103, 032149 (2021); Makkeh et al., PNAS 122(10) e2408125122 (2025).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sublim_jax.core.errors import ConfigError, shown

Antichain = tuple[frozenset[int], ...]

_LOWEST_RATIO = 1e-7  # smaller ratios in the logarithm count as 1: no information and no gradient
_LN2 = math.log(2)
_EPSILON = 1e-10  # added to the denominator of a ratio, and in the entropy of the target
_KEYS = 2**31  # keys are sorted as int32, which XLA sorts six times as fast as floats, or keys with values, on CPU


@functools.cache
def subsets(sources: int) -> tuple[frozenset[int], ...]:
    """List the non-empty subsets of `sources` sources, smallest first: {1}, {2}, {12} for two."""
    chosen = (itertools.combinations(range(1, sources + 1), size) for size in range(1, sources + 1))
    return tuple(map(frozenset, itertools.chain.from_iterable(chosen)))


@functools.cache
def antichains(sources: int) -> tuple[Antichain, ...]:
    """List the antichains of two (4) or three (18) sources in the order in which goals weight their atoms.

    Raises:
        ConfigError: `sources` is neither 2 nor 3.
    """
    if sources not in (2, 3):
        raise ConfigError(f"sources: {shown(sources)} sources; 2 or 3 are allowed")
    families = (itertools.combinations(subsets(sources), size) for size in range(1, sources + 1))
    incomparable = [
        family
        for family in itertools.chain.from_iterable(families)
        if not any(one <= other or other <= one for one, other in itertools.combinations(family, 2))
    ]
    # The published goals name long antichains first for three sources, short ones first for two.
    direction = -1 if sources == 3 else 1

    def order(family: Antichain) -> tuple[Any, ...]:
        return len(family[0]), direction * len(family), len(family[-1]), [sorted(part) for part in family]

    return tuple(sorted(incomparable, key=order))


def names(sources: int) -> tuple[str, ...]:
    """Name the antichains in the order of `antichains`: "{1}", "{2}", "{1}{2}", "{12}" for two sources."""
    return tuple(
        "".join("{" + "".join(map(str, sorted(part))) + "}" for part in family) for family in antichains(sources)
    )


def atom_names(sources: int) -> tuple[str, ...]:
    """The names of the weights of a goal: atoms, and the entropy that no source explains."""
    return (*names(sources), "residual")


def _constant(array: np.ndarray) -> np.ndarray:
    """Forbid to write to an array that is kept."""
    array.setflags(write=False)
    return array


@functools.cache
def moebius(sources: int) -> Int[np.ndarray, "antichains antichains"]:
    """Compute the Moebius matrix, which maps shared information of antichains to their atoms.

    It is the inverse of Z, where Z[a, b] = 1 if b precedes a: each subset in a contains a subset in b.
    """
    families = antichains(sources)
    precedes = [[all(any(inner <= outer for inner in b) for outer in a) for b in families] for a in families]
    return _constant(np.rint(np.linalg.inv(np.asarray(precedes, float))).astype(int))


@functools.cache
def union_coefficients(sources: int) -> Int[np.ndarray, "antichains subsets"]:
    """Compute the weights of subsets' probabilities in the probability that any subset of an antichain is observed.

    Inclusion and exclusion: the observations of a family's members occur together if that of their union does.
    """
    coefficients = np.zeros((len(antichains(sources)), len(subsets(sources))), int)
    for row, family in zip(coefficients, antichains(sources), strict=True):
        for size in range(1, len(family) + 1):
            for members in itertools.combinations(family, size):
                row[subsets(sources).index(frozenset().union(*members))] += (-1) ** (size + 1)
    return _constant(coefficients)


def bins_fixed(
    values: Float[Array, "batch neurons"], low: float = -20.0, high: float = 20.0, count: int = 20
) -> Int[Array, "batch neurons"]:
    """Number the bins of equal width, open on the left and closed on the right, that values lie in.

    Args:
        values: One source of each neuron; values outside of the range count to the outermost bins.
        low: Left edge of bin 0.
        high: Right edge of the last bin.
        count: Number of bins.

    Returns:
        Bins from 0 to `count` - 1, without gradient.
    """
    edges = jnp.asarray(np.linspace(low, high, count + 1)[1:-1], values.dtype)
    values = jax.lax.stop_gradient(values)
    return jnp.searchsorted(edges, values, side="left", method="compare_all").astype(jnp.int32)


def bins_scaled(
    values: Float[Array, "batch neurons"], count: int = 20, weights: Float[Array, " batch"] | None = None
) -> Int[Array, "batch neurons"]:
    """Number the bins between -1 and 1 after division of each neuron's values by their largest magnitude in the batch.

    Args:
        values: One source of each neuron; a source that is 0 throughout stays 0.
        count: Number of bins.
        weights: Samples of weight 0 do not count for the largest magnitude.

    Returns:
        Bins from 0 to `count` - 1, without gradient.
    """
    values = jax.lax.stop_gradient(values)
    sizes = jnp.abs(values)
    largest = (sizes if weights is None else jnp.where(weights[:, None] > 0, sizes, 0)).max(0, keepdims=True)
    return bins_fixed(values / jnp.where(largest > 0, largest, 1), -1.0, 1.0, count)


def atoms(
    bins: Sequence[Int[Array, "batch neurons"]],
    theta: Float[Array, "batch neurons"],
    count: int = 20,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, "neurons atoms"]:
    """Compute the atoms of each neuron's sources about its binary output, and the output's residual entropy.

    Probabilities are shares of the batch. Derivatives with respect to `theta` are those of the information at fixed
    bins. Sums over the samples of a cell are scattered and gathered, which on CPU takes a tenth of the time of products
    with one-hot matrices or of a sort; only cells that outnumber the batch are numbered by a sort.

    Args:
        bins: For each of two or three sources the bins of every sample and neuron, from 0 to `count` - 1.
        theta: Probability that the output is 1.
        count: Number of bins of a source.
        weights: Probability of each sample, which sum to 1; None: all are equally probable.

    Returns:
        Bits; the atoms in the order of `antichains`, then the residual entropy, H(output) - I(all sources; output).

    Raises:
        ConfigError: There are not two or three sources, or too many bins for the batch to number their cells.
    """
    sources, batch = len(bins), theta.shape[0]
    antichains(sources)  # checks the number
    if batch < count**sources and count**sources << (batch - 1).bit_length() > _KEYS:
        raise ConfigError(
            f"count: {count} bins of {sources} sources in a batch of {batch}; count ** sources times the batch (a "
            "power of two above it) may be at most 2 ** 31"
        )
    cells = _cells(tuple(jax.lax.stop_gradient(one).astype(jnp.int32) for one in bins), count)
    weights = jnp.full(batch, 1 / batch, theta.dtype) if weights is None else jax.lax.stop_gradient(weights)
    return _atoms(sources, count, cells, theta, weights[:, None])


def pid(sources: Sequence[Any], target_probability: Any, count: int | None = None) -> dict[str, float]:
    """Decompose the information that two or three discrete sources have about a binary target.

    Args:
        sources: Values of each source, arrays of [batch] integers from 0; samples are equally probable.
        target_probability: Probability of target 1 for each sample, [batch]; 0 or 1 where the target is known.
        count: Number of values of a source, to refuse larger ones; None accepts all.

    Returns:
        Bits by name of the atom ("{1}{2}" is what sources 1 and 2 share), and under "residual" the target's entropy
        given all sources.

    Raises:
        ConfigError: There are not two or three sources, their lengths or the target's differ, or values are out of
            range.

    Example:
        The exclusive or of two fair bits: each bit alone says nothing, and together they determine the target.

        >>> import sublim_jax as sl
        >>> atoms = sl.theory.pid([[0, 0, 1, 1], [0, 1, 0, 1]], [0, 1, 1, 0])
        >>> {name: round(bits, 3) + 0.0 for name, bits in atoms.items()}
        {'{1}': 0.585, '{2}': 0.585, '{1}{2}': -0.585, '{12}': 0.415, 'residual': 0.0}
    """
    values, target = _checked(sources, target_probability, count)
    cells = []
    for subset in subsets(len(values)):
        rows = values[[source - 1 for source in sorted(subset)]].T
        _, numbers = np.unique(rows, axis=0, return_inverse=True)
        cells.append(jnp.asarray(numbers.reshape(-1), jnp.int32))
    theta = jnp.asarray(target)[:, None]
    bits = _compiled_atoms(len(values), len(target), tuple(cells), theta, jnp.full_like(theta, 1 / len(target)))[0]
    return dict(zip(atom_names(len(values)), bits.tolist(), strict=True))


def _checked(sources: Any, target_probability: Any, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sources as one array of integers and the target as floats.

    Raises:
        ConfigError: See `pid`.
    """
    target = np.asarray(target_probability, float)
    if target.ndim != 1 or not len(target):
        raise ConfigError(f"target_probability: shape {target.shape}; one probability a sample is needed")
    if not ((target >= 0) & (target <= 1)).all():
        worst = target[~((target >= 0) & (target <= 1))][0]
        raise ConfigError(f"target_probability: {worst}; values from 0 to 1 are allowed")
    antichains(len(sources))
    arrays = [np.asarray(source) for source in sources]
    for number, array in enumerate(arrays, 1):
        if array.shape != target.shape:
            raise ConfigError(
                f"sources: source {number} has shape {array.shape}, target_probability {target.shape}; "
                "both need one value a sample"
            )
        if not np.issubdtype(array.dtype, np.integer):
            raise ConfigError(
                f"sources: source {number} is of type {array.dtype}; integers are allowed, bins of values"
            )
        if array.min() < 0 or (count is not None and array.max() >= count):
            allowed = "from 0 on" if count is None else f"from 0 to {count - 1}"
            raise ConfigError(
                f"sources: source {number} lies between {array.min()} and {array.max()}; integers {allowed} are allowed"
            )
    return np.stack(arrays), target


def _atoms(
    sources: int,
    count: int,
    cells: tuple[Int[Array, " samples"], ...],
    theta: Float[Array, "batch neurons"],
    weights: Float[Array, "batch 1"],
) -> Float[Array, "neurons atoms"]:
    """Compute the atoms, in bits, and the residual entropy from the cells of all subsets of sources."""
    shared: Any = _shared_information(sources, count, cells, theta, weights)
    inverse = jnp.asarray(moebius(sources), theta.dtype)
    bits = jnp.einsum("as,sn->na", inverse, shared, precision=jax.lax.Precision.HIGHEST)
    marginals = jnp.stack([(weights * theta).sum(0), (weights * (1 - theta)).sum(0)])
    entropy = -(marginals * jnp.log2(marginals + _EPSILON)).sum(0)
    return jnp.concatenate([bits, (entropy - shared[-1])[:, None]], axis=1)


def _ranks(keys: Int[Array, "batch neurons"]) -> Int[Array, "batch neurons"]:
    """Number the different keys of each neuron from 0 in ascending order."""
    batch = keys.shape[0]
    bits = (batch - 1).bit_length()
    packed = jnp.sort(keys.T << bits | jnp.arange(batch, dtype=jnp.int32)[None], axis=1)
    keys, samples = packed >> bits, packed & ((1 << bits) - 1)
    ranks = jnp.cumsum(jnp.diff(keys, axis=1, prepend=keys[:, :1]) > 0, axis=1, dtype=jnp.int32)
    rows = jnp.arange(len(keys))[:, None]
    return jnp.zeros_like(ranks.T).at[samples, rows].set(ranks, unique_indices=True)


def _sizes(sources: int, count: int, batch: int) -> list[int]:
    """Return the number of cells of a neuron for each subset of sources."""
    return [min(count ** len(subset), batch) for subset in subsets(sources)]


def _cells(bins: tuple[Int[Array, "batch neurons"], ...], count: int) -> tuple[Int[Array, " samples"], ...]:
    """Number the cells of all samples of all neurons for each subset of sources."""
    batch, neurons = bins[0].shape
    cells = []
    for subset, size in zip(subsets(len(bins)), _sizes(len(bins), count, batch), strict=True):
        keys = jnp.zeros_like(bins[0])
        for source in sorted(subset):
            keys = keys * count + bins[source - 1]
        if count ** len(subset) > batch:
            keys = _ranks(keys)
        cells.append((keys + size * jnp.arange(neurons, dtype=jnp.int32)[None]).reshape(-1))
    return tuple(cells)


def _shares(
    sizes: list[int], cells: Sequence[Int[Array, " samples"]], values: Sequence[Float[Array, "batch neurons"]]
) -> list[Float[Array, "batch neurons"]]:
    """Sum each subset's values over the samples of each sample's cell.

    The operator is symmetric, so that it also maps derivatives with respect to its results to those of its inputs. One
    scatter per subset, not one of all: XLA then fuses what computes the values into fast loops.
    """
    shares = []
    for size, cell, value in zip(sizes, cells, values, strict=True):
        table = jnp.zeros(size * value.shape[1], value.dtype).at[cell].add(value.reshape(-1))
        shares.append(table[cell].reshape(value.shape))
    return shares


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _shared_information(
    sources: int,
    count: int,
    cells: tuple[Int[Array, " samples"], ...],
    theta: Float[Array, "batch neurons"],
    weights: Float[Array, "batch 1"],
) -> Float[Array, "antichains neurons"]:
    """Compute the information of shared exclusions, in bits, that each antichain has about the output."""
    return _forward(sources, count, cells, theta, weights)[0]


class _Union(NamedTuple):
    """Probabilities that any subset of an antichain is observed, for output 1 and output 0."""

    joint: tuple[Array, Array]  # with the output
    either: Array  # with either output: a constant
    independent: tuple[Array, Array]  # what `joint` would be if the output were independent
    counts: tuple[Array, Array]  # whether the ratio of both is not negligible


def _weighted(coefficients: Sequence[int], shares: Sequence[Array]) -> Array:
    """Sum the shares whose coefficient is not zero."""
    terms = [c * share for c, share in zip(coefficients, shares, strict=True) if c]
    return functools.reduce(jnp.add, terms)


def _unions(sources: int, shares: Sequence[Sequence[Array]], outputs: tuple[Array, Array]) -> Iterator[_Union]:
    """Compute the probabilities of each antichain from the shares of its subsets and the weighted outputs."""
    marginals = [probability.sum(0, keepdims=True) for probability in outputs]
    for row in union_coefficients(sources).tolist():
        one, zero = (_weighted(row, parts) for parts in shares)
        either = one + zero
        independent = either * marginals[0] + _EPSILON, either * marginals[1] + _EPSILON
        counts = one >= _LOWEST_RATIO * independent[0], zero >= _LOWEST_RATIO * independent[1]
        yield _Union((one, zero), either, independent, counts)


def _forward(sources: int, count: int, cells: Any, theta: Array, weights: Array) -> tuple[Array, Any]:
    """Compute the shared information, and keep the shares that its derivatives need."""
    outputs = (weights * theta, weights * (1 - theta))
    sizes = _sizes(sources, count, len(theta))
    shares = [_shares(sizes, cells, [probability] * len(sizes)) for probability in outputs]
    shared = []
    for union in _unions(sources, shares, outputs):
        logs = [
            probability * jnp.log(jnp.where(counts, joint, independent) / independent)
            for probability, joint, independent, counts in zip(
                outputs, union.joint, union.independent, union.counts, strict=True
            )
        ]
        shared.append((logs[0] + logs[1]).sum(0) / _LN2)
    return jnp.stack(shared), (cells, theta, weights, shares)


def _backward(sources: int, count: int, kept: Any, slopes: Array) -> tuple[None, Array, None]:
    """Compute the derivative with respect to theta through its three places: factor, joint and marginal.

    Both outputs are brought to one denominator: XLA repeats no division, so that a second use of one costs a pass.
    """
    cells, theta, weights, shares = kept
    outputs = (weights * theta, weights * (1 - theta))
    rows = union_coefficients(sources).tolist()
    by_subset: list[Any] = [0] * len(rows[0])
    by_factor: Any = 0
    by_marginal: Any = 0
    unions = _unions(sources, shares, outputs)
    for row, union, slope in zip(rows, unions, slopes[:, None] / _LN2, strict=True):
        (joint1, joint0), (free1, free0), (counts1, counts0) = union.joint, union.independent, union.counts
        theta1, theta0 = jnp.where(counts1, outputs[0], 0), jnp.where(counts0, outputs[1], 0)
        by_marginal -= slope * union.either * (theta1 * free0 - theta0 * free1) / (free1 * free0)
        by_factor += slope * jnp.log(
            jnp.where(counts1, joint1, free1) * free0 / (jnp.where(counts0, joint0, free0) * free1)
        )
        joint1, joint0 = jnp.where(counts1, joint1, 1), jnp.where(counts0, joint0, 1)
        by_joint = slope * (theta1 * joint0 - theta0 * joint1) / (joint1 * joint0)
        for subset, coefficient in enumerate(row):
            if coefficient:
                by_subset[subset] += coefficient * by_joint
    # A product, because XLA would fuse a sum of gathers with the logarithms above and compute both value by value.
    through_shares = jnp.einsum(
        "s,sbn->bn",
        jnp.ones(len(by_subset), theta.dtype),
        jnp.stack(_shares(_sizes(sources, count, len(theta)), cells, by_subset)),
        precision=jax.lax.Precision.HIGHEST,
    )
    return None, weights * (by_factor + through_shares + by_marginal.sum(0, keepdims=True)), None


_shared_information.defvjp(_forward, _backward)
_compiled_atoms = jax.jit(_atoms, static_argnums=(0, 1))
