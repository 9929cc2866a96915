"""Training: state, optimizer, step, loop, checkpoints, records and run folder."""
