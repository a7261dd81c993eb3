"""Results are those of golden.json; see recompute.py for what they are and when they may change."""

import json

import numpy as np
import pytest
from golden import recompute

GOLDEN = json.loads(recompute.FILE.read_text())
# Draws and single steps agree to rounding. Rows come after many Adam steps, which amplify the rounding of another CPU.
TOLERANCE = {"draws": (1e-6, 1e-6), "image_pair": (1e-5, 1e-5), "language_pair": (1e-5, 1e-5)}
TOLERANCE |= {"theorem1_rows": (1e-5, 1e-8), "quickstart_rows": (1e-3, 5e-3)}


def assert_same(now, then, name, rtol, atol):
    """Text and digests equal, numbers within the tolerance, every name there."""
    if isinstance(then, dict):
        assert now.keys() == then.keys(), name
        for key in then:
            assert_same(now[key], then[key], f"{name}, {key}", rtol, atol)
    elif isinstance(then, list) and then and not isinstance(then[0], str):
        np.testing.assert_allclose(np.array(now, float), np.array(then, float), rtol, atol, err_msg=name)
    else:
        assert now == then, name


LONG = ("theorem1_rows", "quickstart_rows")
EACH = [pytest.param(name, marks=pytest.mark.e2e if name in LONG else ()) for name in recompute.ALL]


@pytest.mark.parametrize("name", EACH)
def test_recompute_gives_the_golden_numbers(name):
    assert_same(recompute.ALL[name](), GOLDEN[name], name, *TOLERANCE[name])


def test_assert_same_finds_a_changed_number():
    with pytest.raises(AssertionError):
        assert_same({"x": [1.0, 2.0]}, {"x": [1.0, 2.1]}, "", 1e-5, 1e-5)
    with pytest.raises(AssertionError):
        assert_same({"x": "float32 (3,) ab"}, {"x": "float32 (3,) ac"}, "", 1e-5, 1e-5)
