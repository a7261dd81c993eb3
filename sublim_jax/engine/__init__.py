"""From conditions to rows: planning, scheduling, running, saving and resuming."""
