"""Runs that are killed at random moments, begun again until they end, and compared with whole ones."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.faults.folders import differences, unreadable
from tests.faults.forked import Command, start

TINY = "tests/configs/tiny.yaml"
LONG = ["--trainer.max_steps", "120", "--trainer.val_check_interval", "5"]
FIT = ["fit", "-c", TINY, *LONG, "--run.figures", "true"]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


@dataclass(frozen=True)
class Kind:
    """What is killed.

    Attributes:
        name: of it.
        words: of the command, without its folder.
        is_fit: one run, that needs `--resume auto`; else a folder of runs.
        is_forked: from a process that has the imports; else started as a user does.
        weight: how often it is tried beside the others.
    """

    name: str
    words: tuple[str, ...]
    is_fit: bool = True
    is_forked: bool = True
    weight: int = 2


KINDS = (
    Kind("fit, fast path", (*FIT, "--training_path", "fast"), weight=6),
    Kind("fit, plain path", (*FIT, "--training_path", "plain"), weight=4),
    Kind("fit, replicas", (*FIT, "--model.num_replicas", "3"), weight=4),
    Kind("fit, 2 processes", (*FIT, *DDP), is_forked=False),
    Kind(
        "compare", ("compare", "-c", "COMPARISON", "--workers", "2"), is_fit=False, is_forked=False
    ),
)
MOMENTS = ("start", "training", "saving", "end")


@dataclass
class Tally:
    """What became of each kill."""

    tried: Counter = field(default_factory=Counter)
    lost: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        form = "{:<18}{:<10}{:<9}{:>7}{:>10}{:>6}"
        table = [form.format("killed", "by", "at", "tried", "survived", "lost")]
        lost = Counter(key for key, _ in self.lost)
        for key in sorted(self.tried):
            tried = self.tried[key]
            table.append(form.format(*key, tried, tried - lost[key], lost[key]))
        total = self.tried.total()
        row = ("together", "", "", total, total - len(self.lost), len(self.lost))
        return [*table, form.format(*row)]


def try_kills(count: int, seed: int, folder: Path) -> Iterator[Tally]:
    """Kills commands.

    Args:
        count: how many.
        seed: of the moments.
        folder: an empty one; what was lost stays in it.

    Yields:
        The tally so far, after every kill.
    """
    chance, tally = random.Random(seed), Tally()
    whole: dict[str, tuple[Path, float]] = {}
    order = [kind for kind in KINDS for _ in range(kind.weight)]
    chance.shuffle(order)
    for kind in KINDS:  # each at least once, however few there are
        order.remove(kind)
    order = [*KINDS, *order]
    for number in range(count):
        kind = order[number % len(order)]
        if kind.name not in whole:
            whole[kind.name] = _undisturbed(kind, folder)
        how = (chance.choice((signal.SIGKILL, signal.SIGTERM)), chance.choice(MOMENTS))
        problem = _try(kind, how, whole[kind.name], folder / f"kill-{number}", chance)
        key = (kind.name, how[0].name, how[1])
        tally.tried[key] += 1
        if problem:
            tally.lost.append((key, f"{problem}: {folder / f'kill-{number}'}"))
        yield tally


def _undisturbed(kind: Kind, folder: Path) -> tuple[Path, float]:
    """A whole run, and the seconds that it takes."""
    root = folder / f"whole-{KINDS.index(kind)}"
    root.mkdir()
    began = time.monotonic()
    command = _start(kind, root)
    assert command.wait(600) == 0, command.printed()
    return root / "logs" / "run", time.monotonic() - began


def _try(
    kind: Kind,
    how: tuple[signal.Signals, str],
    whole: tuple[Path, float],
    root: Path,
    chance: random.Random,
) -> str:
    """One kill; what was lost by it, empty if nothing."""
    signum, moment = how
    reference, seconds = whole
    root.mkdir()
    command = _start(kind, root)
    _wait_for(moment, command, root / "logs" / "run", seconds * chance.random(), chance)
    command.send(signum)
    if command.wait(120) is None:
        command.end()
        return "hangs when it is told to stop"
    command.end()
    problem = ""
    if "Traceback" in command.printed() and signum == signal.SIGTERM:
        problem = "traceback"
    again = _start(kind, root, is_again=True)
    if again.wait(600) != 0:
        again.end()
        return f"does not go on: exit status {again.status}"
    problem = problem or "; ".join([
        *differences(reference, root / "logs" / "run"),
        *unreadable(root / "logs" / "run"),
    ])
    if not problem:
        shutil.rmtree(root)
    return problem


def _wait_for(
    moment: str, command: Command, run: Path, seconds: float, chance: random.Random
) -> None:
    """Waits until the moment has come, or the command has ended before it."""
    if moment == "start":  # before the first checkpoint
        seconds /= 2
    deadline = time.monotonic() + (600 if moment in ("saving", "end") else seconds)
    patience = chance.randint(1, 30)
    while command.poll() is None and time.monotonic() < deadline:
        if moment == "saving" and any(run.rglob(".*.tmp")):
            patience -= 1
            if not patience:
                return
        if moment == "end" and _is_at_its_end(run):
            time.sleep(chance.uniform(0, 0.3))
            return
        time.sleep(0.0002 if moment == "saving" else 0.005)


def _is_at_its_end(run: Path) -> bool:
    """Whether the last step is saved, or the first run of several has finished."""
    for path in (run / "summary.json", *run.glob("runs/*/summary.json")):
        if path.is_file():
            content = json.loads(path.read_text())
            if content["status"] == "finished" or content["steps"] == 120:
                return True
    return False


def _start(kind: Kind, root: Path, *, is_again: bool = False) -> Command:
    words = [_comparison(root) if word == "COMPARISON" else word for word in kind.words]
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


def _comparison(root: Path) -> str:
    """Two learners and two seeds."""
    (root / "long.yaml").write_text("trainer: {max_steps: 120, val_check_interval: 5}\n")
    settings = {
        "base": [str(Path(TINY).resolve()), "long.yaml"],
        "seeds": [0, 1],
        "learners": {"narrow": {"model": {"width": 4}}, "wide": {}},
    }
    (root / "few.yaml").write_text(yaml.safe_dump(settings))
    return str(root / "few.yaml")
