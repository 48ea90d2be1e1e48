"""How tests start runs: through `main`, in one process, on the tiny config."""

import json
from collections.abc import Sequence
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


def weights(folder: Path, prefix: str = "network.") -> dict[str, torch.Tensor]:
    """The last weights of a run, or of the replica whose names have this prefix."""
    state = checkpoint(folder)["state_dict"]
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def same_weights(one: Path, other: Path) -> bool:
    first, second = checkpoint(one)["state_dict"], checkpoint(other)["state_dict"]
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights and the same `metrics.csv`, bit for bit."""
    assert same_weights(one, other)
    assert metrics_text(one) == metrics_text(other)


def assert_resumes(root: Path, *argv: str, steps: Sequence[int]) -> None:
    """A run that is interrupted after each of these steps continues as one that is not."""
    assert fit(root, "--run.name", "whole", *argv) == 0
    for step in steps:
        cut = [*argv, "--run.name", f"cut-{step}"]
        assert fit(root, *cut, *intervene("SignalAt", step=step)) == 130
        assert checkpoint(root / f"cut-{step}")["global_step"] == step
        assert fit(root, *cut, "--resume", "auto") == 0
        assert_same_run(root / "whole", root / f"cut-{step}")


def error_line(text: str) -> str:
    """The one line of stderr that reports an error."""
    lines = [line for line in text.splitlines() if line.startswith("bfc: error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0].removeprefix("bfc: error: ")


def error_of(capsys, *argv: str) -> str:
    """The one line in which a command refuses its arguments."""
    capsys.readouterr()
    assert main(list(argv)) == 2, argv
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bfc: error: ")
    assert err.count("\n") == 1
    return err
