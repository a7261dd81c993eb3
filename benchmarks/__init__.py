"""The same two experiments in sublim_jax and in what it is compared with; `python -m benchmarks.run` measures them."""
