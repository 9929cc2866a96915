"""What fine-tuning did to a model: its knowledge, its representations, its noise and its change."""
