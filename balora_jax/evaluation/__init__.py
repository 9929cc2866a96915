"""Evaluators: held-out loss and metrics, and the probes of the tiny world."""
