"""`python -m tests.faults`: tries faults, prints a tally, and fails if anything was lost."""

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
    parser.add_argument("--kills", type=int, default=60, help="how many commands are killed")
    parser.add_argument("--only", default="", help="kill those with this in the name of their kind")
    parser.add_argument("--inputs", type=int, default=300, help="how many inputs are mutated")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of all chance")
    given = parser.parse_args()
    print(f"seed {given.seed} (again: --seed {given.seed})", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="bfc-faults-"))
    warm_up()
    lost = _kills(given.kills, given.seed, folder, given.only)
    lost += _inputs(given.inputs, given.seed, folder)
    if lost:
        print(f"what was lost is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _kills(count: int, seed: int, folder: Path, only: str) -> int:
    began, tally = time.monotonic(), None
    (folder / "kills").mkdir()
    for number, tally in enumerate(try_kills(count, seed, folder / "kills", only), start=1):
        sys.stderr.write(f"\rkill {number} of {count}, {len(tally.lost)} lost ")
    return 0 if tally is None else _show("kills", tally, began)


def _inputs(count: int, seed: int, folder: Path) -> int:
    began = time.monotonic()
    (folder / "inputs").mkdir()
    return _show("inputs", try_inputs(count, seed, folder / "inputs"), began) if count else 0


def _show(what: str, tally, began: float) -> int:
    print(f"\n{what}: {time.monotonic() - began:.0f} s", *tally.lines(), sep="\n")
    for key, problem in tally.lost:
        print(f"LOST {key}: {problem}")
    return len(tally.lost)


if __name__ == "__main__":
    sys.exit(main())
