"""Evaluations: tasks asked of a run's model and of its base, and one table of the results."""
