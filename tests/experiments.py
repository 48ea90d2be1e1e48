"""Experiments of tiny learners, for tests."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from bfc_lightning.cli import main

TINY = Path("tests/configs/tiny.yaml").resolve()
SHORT = {"num_measures": 0, "trainer": {"max_steps": 20, "val_check_interval": 10}}
NARROW_AND_WIDE = {"narrow": {"model": {"width": 4}}, "wide": {}}
LR = "model.optimizer.init_args.lr"


def write(folder: Path, name: str = "few", **content: object) -> Path:
    """The file of an experiment: by default, two seeds of two learners that take 20 steps."""
    (folder / "short.yaml").write_text(yaml.safe_dump(SHORT))
    default = {} if {"learners", "grid", "points"} & set(content) else {"learners": NARROW_AND_WIDE}
    settings = {
        "base": [str(TINY), "short.yaml"],
        "seeds": [0, 1],
        "run": {"root": str(folder / "logs")},
        "workers": 1,
        **default,
        **content,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def compare(path: Path, *argv: str, command: str = "compare") -> int:
    return main([command, "-c", str(path), *argv])


def callback(name: str, **arguments: object) -> Mapping[str, object]:
    """Settings that add a callback of tests/interventions.py."""
    entry = {"class_path": f"tests.interventions.{name}", "init_args": arguments}
    return {"trainer": {"callbacks": [entry]}}


def gate(folder: Path) -> tuple[Path, Mapping[str, object]]:
    """A file, and settings with which runs wait for it after their first checkpoint."""
    go = folder / "go"
    return go, callback("WaitAt", step=13, ready=str(folder / "ready"), go=str(go))
