"""Several processes beside one: their speed, and the results of whole runs.

From the root of the repository, on a machine without other work:

    python -m benchmarks.ddp runs    # the last val/nmse with 1, 2 and 4 processes, five seeds
    python -m benchmarks.ddp cost    # 2 processes of one thread beside 1 process of two threads
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_FIT = [sys.executable, "-m", "bfc_lightning", "fit", "-c", "configs/depth3.yaml"]
_FIT += ["--run.figures", "false", "--num_measures", "0", "--trainer.enable_progress_bar", "false"]
_BATCH_SIZE = 512
_COST = {
    "1 process, 2 threads": (1, 2, "eager"),
    "2 processes, 1 thread each": (2, 1, "eager"),
    "1 process, 2 threads, autograd": (1, 2, "autograd"),
    "2 processes, 1 thread each, autograd": (2, 1, "autograd"),
}


def fit(num_processes: int, *options: str) -> dict[str, Any]:
    """The summary of a run of `configs/depth3.yaml`."""
    argv = [*_FIT, "--trainer.devices", str(num_processes), *options]
    if num_processes > 1:
        argv += ["--trainer.strategy", "ddp"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as root:
        argv += ["--run.root", root, "--run.name", "run"]
        subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
        return json.loads((Path(root) / "run" / "summary.json").read_text(encoding="utf-8"))


def runs(num_seeds: int = 5) -> None:
    """Prints the last validation error of each seed and their median."""
    for processes in (1, 2, 4):
        results = [
            fit(processes, "--seed_everything", str(seed), "--run.threads", "1")
            for seed in range(num_seeds)
        ]
        errors = [result["metrics"]["val/nmse"] for result in results]
        listed = " ".join(f"{error:.1e}" for error in errors)
        print(f"{processes}: median {statistics.median(errors):.2e} of {listed}", flush=True)


def cost(num_rounds: int = 5, num_steps: int = 1000) -> None:
    """Prints milliseconds per global batch, medians of alternating rounds, and their ratios."""
    times: dict[str, list[float]] = {name: [] for name in _COST}
    for _ in range(num_rounds):
        for name, (processes, threads, engine) in _COST.items():
            options = ["--run.threads", str(threads), "--engine", engine]
            options += ["--trainer.val_check_interval", "1.0", "--num_measures", "0"]
            result = fit(processes, *options, "--trainer.max_steps", str(num_steps))
            times[name].append(1000 * _BATCH_SIZE / result["samples_per_second"])
    base = statistics.median(next(iter(times.values())))
    for name, each in times.items():
        middle, low, high = statistics.median(each), min(each), max(each)
        print(f"{name}: {middle:.2f} [{low:.2f}, {high:.2f}] ms, ratio {middle / base:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("question", choices=("runs", "cost"))
    {"runs": runs, "cost": cost}[parser.parse_args().question]()
