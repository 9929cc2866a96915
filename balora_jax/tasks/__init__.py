"""What is learned: a model, its adapters and its objective as one loss function for the trainer."""
