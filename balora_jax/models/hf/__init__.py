"""Hugging Face folders: reading, writing, names and model types."""
