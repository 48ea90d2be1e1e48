"""What several processes cost beside one, and how far their numbers are apart.

From the root of the repository, on a machine with nothing else to do:

    python benchmarks/ddp.py equal    # draws and weights of 1, 2, 4 and 2 x 2 processes
    python benchmarks/ddp.py cost     # 2 processes of one thread beside one process of two threads
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

BIN = Path(sys.executable).parent
FIT = ["fit", "-c", "configs/depth3.yaml", "--run.figures", "false"]
QUIET = ["--trainer.enable_progress_bar", "false"]


def commands(devices: str, words: list[str]) -> list[list[str]]:
    """One command, or one for each of two launchers on this machine."""
    if devices != "2x2":
        many = ["--trainer.devices", devices, "--trainer.strategy", "ddp"]
        return [[str(BIN / "bfc"), *words, *(many if devices != "1" else [])]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    place += ["--master-port", str(port)]
    return [
        [str(BIN / "torchrun"), *place, "--node-rank", str(node), "-m", "bfc_lightning", *words]
        for node in range(2)
    ]


def fit(root: Path, name: str, devices: str, words: list[str]) -> Path:
    given = [*FIT, *QUIET, "--run.root", str(root), "--run.name", name, *words]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    started = [
        subprocess.Popen(each, env=environment, stdout=subprocess.DEVNULL)
        for each in commands(devices, given)
    ]
    assert [each.wait() for each in started] == [0] * len(started)
    return root / name


def weights(folder: Path) -> torch.Tensor:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.double().reshape(-1) for value in state.values()])


def global_batches(folder: Path, num_shards: int = 4) -> torch.Tensor:
    parts = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    shards = [
        part.chunk(num_shards // len(parts), dim=1)[shard // len(parts)]
        for shard in range(num_shards)
        for part in [parts[shard % len(parts)]]
    ]
    return torch.cat(shards, dim=1)


def equal(root: Path) -> None:
    """Prints, for each number of processes, whether draws are equal and how far weights are."""
    for precision, steps in (("32-true", 50), ("64-true", 100)):
        first: tuple[torch.Tensor, torch.Tensor] | None = None
        for devices in ("1", "2", "4", "2x2"):
            name = f"{precision}-{devices}"
            seen = root / f"{name}.draws"
            words = ["--trainer.precision", precision, "--trainer.max_steps", str(steps)]
            words += ["--trainer.val_check_interval", str(steps), "--run.threads", "1"]
            words += ["--trainer.callbacks+", "tests.interventions.DrawsRecorder"]
            words += ["--trainer.callbacks.folder", str(seen)]
            here = weights(fit(root, name, devices, words)), global_batches(seen)
            first = here if first is None else first
            gap = float((here[0] - first[0]).norm() / first[0].norm())
            same = torch.equal(here[1], first[1])
            print(f"{name}: {steps} steps, draws equal: {same}, weights {gap:.1e}", flush=True)


def cost(root: Path, rounds: int, steps: int) -> None:
    """Prints milliseconds a global batch, medians of alternating rounds, and their ratios."""
    contestants = {
        "1 process, 2 threads": ("1", "2", "fast"),
        "2 processes, 1 thread each": ("2", "1", "fast"),
        "1 process, 2 threads, plain": ("1", "2", "plain"),
        "2 processes, 1 thread each, plain": ("2", "1", "plain"),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, (devices, threads, path) in contestants.items():
            words = ["--run.threads", threads, "--training_path", path, "--num_measures", "0"]
            words += ["--trainer.max_steps", str(steps)]
            folder = fit(root, f"{number}-{devices}-{path}", devices, words)
            content = json.loads((folder / "summary.json").read_text())
            times[name].append(1000 * 512 / content["samples_per_second"])
    base = statistics.median(times["1 process, 2 threads"])
    for name, each in times.items():
        middle, low, high = statistics.median(each), min(each), max(each)
        print(f"{name}: {middle:.2f} [{low:.2f}, {high:.2f}] ms, ratio {middle / base:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=("equal", "cost"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if given.question == "equal":
            equal(Path(root))
        else:
            cost(Path(root), given.rounds, given.steps)


if __name__ == "__main__":
    main()
