"""Measures of a fine-tuned model beside its base: knowledge, representations, noise, change."""
