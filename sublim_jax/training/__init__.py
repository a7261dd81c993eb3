"""Training one net, then many: pure functions that know neither files nor clocks."""
