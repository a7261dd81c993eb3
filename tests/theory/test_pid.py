"""Partial information decomposition against published gates, its definitions in float64, and the package dit."""

import doctest
import itertools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sublim_jax import theory
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine.first_steps import float64
from sublim_jax.theory.pid import (
    antichains,
    atoms,
    bins_fixed,
    bins_scaled,
    moebius,
    names,
    subsets,
    union_coefficients,
)

BITS = {n: np.array(list(itertools.product((0, 1), repeat=n))).T for n in (2, 3)}
compiled = jax.jit(atoms, static_argnames="count")
XOR3 = dict.fromkeys(("{1}", "{2}", "{3}"), 0.3219) | dict.fromkeys(("{12}", "{13}", "{23}"), 0.1699)
XOR3 |= dict.fromkeys(("{1}{2}", "{1}{3}", "{2}{3}"), -0.1926) | dict.fromkeys(
    ("{1}{23}", "{2}{13}", "{3}{12}"), -0.1293
)
XOR3 |= dict.fromkeys(("{12}{13}", "{12}{23}", "{13}{23}"), 0.0931)
XOR3 |= {"{1}{2}{3}": 0.1926, "{12}{13}{23}": -0.2269, "{123}": 0.2451, "residual": 0}
# Published values in bits, to four digits.
GATES = {
    "xor": (2, lambda s: s[0] ^ s[1], {"{1}": 0.5850, "{2}": 0.5850, "{1}{2}": -0.5850, "{12}": 0.4150, "residual": 0}),
    "and": (2, lambda s: s[0] & s[1], {"{1}": 0.1887, "{2}": 0.1887, "{1}{2}": 0.1226, "{12}": 0.3113, "residual": 0}),
    "copy": (2, lambda s: s[0], {"{1}": 0.5850, "{2}": -0.4150, "{1}{2}": 0.4150, "{12}": 0.4150, "residual": 0}),
    "xor3": (3, lambda s: s[0] ^ s[1] ^ s[2], XOR3),
}


def samples(seed, sources, batch, neurons, count):
    """Bins of each source and the probability of output 1."""
    random = np.random.default_rng(seed)
    bins = tuple(random.integers(0, count, (batch, neurons), np.int32) for _ in range(sources))
    return bins, random.uniform(size=(batch, neurons)).astype(np.float32)


def shared_by_definition(bins, theta):
    """Information of shared exclusions for each antichain of one neuron; events are counted in float64."""
    same = [np.equal.outer(one, one) for one in bins]
    outputs = np.stack([1 - theta, theta]).astype(float)
    found = []
    for family in antichains(len(bins)):
        event = np.any([np.all([same[source - 1] for source in part], axis=0) for part in family], axis=0)
        joint = event @ outputs.T / len(theta)
        ratio = joint / (joint.sum(1, keepdims=True) * outputs.mean(1))
        found.append((outputs.T * np.log2(np.where(ratio > 0, ratio, 1))).sum(1).mean())
    return np.array(found)


def precedes(lower, upper):
    return all(any(inner <= outer for inner in lower) for outer in upper)


def atoms_by_definition(bins, theta):
    """What an antichain shares beyond all that precede it, by recursion, then the residual entropy."""
    shared, found = shared_by_definition(bins, theta), {}
    families = antichains(len(bins))
    for index in sorted(range(len(families)), key=lambda i: sum(precedes(other, families[i]) for other in families)):
        below = [atom for other, atom in found.items() if precedes(families[other], families[index])]
        found[index] = shared[index] - sum(below)
    probabilities = np.array([1 - theta.mean(dtype=float), theta.mean(dtype=float)])
    entropy = -(probabilities * np.log2(probabilities)).sum()
    return np.array([*(found[index] for index in range(len(families))), entropy - shared[-1]])


def atoms_dense(bins, theta, count):
    """The same from the table of all cells, as the definition is published."""
    n = len(bins)
    table = np.zeros((count,) * n + (2,))
    np.add.at(table, tuple(bins), np.stack([1 - theta, theta], 1).astype(float) / len(theta))
    marginals = {  # of each subset of sources, broadcast over the others
        subset: table.sum(tuple(axis for axis in range(n) if axis + 1 not in subset), keepdims=True)
        for subset in subsets(n)
    }
    shared = []
    for row in union_coefficients(n):
        joint = sum(c * marginals[subset] for c, subset in zip(row, subsets(n), strict=True)) + 0 * table
        either = joint.sum(-1, keepdims=True) * table.sum(tuple(range(n)))
        ratio = np.divide(joint, either, out=np.ones_like(joint), where=table > 0)
        shared.append((table * np.log2(ratio)).sum())
    return moebius(n) @ np.array(shared)


@pytest.mark.parametrize("gate", GATES)
def test_pid_of_gates_has_the_published_atoms(gate):
    sources, target, expected = GATES[gate]
    found = theory.pid(list(BITS[sources]), target(BITS[sources]))
    assert tuple(found) == (*names(sources), "residual")
    assert found == pytest.approx(expected, abs=1e-4)


def test_names_follow_the_published_order_of_goals():
    assert names(2) == ("{1}", "{2}", "{1}{2}", "{12}")
    assert " ".join(names(3)) == (
        "{1}{2}{3} {1}{2} {1}{3} {2}{3} {1}{23} {2}{13} {3}{12} {1} {2} {3} "
        "{12}{13}{23} {12}{13} {12}{23} {13}{23} {12} {13} {23} {123}"
    )


@pytest.mark.parametrize("sources", [2, 3])
def test_moebius_matrix_inverts_the_order_of_antichains(sources):
    families = antichains(sources)
    order = np.array([[precedes(lower, upper) for lower in families] for upper in families], int)
    np.testing.assert_array_equal(moebius(sources) @ order, np.eye(len(families)))
    assert set(moebius(sources).flat) == {-1, 0, 1}


@pytest.mark.parametrize("sources", [2, 3])
def test_union_coefficients_count_each_event_once(sources):
    """Where the observations of all subsets occur, the event has probability 1: coefficients sum to 1."""
    assert union_coefficients(sources).shape == ({2: 4, 3: 18}[sources], 2**sources - 1)
    np.testing.assert_array_equal(union_coefficients(sources).sum(1), 1)


# Cells beyond the batch are numbered by a sort: none, those of three sources, all.
SIZES = [(3, 37), (20, 601), (20, 7)]


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize(("count", "batch"), SIZES)
def test_atoms_are_those_of_the_definition_and_of_the_dense_form(sources, count, batch):
    bins, theta = samples(batch, sources, batch, 3, count)
    got = np.asarray(compiled(bins, theta, count=count))
    assert got.shape == (3, len(names(sources)) + 1)
    for neuron, row in enumerate(got):
        one = [source[:, neuron] for source in bins], theta[:, neuron]
        np.testing.assert_allclose(row, atoms_by_definition(*one), atol=3e-6)
        np.testing.assert_allclose(row[:-1], atoms_dense(*one, count), atol=3e-6)


@pytest.mark.parametrize("sources", [2, 3])
def test_pid_is_the_decomposition_of_one_neuron(sources):
    bins, theta = samples(0, sources, 37, 3, 3)
    got = theory.pid([source[:, 1] for source in bins], theta[:, 1])
    np.testing.assert_allclose(list(got.values()), compiled(bins, theta, count=3)[1], atol=2e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), sources=st.sampled_from([2, 3]), certain=st.booleans())
def test_atoms_below_an_antichain_sum_to_its_shared_information(seed, sources, certain):
    bins, theta = samples(seed, sources, 29, 1, 4)
    theta = np.round(theta) if certain else theta
    got = np.asarray(compiled(bins, theta, count=4))[0]
    families = antichains(sources)
    sums = [sum(got[i] for i, lower in enumerate(families) if precedes(lower, upper)) for upper in families]
    expected = shared_by_definition([source[:, 0] for source in bins], theta[:, 0])
    np.testing.assert_allclose(sums, expected, atol=3e-6)


def shared_exclusions(bins, theta):
    """Atoms by dit's independent code, in our order."""
    dit = pytest.importorskip("dit", reason="the package dit is not installed")
    weights = {}
    for *values, probability in zip(*bins, theta.tolist(), strict=True):
        for output, weight in ((0, 1 - probability), (1, probability)):
            outcome = "".join(map(str, (*values, output)))
            weights[outcome] = weights.get(outcome, 0) + weight / len(theta)
    sources = range(len(bins))
    found = dit.pid.PID_SX(
        dit.Distribution(list(weights), list(weights.values())), [[source] for source in sources], [len(bins)]
    )
    order = {tuple(sorted(tuple(sorted(part)) for part in node)): node for node in found._lattice}
    keys = [tuple(sorted(tuple(i - 1 for i in sorted(part)) for part in family)) for family in antichains(len(bins))]
    return [float(found.get_pi(order[key])) for key in keys]


def agrees_with_dit(seed, sources, count, batch):
    bins, theta = samples(seed, sources, batch, 1, count)
    expected = shared_exclusions([source[:, 0] for source in bins], theta[:, 0])
    np.testing.assert_allclose(np.asarray(compiled(bins, theta, count=count))[0, :-1], expected, atol=3e-6)


@pytest.mark.parametrize("seed", range(3))
def test_atoms_of_two_sources_agree_with_dit(seed):
    agrees_with_dit(seed, 2, 3, 11)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(2))
def test_atoms_of_three_sources_agree_with_dit(seed):
    agrees_with_dit(seed, 3, 2, 13)


def goal(theta, bins, count=20):
    """A loss that weights all atoms, and the atoms."""
    found = atoms(bins, theta, count)
    weights = np.random.default_rng(7).uniform(-1, 1, found.shape[1])
    return (found * jnp.asarray(weights, theta.dtype)[None]).sum(), found


slopes = jax.jit(jax.value_and_grad(goal, has_aux=True))


@pytest.mark.parametrize("sources", [2, 3])
def test_atoms_have_the_derivatives_of_finite_differences_at_fixed_bins(sources):
    bins, theta = samples(3, sources, 23, 2, 5)
    with float64():
        theta = jnp.asarray(theta, float) * 0.98 + 0.01
        moves = 1e-6 * jnp.eye(theta.size).reshape(-1, *theta.shape)
        losses = jax.jit(jax.vmap(lambda move: goal(theta + move, bins)[0]))(jnp.concatenate([moves, -moves]))
        expected = (losses[: len(moves)] - losses[len(moves) :]) / 2e-6
        np.testing.assert_allclose(slopes(theta, bins)[1].ravel(), expected, rtol=1e-6, atol=1e-8)


def test_atoms_have_no_derivative_through_bins():
    random = np.random.default_rng(0)
    values = [jnp.asarray(random.normal(0, 8, (31, 2)), jnp.float32) for _ in range(2)]

    def loss(values, theta):
        return goal(theta, (bins_fixed(values[0]), bins_scaled(values[1])))[0]

    by_values, by_theta = jax.jit(jax.grad(loss, argnums=(0, 1)))(values, jax.nn.sigmoid(values[0]))
    assert all((one == 0).all() for one in by_values)
    assert (by_theta != 0).all()


@pytest.mark.parametrize("sources", [2, 3])
def test_atoms_of_seeds_under_vmap_are_those_of_a_loop(sources):
    seeds = [samples(seed, sources, 37, 4, 20) for seed in range(3)]
    bins = tuple(np.stack([one[source] for one, _ in seeds]) for source in range(sources))
    (_, found), by_theta = jax.jit(jax.vmap(slopes))(np.stack([theta for _, theta in seeds]), bins)
    for index, (one, theta) in enumerate(seeds):
        (_, expected), slope = slopes(theta, one)
        np.testing.assert_allclose(found[index], expected, atol=1e-6)
        np.testing.assert_allclose(by_theta[index], slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("constant", [(1,), (2,), (0, 1, 2), (2, 0)])
def test_atoms_are_finite_for_constant_sources_and_certain_outputs(constant):
    random = np.random.default_rng(0)
    outputs = np.zeros(37), np.ones(37), random.integers(0, 2, 37), random.uniform(size=37)
    theta = jnp.asarray(np.stack(outputs, 1), jnp.float32)
    values = [jnp.asarray(random.normal(size=theta.shape), jnp.float32) for _ in range(3)]
    for source in constant:
        values[source] = jnp.zeros_like(theta)
    bins = bins_fixed(values[0]), bins_scaled(values[1]), bins_scaled(values[2])
    (loss, found), by_theta = slopes(theta, bins)
    assert jnp.isfinite(loss) and jnp.isfinite(found).all() and jnp.isfinite(by_theta).all()
    np.testing.assert_allclose(found[:2], 0, atol=1e-6)  # a certain output has no information
    bits = dict(zip(names(3), np.asarray(found[:, :-1]).T, strict=True))
    for source in constant:  # a source that never changes says nothing, and shares nothing
        below = [atom for name, atom in bits.items() if precedes_by_name(name, source + 1)]
        np.testing.assert_allclose(np.sum(below, 0), 0, atol=2e-6)


def precedes_by_name(name, source):
    return precedes(antichains(3)[names(3).index(name)], (frozenset({source}),))


def test_atoms_need_no_table_of_all_cells():
    bins, theta = samples(0, 3, 1024, 5, 20)
    program = str(jax.make_jaxpr(slopes)(theta, bins))
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"[fi]32\[([\d,]+)\]", program)}
    assert max(np.prod(shape) for shape in shapes) < 5 * 8000


def test_atoms_refuse_numbers_of_sources_and_bins():
    bins, theta = samples(0, 3, 9, 1, 4)
    with pytest.raises(ConfigError, match="sources: 1 sources; 2 or 3 are allowed"):
        atoms(bins[:1], theta)
    with pytest.raises(ConfigError, match="count: 2000 bins of 3 sources in a batch of 9"):
        atoms(bins, theta, 2000)


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 9), (-20, 0), (20, 19), (-25, 0), (np.inf, 19), (-np.inf, 0), (1e-6, 10), (2, 10), (2.001, 11), (-18, 0)],
)
def test_bins_fixed_are_closed_on_the_right(value, number):
    assert bins_fixed(jnp.full((1, 1), value, jnp.float32)).tolist() == [[number]]


def test_bins_fixed_agree_with_searchsorted_in_numpy():
    values = np.random.default_rng(0).normal(0, 9, (500, 3)).astype(np.float32)
    expected = np.clip(np.searchsorted(np.linspace(-20, 20, 21), values, side="left") - 1, 0, 19)
    np.testing.assert_array_equal(bins_fixed(jnp.asarray(values)), expected)


def test_bins_scaled_divides_each_neuron_by_its_largest_magnitude():
    values = jnp.asarray([[-4.0, 0.0, 1e-6], [2.0, 0.0, -3e-6], [0.0, 0.0, 0.0], [4.0, 0.0, 3e-6]])
    assert bins_scaled(values).T.tolist() == [[0, 14, 9, 19], [9] * 4, [13, 0, 9, 19]]
    assert bins_scaled(values, count=2).T.tolist() == [[0, 1, 0, 1], [0] * 4, [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("sources", "target", "count", "message"),
    [
        ([[0, 1]], [0, 1], None, "sources: 1 sources; 2 or 3 are allowed"),
        ([[0, 1]] * 4, [0, 1], None, "sources: 4 sources; 2 or 3 are allowed"),
        ([[0, 1], [0, 1, 1]], [0, 1], None, r"source 2 has shape \(3,\), target_probability \(2,\)"),
        ([[0, 1], [0, -1]], [0, 1], None, "source 2 lies between -1 and 0; integers from 0 on are allowed"),
        ([[0, 1], [0, 5]], [0, 1], 5, "source 2 lies between 0 and 5; integers from 0 to 4 are allowed"),
        ([[0, 1], [0.5, 1]], [0, 1], None, "source 2 is of type float64; integers are allowed"),
        ([[0, 1], [0, 1]], [0, 1.5], None, "target_probability: 1.5; values from 0 to 1 are allowed"),
        ([[0, 1], [0, 1]], [0, np.nan], None, "target_probability: nan; values from 0 to 1 are allowed"),
        ([[], []], [], None, r"target_probability: shape \(0,\)"),
    ],
)
def test_pid_refuses_bad_data_in_one_line(sources, target, count, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        theory.pid(sources, target, count)
    assert "\n" not in str(refusal.value)


def test_pid_docstring_example_runs():
    module = sys.modules["sublim_jax.theory.pid"]
    (example,) = [one for one in doctest.DocTestFinder(recurse=False).find(theory.pid, "pid", module) if one.examples]
    assert doctest.DocTestRunner().run(example) == (0, 3)


@pytest.mark.parametrize("sources", [2, 3])
def test_atoms_leave_out_samples_of_weight_zero(sources):
    bins, theta = samples(3, sources, 60, 4, 3)
    weights = np.where(np.arange(60) < 47, 1 / 47, 0).astype(np.float32)
    goal = np.random.default_rng(0).normal(size=len(names(sources)) + 1)

    def total(theta, bins, weights):
        return (atoms(bins, theta, 3, weights) @ goal).sum()

    slope = jax.jit(jax.value_and_grad(total))
    value, gradient = slope(theta, bins, weights)
    alone, short = slope(theta[:47], tuple(one[:47] for one in bins), None)
    np.testing.assert_allclose(value, alone, rtol=1e-5)
    np.testing.assert_allclose(gradient[:47], short, rtol=1e-4, atol=1e-7)
    assert (gradient[47:] == 0).all()


@pytest.mark.parametrize("sources", [2, 3])
def test_atoms_of_weighted_samples_are_those_of_repeated_ones(sources):
    bins, theta = samples(4, sources, 12, 3, 2)
    times = np.arange(1, 13) % 4 + 1
    repeated = atoms(tuple(np.repeat(one, times, 0) for one in bins), np.repeat(theta, times, 0), 2)
    weighted = atoms(bins, theta, 2, (times / times.sum()).astype(np.float32))
    np.testing.assert_allclose(weighted, repeated, atol=2e-6)


def test_bins_scaled_leaves_out_samples_of_weight_zero():
    values = np.array([[0.5], [-1.0], [4.0]], np.float32)
    assert bins_scaled(values, weights=np.array([0.5, 0.5, 0.0]))[:2].ravel().tolist() == [14, 0]
