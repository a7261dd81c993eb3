"""Figures of made-up rows need no fine intervals."""

import pytest

from sublim_jax.results import summary


@pytest.fixture(autouse=True)
def few_resamples(request, monkeypatch):
    """A bootstrap of 200 resamples in place of 10,000, where a figure and not its interval is tested."""
    if request.module.__name__.endswith(("test_figures", "test_figures_lm", "test_gallery")):
        monkeypatch.setattr(summary, "RESAMPLES", 200)
