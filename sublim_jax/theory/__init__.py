"""Theoretical predictions as formulas; derivations in docs/theory.md."""

from sublim_jax.theory.heads import Bounds as Bounds
from sublim_jax.theory.heads import Factors as Factors
from sublim_jax.theory.heads import compatibility as compatibility
from sublim_jax.theory.heads import factors as factors
from sublim_jax.theory.heads import first_step as first_step
from sublim_jax.theory.heads import first_step_mean as first_step_mean
from sublim_jax.theory.heads import inside as inside
from sublim_jax.theory.heads import nearest as nearest
from sublim_jax.theory.heads import noisy_head as noisy_head
from sublim_jax.theory.heads import oracle as oracle
from sublim_jax.theory.heads import row_space as row_space
from sublim_jax.theory.laws import capacity_bits as capacity_bits
from sublim_jax.theory.laws import chance as chance
from sublim_jax.theory.laws import chance_scatter as chance_scatter
from sublim_jax.theory.laws import condition_number as condition_number
from sublim_jax.theory.laws import drifted as drifted
from sublim_jax.theory.laws import equations as equations
from sublim_jax.theory.laws import eroded as eroded
from sublim_jax.theory.laws import eroded_cosine_normal as eroded_cosine_normal
from sublim_jax.theory.laws import eroded_cosine_uniform as eroded_cosine_uniform
from sublim_jax.theory.laws import half_width as half_width
from sublim_jax.theory.laws import logits_needed as logits_needed
from sublim_jax.theory.laws import recovered_cosine as recovered_cosine
from sublim_jax.theory.laws import recovered_energy as recovered_energy
from sublim_jax.theory.laws import signed_step as signed_step
from sublim_jax.theory.pid import pid as pid
