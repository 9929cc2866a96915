"""Reports of a run: terminal output, plots and the model card."""
