"""How tests start runs: through `main`, in one process, on the tiny config."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from bfc_lightning.cli import main

TINY = "tests/configs/tiny.yaml"


def fit(root: Path, *words: str) -> int:
    return main(["fit", "-c", TINY, "--run.root", str(root), *words])


def intervene(name: str, **arguments: object) -> list[str]:
    """Words that add a callback of tests/interventions.py to a run."""
    words = ["--trainer.callbacks+", f"tests.interventions.{name}"]
    for key, value in arguments.items():
        words += [f"--trainer.callbacks.{key}", str(value)]
    return words


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same_weights(one: Path, other: Path) -> bool:
    first, second = checkpoint(one)["state_dict"], checkpoint(other)["state_dict"]
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def fit_with_one_and_two_processes(root: Path, *words: str) -> list[dict]:
    """The final weights of the same float64 run in one process and in two, started by DDP."""
    command = [str(Path(sys.executable).with_name("bfc")), "fit", "-c", TINY]
    command += ["--run.root", str(root), "--trainer.precision", "64-true"]
    command += ["--trainer.strategy", "ddp", *words]
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
