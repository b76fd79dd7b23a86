"""Assignments: drawn from the masters by a teacher's seed, released with Otter, graded safely."""
