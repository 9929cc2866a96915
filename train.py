"""Fine-tune a model: python train.py --config configs/X.yaml [--section.key value ...]; the same as `balora train`."""

import sys

from balora_jax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
