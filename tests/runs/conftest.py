"""The plots of these runs are made and not rendered, which would take a quarter of a tiny run."""

import pytest

from balora_jax.reporting import plots


class UnrenderedFigure(plots.Figure):
    """A figure whose file has no image."""

    def savefig(self, path, **_):
        path.write_bytes(b"not rendered")


@pytest.fixture(scope="module", autouse=True)
def rendered_plots():
    """A module that looks at its plots has a fixture of this name of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "Figure", UnrenderedFigure)
        yield
