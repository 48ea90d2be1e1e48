"""How tests start runs: through `main`, in one process, on the tiny config."""

import json
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
