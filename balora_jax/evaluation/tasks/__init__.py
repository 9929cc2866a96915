"""Our lm-eval tasks: the sets of the BA-LoRA paper, asked and scored as its official code does."""
