"""Training of one net and of populations: pure functions without files or clocks."""
