"""Rows, tables, figures and reports; nothing here imports JAX."""

from sublim_jax.results.workdir import Folder as Folder
from sublim_jax.results.workdir import facts as facts
from sublim_jax.results.workdir import flat as flat
from sublim_jax.results.workdir import have as have
from sublim_jax.results.workdir import load as load
from sublim_jax.results.workdir import part_name as part_name
from sublim_jax.results.workdir import tidy as tidy
