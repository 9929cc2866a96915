"""Losses: the objective from logits and its streamed form, schedules, and the linear probe."""
