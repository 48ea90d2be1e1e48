"""How tests start runs: through `main`, in one process, on the tiny config."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from bfc_lightning.cli import main

TINY = "tests/configs/tiny.yaml"
DOUBLE = ["--trainer.precision", "64-true"]
# A run that only trains, for tests of the training alone.
BARE = ["--num_measures", "0", "--data.num_val_samples", "4", "--data.eval_batch_size", "4"]


def fit(root: Path, *argv: str) -> int:
    return main(["fit", "-c", TINY, "--run.root", str(root), *argv])


def user_callback(name: str, **arguments: object) -> list[str]:
    """Arguments that add a callback to a run."""
    argv = ["--trainer.callbacks+", name]
    for key, value in arguments.items():
        argv += [f"--trainer.callbacks.{key}", str(value)]
    return argv


def intervene(name: str, **arguments: object) -> list[str]:
    """Arguments that add a callback of tests/interventions.py to a run."""
    return user_callback(f"tests.interventions.{name}", **arguments)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def metrics_text(folder: Path) -> str:
    return (folder / "metrics.csv").read_text()


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same_weights(one: Path, other: Path) -> bool:
    first, second = checkpoint(one)["state_dict"], checkpoint(other)["state_dict"]
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights and the same `metrics.csv`, bit for bit."""
    assert same_weights(one, other)
    assert metrics_text(one) == metrics_text(other)


def error_line(text: str) -> str:
    """The one line of stderr that reports an error."""
    lines = [line for line in text.splitlines() if line.startswith("bfc: error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0].removeprefix("bfc: error: ")


def fit_with_one_and_two_processes(root: Path, *argv: str) -> list[dict]:
    """The final weights of the same float64 run in one process and in two, started by DDP."""
    command = [sys.executable, "-m", "bfc_lightning", "fit", "-c", TINY]
    command += ["--run.root", str(root), *DOUBLE, "--trainer.strategy", "ddp", *argv]
    for devices in ("1", "2"):
        done = subprocess.run(
            [*command, "--run.name", devices, "--trainer.devices", devices],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in root.iterdir()) == ["1", "2"]
    return [checkpoint(root / name)["state_dict"] for name in ("1", "2")]
