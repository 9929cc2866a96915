"""Audits: what fine-tuning changed in runs of one base model, in one page and its numbers."""
