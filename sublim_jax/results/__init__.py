"""Rows, tables, figures and reports; nothing here imports JAX."""

from sublim_jax.core.nested import flatten as flatten
from sublim_jax.results.workdir import Workdir as Workdir
from sublim_jax.results.workdir import completed as completed
from sublim_jax.results.workdir import completed_seeds as completed_seeds
from sublim_jax.results.workdir import load as load
from sublim_jax.results.workdir import metadata as metadata
from sublim_jax.results.workdir import part_name as part_name
from sublim_jax.results.workdir import tidy as tidy
