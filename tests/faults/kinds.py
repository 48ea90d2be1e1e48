"""What is killed: commands of every kind that trains, small ones, each in a folder of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.faults.forked import Command, start
from tests.runs import TINY

STEPS = 120
SAVED_EVERY = 5
LONG = ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", str(SAVED_EVERY)]
FIT = ["fit", "-c", TINY, *LONG]
FAST = ["--training_path", "fast"]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


@dataclass(frozen=True)
class Kind:
    """What is killed.

    Attributes:
        name: of it.
        words: of the command, without its folder.
        is_fit: one run, that needs `--resume auto`; else a folder of runs.
        is_forked: from a process that has the imports; else started as a user does.
        has_children: whether it starts processes, of which one may be killed in its place.
        weight: how often it is tried beside the others.
    """

    name: str
    words: tuple[str, ...]
    is_fit: bool = True
    is_forked: bool = True
    has_children: bool = False
    weight: int = 2


def _of_runs(name: str, *words: str) -> Kind:
    return Kind(name, words, is_fit=False, has_children=True)


KINDS = (
    Kind("fit, fast path", (*FIT, *FAST), weight=4),
    Kind("fit, pictures", (*FIT, *FAST, "--run.figures", "true")),
    Kind("fit, plain path", (*FIT, "--training_path", "plain"), weight=4),
    Kind("fit, replicas", (*FIT, "--model.num_replicas", "3"), weight=4),
    Kind("fit, 2 processes", (*FIT, *DDP), is_forked=False, has_children=True, weight=3),
    _of_runs("compare, together", "compare", "-c", "compare.yaml", "--together", "true"),
    _of_runs("compare, alone", "compare", "-c", "compare.yaml", "--together", "false"),
    _of_runs("sweep", "sweep", "-c", "sweep.yaml"),
)


def begin(kind: Kind, root: Path, *, is_again: bool = False) -> Command:
    """Starts a command of a kind.

    Args:
        kind: of the command.
        root: its folder; the run, or the folder of runs, is `logs/run` in it.
        is_again: whether it goes on with what is there.
    """
    words = list(kind.words)
    if not kind.is_fit:
        words[2] = str(_experiment(root, words[2]))
    words += ["--run.root", str(root / "logs"), "--run.name", "run"]
    if is_again and kind.is_fit:
        words += ["--resume", "auto"]
    log = root / ("again.txt" if is_again else "killed.txt")
    if kind.is_forked:
        return start(words, log)
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.command", *words],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    process.returncode = 0  # waited for by `Command`
    return Command(words, process.pid, log)


def _experiment(root: Path, name: str) -> Path:
    """Two widths, and two seeds of each, in a file of its own."""
    steps = f"max_steps: {STEPS}, val_check_interval: {SAVED_EVERY}"
    (root / "long.yaml").write_text(f"trainer: {{{steps}}}\n")
    parts = {
        "compare.yaml": {"learners": {"narrow": {"model": {"width": 4}}, "wide": {}}},
        "sweep.yaml": {"grid": {"model.width": [4, 8]}},
    }
    base = [str(Path(TINY).resolve()), "long.yaml"]
    settings = {"base": base, "seeds": [0, 1], "workers": 2, **parts[name]}
    path = root / name
    path.write_text(yaml.safe_dump(settings))
    return path
