"""`python -m bfc_lightning`, and `torchrun -m bfc_lightning`: the same as `bfc`."""

import sys

from bfc_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
