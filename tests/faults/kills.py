"""Commands killed at random moments, begun again until they end, and compared with whole ones.

Everything must be the same bit for bit: weights, optimisers, positions in the sample stream, logged
rows. As a batch is a function of its position alone, weights that are the same have seen the same
samples, none of them twice. Clocks, and what TensorBoard's files are called, may differ.
"""

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
STEPS = 120
LONG = ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "5"]
FIT = ["fit", "-c", TINY, *LONG]
FIGURES = ["--run.figures", "true"]
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
    Kind("fit, fast path", (*FIT, *FIGURES, "--training_path", "fast"), weight=6),
    Kind("fit, plain path", (*FIT, "--training_path", "plain"), weight=4),
    Kind("fit, replicas", (*FIT, "--model.num_replicas", "3"), weight=4),
    Kind("fit, 2 processes", (*FIT, *DDP), is_forked=False, has_children=True, weight=3),
    _of_runs("compare, together", "compare", "-c", "compare.yaml", "--together", "true"),
    _of_runs("compare, alone", "compare", "-c", "compare.yaml", "--together", "false"),
    _of_runs("sweep", "sweep", "-c", "sweep.yaml"),
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
MOMENTS = ("start", "training", "saving", "end")
_WORK_SECONDS = 60.0  # of a processor; more is a hang


@dataclass(frozen=True)
class Kill:
    """One kill: by which signal, at which moment, of the first process or of a child."""

    signum: signal.Signals
    moment: str
    is_of_child: bool
    share: float
    patience: int

    def __str__(self) -> str:
        whom = "a child" if self.is_of_child else "the first process"
        return f"{self.signum.name} to {whom} at {self.moment}"


@dataclass
class Tally:
    """What became of each kill."""

    tried: Counter = field(default_factory=Counter)
    lost: list[tuple[tuple[str, str], str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        form = "{:<20}{:<9}{:>7}{:>15}{:>6}"
        table = [form.format("killed", "by", "tried", "resumed equal", "lost")]
        lost = Counter(key for key, _ in self.lost)
        for key in sorted(self.tried):
            tried = self.tried[key]
            table.append(form.format(*key, tried, tried - lost[key], lost[key]))
        total = self.tried.total()
        row = ("together", "", total, total - len(self.lost), len(self.lost))
        return [*table, form.format(*row)]


def try_kills(count: int, seed: int, folder: Path, only: str = "") -> Iterator[Tally]:
    """Kills commands.

    Args:
        count: how many.
        seed: of the moments.
        folder: an empty one; what was lost stays in it.
        only: kinds with this in their name.

    Yields:
        The tally so far, after every kill.
    """
    chance, tally = random.Random(seed), Tally()
    whole: dict[str, tuple[Path, float]] = {}
    kinds = [kind for kind in KINDS if only in kind.name]
    order = [kind for kind in kinds for _ in range(kind.weight - 1)]
    chance.shuffle(order)
    order = [*kinds, *order]  # each at least once, however few there are
    for number in range(count):
        kind = order[number % len(order)]
        if kind.name not in whole:
            whole[kind.name] = _undisturbed(kind, folder)
        kill = Kill(
            chance.choice(SIGNALS),
            chance.choice(MOMENTS),
            kind.has_children and chance.random() < 0.4,
            chance.random(),
            chance.randint(1, 30),
        )
        problem = _try(kind, kill, whole[kind.name], folder / f"kill-{number}")
        key = (kind.name, kill.signum.name)
        tally.tried[key] += 1
        if problem:
            tally.lost.append((key, f"{kill}: {problem}: {folder / f'kill-{number}'}"))
        yield tally


def _undisturbed(kind: Kind, folder: Path) -> tuple[Path, float]:
    """A whole run, and the seconds that it takes."""
    root = folder / f"whole-{KINDS.index(kind)}"
    root.mkdir()
    began = time.monotonic()
    command = _start(kind, root)
    status = command.wait_working(_WORK_SECONDS)
    command.end()
    assert status == 0, command.printed()
    return root / "logs" / "run", time.monotonic() - began


def _try(kind: Kind, kill: Kill, whole: tuple[Path, float], root: Path) -> str:
    """One kill; what was lost by it, empty if nothing."""
    reference, seconds = whole
    run = root / "logs" / "run"
    root.mkdir()
    command = _start(kind, root)
    _wait_for(kill, command, run, seconds)
    _send(kill, command)
    if command.wait_working(_WORK_SECONDS) is None:
        command.end()
        return "hangs when it is told to stop"
    command.end()
    if "Traceback" in command.printed() and kill.signum == signal.SIGTERM:
        return "traceback"
    again = _start(kind, root, is_again=True)
    status = again.wait_working(_WORK_SECONDS)
    again.end()
    if status != 0:
        return f"does not go on: exit status {status}"
    problem = "; ".join(unreadable(run) or differences(reference, run))
    if not problem:
        shutil.rmtree(root)
    return problem


def _wait_for(kill: Kill, command: Command, run: Path, seconds: float) -> None:
    """Waits until the moment has come, or the command has ended before it."""
    is_seen = kill.moment in ("saving", "end")
    latest = 1800 if is_seen else seconds * kill.share * (0.5 if kill.moment == "start" else 1)
    deadline = time.monotonic() + latest
    patience = kill.patience
    while command.poll() is None and time.monotonic() < deadline:
        if kill.moment == "saving" and _is_saving(run):
            patience -= 1
            if not patience:
                return
        if kill.moment == "end" and _is_at_its_end(run):
            time.sleep(0.3 * kill.share)
            return
        time.sleep(0.0005 if kill.moment == "saving" else 0.005)


def _is_saving(run: Path) -> bool:
    """Whether a file is half written, of a run or of a run of several."""
    patterns = (".*.tmp", "*/.*.tmp", "*/*/.*.tmp", "*/*/*/.*.tmp")
    return any(path for pattern in patterns for path in run.glob(pattern))


def _is_at_its_end(run: Path) -> bool:
    """Whether the last step is saved, or the first run of several has finished."""
    for path in (run / "summary.json", *run.glob("*/*/summary.json")):
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            continue
        if content["status"] == "finished" or content["steps"] == STEPS:
            return True
    return False


def _send(kill: Kill, command: Command) -> None:
    children = children_of(command.pid) if kill.is_of_child else []
    if not children:
        command.send(kill.signum)
    for pid in children[-1:]:
        try:
            os.kill(pid, kill.signum)
        except ProcessLookupError:  # it has ended by itself
            return
        if kill.signum == signal.SIGTERM:
            command.wait(60)


def children_of(parent: int) -> list[int]:
    """Processes at work for another one, where the system tells."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            owner = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if owner == parent and "resource_tracker" not in words:
            found.append(int(folder.name))
    return sorted(found)


def _start(kind: Kind, root: Path, *, is_again: bool = False) -> Command:
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
    """Two widths, and three seeds of each, in a file of its own."""
    (root / "long.yaml").write_text(f"trainer: {{max_steps: {STEPS}, val_check_interval: 5}}\n")
    parts = {
        "compare.yaml": {"learners": {"narrow": {"model": {"width": 4}}, "wide": {}}},
        "sweep.yaml": {"grid": {"model.width": [4, 8]}},
    }
    base = [str(Path(TINY).resolve()), "long.yaml"]
    settings = {"base": base, "seeds": [0, 1, 2], "workers": 2, **parts[name]}
    path = root / name
    path.write_text(yaml.safe_dump(settings))
    return path
