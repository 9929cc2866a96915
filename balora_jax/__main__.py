"""The command line as `python -m balora_jax`."""

import sys

from balora_jax.cli import main

if __name__ == "__main__":
    main(sys.argv[1:])
