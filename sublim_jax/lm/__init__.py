"""A synthetic world of preferences and numbers, in which language models teach each other traits through numbers."""
