"""A sandbox for untrusted programs: generated Python runs apart, with limits, and is judged."""
