"""Rows, tables, figures and reports; nothing here imports JAX."""

from sublim_jax.core.nested import flatten as flatten
from sublim_jax.results.rows import completed as completed
from sublim_jax.results.rows import completed_seeds as completed_seeds
from sublim_jax.results.rows import load as load
from sublim_jax.results.rows import part_name as part_name
from sublim_jax.results.rows import tidy as tidy
from sublim_jax.results.stored_config import metadata as metadata
from sublim_jax.results.workdir import Workdir as Workdir
