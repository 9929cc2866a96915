"""The tiny model and data that are part of the package."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
MODEL = ASSETS / "model"


def quickstart() -> list[str]:
    """Return the arguments of `balora train` for the quickstart, with absolute paths."""
    paths = {
        "model.source": MODEL,
        "data.train": ASSETS / "train.jsonl",
        "data.eval": ASSETS / "test.jsonl",
    }
    arguments = ["--config", str(ASSETS / "quickstart.yaml")]
    for option, path in paths.items():
        arguments += [f"--{option}", str(path)]
    return arguments
