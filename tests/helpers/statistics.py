"""Seeded draws, and a mean against its standard error."""

import numpy as np


def draw(seed):
    return np.random.default_rng(seed)


def within(samples, predicted, errors=4.0):
    """The mean of the samples is within so many standard errors of the prediction."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert abs(samples.mean() - float(predicted)) < errors * error + 1e-9, (samples.mean(), float(predicted), error)


def cosine(x, y):
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
