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
from tests.faults.kills import Tally, try_kills
from tests.faults.landing import MOMENTS, SIGNALS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="how many commands are killed")
    told = "kill those with one of these in the name of their kind"
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help=told)
    names = [signum.name for signum in SIGNALS]
    parser.add_argument("--by", choices=names, help="by this signal; any if not given")
    parser.add_argument("--at", choices=MOMENTS, help="at this moment; any if not given")
    parser.add_argument("--inputs", type=int, default=300, help="how many inputs are mutated")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of all chance")
    given = parser.parse_args()
    print(f"seed {given.seed} (again: --seed {given.seed})", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="bfc-faults-"))
    warm_up()
    lost = _kills(given, folder) if given.kills else 0
    lost += _inputs(given.inputs, given.seed, folder)
    if lost:
        print(f"what was lost is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _kills(given: argparse.Namespace, folder: Path) -> int:
    began, tally = time.monotonic(), Tally()
    (folder / "kills").mkdir()
    kills = try_kills(
        given.kills,
        seed=given.seed,
        folder=folder / "kills",
        only=given.only,
        signals=[signum for signum in SIGNALS if given.by in (None, signum.name)],
        moments={name: n for name, n in MOMENTS.items() if given.at in (None, name)},
    )
    for tally in kills:
        num_tried = tally.tried.total()
        sys.stderr.write(f"\rkill {num_tried} of {given.kills}, {len(tally.lost)} lost ")
    lost = _show("kills", tally, began)
    num_left = given.kills - tally.tried.total()
    if num_left:
        print(f"NOT TRIED: {num_left} of {given.kills} kills, as too many have missed")
    return lost + num_left


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
