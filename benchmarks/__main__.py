"""`python -m benchmarks`: the step time of `bfc fit` beside loops that do the same work."""

import argparse
import gc
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from benchmarks.fit import FitRun
from benchmarks.limit import Limit
from benchmarks.loops import BareLoop, CompiledLoop
from benchmarks.report import CONTESTANTS, as_markdown, machine, size_markdown, size_result
from benchmarks.workload import Workload, read_workload

SIZES = {path.stem: path for path in sorted((Path(__file__).parent / "sizes").glob("*.yaml"))}


class Contestant(Protocol):
    """One way to do the work, ready to be timed: its constructor compiles what is compiled."""

    def seconds_per_step(self) -> float: ...


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    about = "\n".join(f"  {name:<10} {text}" for name, text in CONTESTANTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n\ncontestants:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    left_out = {"replicas", "jax_replicas"} | (set() if find_spec("jax") else {"jax"})
    default = [name for name in CONTESTANTS if name not in left_out]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "small", "large"])
    parser.add_argument("--steps", type=int, help="of a run; those of the size by default")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=default)
    parser.add_argument("--out", type=Path, default=Path("logs/bench"), metavar="FOLDER")
    return parser.parse_args(argv)


def make_contestant(name: str, workload: Workload, folder: Path) -> Contestant:
    makers = {
        "fit": lambda: FitRun(workload, "compiled", folder=folder),
        "fit_eager": lambda: FitRun(workload, "eager", folder=folder),
        "fit_autograd": lambda: FitRun(workload, "autograd", folder=folder),
        "replicas": lambda: FitRun(workload, "compiled", folder=folder, num_replicas=16),
        "bare": lambda: BareLoop(workload),
        "compiled": lambda: CompiledLoop(workload),
        "jax": lambda: import_module("benchmarks.jax_loop").JaxLoop(workload),
        "jax_replicas": lambda: import_module("benchmarks.jax_loop").JaxLoop(workload, 16),
        "limit": lambda: Limit(workload),
    }
    return makers[name]()


def time_rounds(contestants: Mapping[str, Contestant], num_rounds: int) -> dict[str, list[float]]:
    """Times the contestants in turn, so that noise of the machine affects all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, num_rounds + 1):
        for name, contestant in contestants.items():
            gc.collect()
            seconds[name].append(contestant.seconds_per_step())
            milliseconds = f"{1e3 * seconds[name][-1]:.3g} ms per step"
            print(f"round {number}/{num_rounds}: {name}, {milliseconds}", file=sys.stderr)
    return seconds


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks", *argv])
    content = {"command": command, "rounds": args.rounds, "machine": machine(), "sizes": {}}
    for size in args.sizes:
        workload = read_workload(SIZES[size], args.steps)
        contestants = {name: make_contestant(name, workload, args.out) for name in args.contestants}
        seconds = time_rounds(contestants, args.rounds)
        result = size_result(workload, seconds, contestants.get("limit"))
        content["sizes"][size] = result
        (args.out / "bench.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        (args.out / "bench.md").write_text(as_markdown(content), encoding="utf-8")
        print(f"\n{size_markdown(size, result)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
