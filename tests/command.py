"""`python -m tests.command ...`: the command `bfc`, from wherever the tests run."""

import sys

from bfc_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
