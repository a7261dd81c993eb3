"""`python -m sublim_jax` does the same as `python -m sublim_jax.main`."""

from sublim_jax.cli import exit_process
from sublim_jax.main import main

if __name__ == "__main__":
    exit_process(main)
