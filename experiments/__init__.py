"""What was run with this project, and what is kept of it."""
