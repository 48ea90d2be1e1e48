"""`python -m tests.faults`: tries faults, counts them, and fails if anything was lost."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from tests.faults.forked import warm_up
from tests.faults.inputs import try_inputs
from tests.faults.kills import try_kills


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="number of kills")
    parser.add_argument("--only", default="", help="kill commands with this in their name only")
    parser.add_argument("--inputs", type=int, default=300, help="number of mutated inputs")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of everything")
    given = parser.parse_args()
    print(f"seed {given.seed} (again: --seed {given.seed})", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="bfc-faults-"))
    warm_up()
    attempts = {
        "kills": try_kills(given.kills, seed=given.seed, folder=folder, only=given.only),
        "inputs": try_inputs(given.inputs, given.seed, folder),
    }
    num_lost = 0
    for name in (name for name in attempts if getattr(given, name)):
        began = time.monotonic()
        for tally in attempts[name]:
            sys.stderr.write(f"\r{name}: {tally.lines()[-1]} ")
        print(f"\n{name}: {time.monotonic() - began:.0f} s", *tally.lines(), sep="\n")
        for kind, problem in tally.lost:
            print(f"LOST {kind}: {problem}")
        num_lost += len(tally.lost)
    if num_lost:
        print(f"what was lost is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
