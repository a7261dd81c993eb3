"""The vocabulary of the package: types, keys of random draws, trees of arrays, errors and atomic file writes."""
