"""Runs: fine-tuning and its setup, comparison, generation, export and self-test."""
