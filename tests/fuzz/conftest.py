"""Lengths of fuzzing: seconds by default, longer with `--hypothesis-profile=long`."""

from hypothesis import settings

settings.register_profile("long", max_examples=2500)
