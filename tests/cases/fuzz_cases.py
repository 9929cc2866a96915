"""Random bytes and random JSON for the fuzzers, and the settings that they share."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# The number of examples is the profile's; see tests/fuzz/conftest.py.
fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))

# What JSON can hold, and what Python's reader takes beside it (NaN, lone surrogates).
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf")])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\x00", "\ud800", "a" * 5000, "../x", "~nobody", "{{", "{% x"])
)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
