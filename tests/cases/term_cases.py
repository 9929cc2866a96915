"""Both versions of the paper's terms, as configurations and as built terms."""

import dataclasses

from balora_jax.config import ConsistencyConfig, DiversityConfig, RegularizersConfig, SvdConfig
from balora_jax.regularizers.terms import make_terms

PAPER = {
    "2026": RegularizersConfig(),
    "2024": RegularizersConfig(
        consistency=ConsistencyConfig(weight=1e-4, schedule="constant", temperature=1.0),
        diversity=DiversityConfig(weight=3e-4, schedule="constant", top_k=None),
        svd=SvdConfig(weight=1e-4, schedule="constant", k=3, norm="nuclear"),
    ),
}
WEIGHTS = {"consistency": 0.3, "diversity": 0.2, "svd": 0.7}


def only(*names, version="2026"):
    """The version's configuration with all terms off except the named ones."""
    config = PAPER[version]
    off = {
        name: dataclasses.replace(getattr(config, name), weight=0.0)
        for name in WEIGHTS
        if name not in names
    }
    return dataclasses.replace(config, **off)


def nlg_terms(config):
    """A language model's terms."""
    return make_terms(config.acting, "nlg")


def nlu_terms(config):
    """A classifier's terms."""
    return make_terms(config.acting, "nlu")
