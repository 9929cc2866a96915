"""Fine-tune a model; the same as `balora train`.

Usage: python train.py --config configs/X.yaml [--section.key value ...]
"""

import sys

from balora_jax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
