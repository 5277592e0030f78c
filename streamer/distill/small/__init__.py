"""The small edition: the world of the first shipped weights."""
