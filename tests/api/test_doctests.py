"""The examples in docstrings of public functions run, and quickly."""

import doctest

import pytest

import sublim_jax as sl

FUNCTIONS = [name for name in sl.__all__ if callable(getattr(sl, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_of_a_public_function_has_an_example_that_runs(name):
    function = getattr(sl, name)
    for section in ("Args:", "Raises:"):
        assert section in function.__doc__
    flags = doctest.NORMALIZE_WHITESPACE
    for example in doctest.DocTestFinder(recurse=False).find(function, name, globs={}):
        result = doctest.DocTestRunner(optionflags=flags).run(example)
        assert result.failed == 0
        assert result.attempted or name in ("run", "train_pair", "params")  # which train, or read what was trained
