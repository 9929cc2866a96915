"""Lengths of fuzzing: seconds by default, `pytest tests/fuzz --hypothesis-profile=long` for more."""

from hypothesis import settings

settings.register_profile("long", max_examples=2500)
