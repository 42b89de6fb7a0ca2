"""History played forward: the world outside, the faults planted in it, and what came of it."""
