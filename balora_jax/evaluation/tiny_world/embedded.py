"""The tiny model and data that come with the package."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
MODEL = ASSETS / "model"


def quickstart() -> list[str]:
    """The arguments of the quickstart's run, from wherever the package is installed."""
    paths = {
        "model.source": MODEL,
        "data.train": ASSETS / "train.jsonl",
        "data.eval": ASSETS / "test.jsonl",
    }
    return [
        "--config",
        str(ASSETS / "quickstart.yaml"),
        *(text for k, v in paths.items() for text in (f"--{k}", str(v))),
    ]
