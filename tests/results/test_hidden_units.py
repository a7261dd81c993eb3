"""Pictures of hidden units show the arrays that they are given, without JAX."""

import subprocess
import sys

import numpy as np
import pytest

from sublim_jax.core.errors import ConfigError
from sublim_jax.results import hidden_units

NAMES = ("{1}", "{2}", "{1}{2}", "{12}", "residual")
VALUES = np.arange(3 * 4 * 5, dtype=float).reshape(3, 4, 5) * np.array([1, -9, 0, 1, -2])


def params_of(contexts, bias=0.0, pixels=6):
    """A network whose contexts are [units][classes]; pixel p of unit u has weight p + 10 u."""
    contexts = np.asarray(contexts, float)
    kernel = np.arange(pixels)[:, None] + 10.0 * np.arange(len(contexts))[None]
    context = {"kernel": contexts.T - bias, "bias": np.full(len(contexts), bias)}
    return {"hidden_0": {"kernel": kernel, "bias": np.zeros(len(contexts))}, "context": context}


def images_of(figure):
    """Titles and images of the panels that are used."""
    return [(ax.get_title(), ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_draw_atoms_has_a_line_for_each_unit_and_the_median():
    figure = hidden_units.draw_atoms(VALUES, NAMES, (0, 1, 4), shown=("{12}", "{1}"))
    for ax, name in zip(figure.axes, ("{12}", "{1}"), strict=True):
        assert ax.get_title() == name
        units = VALUES[:, :, NAMES.index(name)]
        for unit in range(4):
            assert np.asarray(ax.lines[unit].get_xydata())[:, 0].tolist() == [0, 1, 4]
            np.testing.assert_array_equal(ax.lines[unit].get_ydata(), units[:, unit])
        np.testing.assert_array_equal(ax.lines[4].get_ydata(), np.median(units, 1))


def test_draw_atoms_chooses_the_largest_at_the_end_and_keeps_their_order():
    figure = hidden_units.draw_atoms(VALUES, NAMES, (0, 1, 4), shown=2)
    assert [ax.get_title() for ax in figure.axes] == ["{2}", "residual"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": (0, 1)}, r"values: shape \(3, 4, 5\); must be \[2 epochs, units, 5 atoms\]"),
        ({"names": NAMES[:4], "shown": 2}, r"must be \[3 epochs, units, 4 atoms\]"),
        ({"shown": ("{3}",)}, r"shown: '\{3\}' is not an atom"),
    ],
)
def test_draw_atoms_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        hidden_units.draw_atoms(**{"values": VALUES, "names": NAMES, "epochs": (0, 1, 4), **changes})


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_preferred_classes_are_the_smaller_group_and_its_sign(bias):
    contexts = [[1, -1, -1, -1], [1, -1, 1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]]
    assert hidden_units.preferred_classes(params_of(contexts, bias)) == [((0,), 1), ((1,), -1), ((0, 1), -1), ((), 1)]


def test_preferred_classes_refuse_a_network_without_context():
    with pytest.raises(ConfigError, match="layers hidden_0; a layer 'context' is needed"):
        hidden_units.preferred_classes({"hidden_0": {}})


def test_draw_receptive_fields_sorts_units_by_class_and_turns_their_signs():
    params = params_of([[1, 1, 1], [-1, -1, 1], [1, 1, -1], [1, -1, -1]])
    found = images_of(hidden_units.draw_receptive_fields(params, image=(2, 3), columns=3))
    assert [title for title, _ in found] == ["0", "2", "2", "none"]
    for (_, image), unit, sign in zip(found, (3, 1, 2, 0), (1, 1, -1, 1), strict=True):
        np.testing.assert_array_equal(image, sign * (10 * unit + np.arange(6).reshape(2, 3)))


def test_draw_receptive_fields_without_context_keeps_order_and_sign():
    params = params_of([[1]] * 4)
    del params["context"]
    found = images_of(hidden_units.draw_receptive_fields(params, image=(2, 3), most=3))
    assert [title for title, _ in found] == ["0", "1", "2"]
    np.testing.assert_array_equal(found[1][1], 10 + np.arange(6).reshape(2, 3))


def test_draw_receptive_fields_refuses_other_images_and_networks():
    with pytest.raises(ConfigError, match=r"image=\(28, 28\): has 784 pixels; the units have 6 inputs"):
        hidden_units.draw_receptive_fields(params_of([[1]]))
    with pytest.raises(ConfigError, match="layers class_head; a layer 'hidden_0' is needed"):
        hidden_units.draw_receptive_fields({"class_head": {}})


def test_hidden_units_imports_no_jax():
    code = "import sys; import sublim_jax.results.hidden_units; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
