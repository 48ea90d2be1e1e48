"""Commands killed at random moments, repeated until they end, and compared with undisturbed ones.

Everything must agree bit for bit: weights, optimizers, positions in the stream of samples, logged
rows. Clocks and the names of TensorBoard's files may differ.
"""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

import yaml

from tests.faults.folders import differences, unreadable
from tests.faults.forked import Command, start
from tests.runs import TINY

SIGNALS = (SIGKILL, SIGINT, SIGTERM)
STEPS, SAVED_EVERY = 120, 5
_LONG = {"trainer": {"max_steps": STEPS, "val_check_interval": SAVED_EVERY}}
_FIT = ("fit", "-c", TINY, "-c", "long.yaml", "--resume", "auto")
_HANG_SECONDS = 180.0
_MOST_KILLS = 3  # of one run, before it may end
_EXPERIMENT = {
    "base": [str(Path(TINY).resolve()), "long.yaml"],
    "seeds": [0, 1],
    "learners": {
        "narrow": {"model": {"width": 4}},
        "tuned": {"tune": {"model.width": [4, 6]}},
        "kernel": {"baseline": {"class_path": "KernelRidge"}, "data": {"num_train_samples": 64}},
    },
    "test": True,
    "workers": 2,
}


@dataclass(frozen=True)
class Kind:
    """A command that is killed; `weight` is how often, relative to the others."""

    name: str
    argv: tuple[str, ...]
    weight: int

    @property
    def is_fit(self) -> bool:
        """Whether it is one run."""
        return self.argv[0] == "fit"


KINDS = (
    Kind("fit, fast", (*_FIT, "--training_path", "fast"), 3),
    Kind("fit, plain", (*_FIT, "--training_path", "plain"), 3),
    Kind("fit, replicas", (*_FIT, "--model.num_replicas", "3"), 2),
    Kind("fit, figures", (*_FIT, "--run.figures", "true"), 1),
    Kind("compare", ("compare", "-c", "compare.yaml"), 5),
)


@dataclass(frozen=True)
class Kill:
    """A signal to the command, or to one of its workers, a share of the run time after a moment.

    Moments are `any`, `training` (after the first checkpoint) and `saving` (of a file).
    """

    signum: Signals
    moment: str
    share: float
    is_of_worker: bool = False

    def __str__(self) -> str:
        whom = "a worker" if self.is_of_worker else "the command"
        return f"{self.signum.name} to {whom}, {self.moment} {self.share:.2f}"


@dataclass
class Tally:
    """Signals that reached a live process, those of them that left work to do, and what was lost.

    `runs` counts commands; one is killed up to three times before it may end.
    """

    landed: Counter = field(default_factory=Counter)
    unfinished: Counter = field(default_factory=Counter)
    runs: Counter = field(default_factory=Counter)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        rows = [("killed", "by", "kills", "unfinished")]
        rows += [(*key, self.landed[key], self.unfinished[key]) for key in sorted(self.landed)]
        rows.append(("all", "", self.landed.total(), self.unfinished.total()))
        table = ["{:<15}{:<9}{:>7}{:>12}".format(*row) for row in rows]
        return [*table, f"{self.runs.total()} commands, {len(self.lost)} lost"]


def try_kills(
    count: int,
    *,
    seed: int,
    folder: Path,
    only: str = "",
    signals: Sequence[Signals] = SIGNALS,
    moments: Sequence[str] = ("any", "training", "training", "saving"),
) -> Iterator[Tally]:
    """Kills commands until `count` signals have landed; yields the tally after each command.

    `folder` is empty, and in the end holds what was lost.
    """
    chance, tally = random.Random(seed), Tally()
    kinds = [kind for kind in KINDS if only in kind.name]
    whole: dict[str, tuple[Path, float]] = {}
    number = 0
    while tally.landed.total() < count:
        kind = chance.choices(kinds, [kind.weight for kind in kinds])[0]
        if kind.name not in whole:
            whole[kind.name] = _undisturbed(kind, folder / f"whole-{KINDS.index(kind)}")
        kills = [
            Kill(
                chance.choice(signals),
                chance.choice(moments),
                chance.random(),
                not kind.is_fit and chance.random() < 0.25,
            )
            for _ in range(min(chance.randint(1, _MOST_KILLS), count - tally.landed.total()))
        ]
        root = folder / f"kill-{number}"
        problem = _try(kind, kills, whole[kind.name], root, tally)
        tally.runs[kind.name] += 1
        if problem:
            tally.lost.append((kind.name, f"{problem} ({'; '.join(map(str, kills))}): {root}"))
        else:
            shutil.rmtree(root)
        number += 1
        yield tally


def begin(kind: Kind, root: Path, log: str) -> Command:
    """Starts a command; its run or experiment is `logs/run` below `root`."""
    root.mkdir(exist_ok=True)
    (root / "long.yaml").write_text(yaml.safe_dump(_LONG))
    (root / "compare.yaml").write_text(yaml.safe_dump(_EXPERIMENT))
    files = {name: str(root / name) for name in ("long.yaml", "compare.yaml")}
    argv = [files.get(word, word) for word in kind.argv]
    return start([*argv, "--run.root", str(root / "logs"), "--run.name", "run"], root / log)


def _undisturbed(kind: Kind, root: Path) -> tuple[Path, float]:
    """The folder of an undisturbed run, and the seconds that it takes."""
    began = time.monotonic()
    command = begin(kind, root, "whole.txt")
    code = command.wait(_HANG_SECONDS)
    command.end()
    assert code == 0, command.printed()
    return root / "logs" / "run", time.monotonic() - began


def _try(
    kind: Kind, kills: Sequence[Kill], whole: tuple[Path, float], root: Path, tally: Tally
) -> str:
    """Kills a command, repeats it until it ends, and says what was lost; empty if nothing."""
    reference, seconds = whole
    run = root / "logs" / "run"
    for number, kill in enumerate(kills):
        command = begin(kind, root, f"killed-{number}.txt")
        _wait_for(kill, command, run, seconds)
        has_landed = _send(kill, command)
        code = command.wait(_HANG_SECONDS)
        command.end()
        is_unfinished = not _is_saved(reference, run)
        if has_landed:
            tally.landed[kind.name, kill.signum.name] += 1
            tally.unfinished[kind.name, kill.signum.name] += is_unfinished
        problem = _wrong_end(kill, code, run, command.printed(), is_unfinished=is_unfinished)
        if problem:
            return problem
    command = begin(kind, root, "last.txt")
    code = command.wait(_HANG_SECONDS)
    command.end()
    if code != 0:
        return f"does not resume: exit code {code}"
    return "; ".join(unreadable(run) or differences(reference, run))


def _wait_for(kill: Kill, command: Command, run: Path, seconds: float) -> None:
    """Waits for the moment of a kill, or for the end of the command."""
    if kill.moment != "any":
        while command.poll() is None and not any(run.rglob("last.ckpt")):
            time.sleep(0.002)
        seconds /= 2
    command.wait(kill.share * seconds)
    deadline = time.monotonic() + seconds
    while kill.moment == "saving" and command.poll() is None and time.monotonic() < deadline:
        if any(run.rglob(".*.tmp")):
            return


def _send(kill: Kill, command: Command) -> bool:
    """Sends the signal; returns whether it reached a live process."""
    if not kill.is_of_worker:
        return command.send(kill.signum)
    for server in _children(command.pid):
        for worker in _children(server):
            with suppress(ProcessLookupError):
                os.kill(worker, kill.signum)
                return True
    return False


def _children(parent: int) -> list[int]:
    """The live child processes of a process, as Linux lists them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, owner = path.read_text().rpartition(")")[2].split()[:2]
            if int(owner) == parent and state != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def _is_saved(whole: Path, run: Path) -> bool:
    """Whether every run has finished that finishes in an undisturbed command."""
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.suffix == ".json"}
    if not all((run / name).is_file() for name in names):
        return False
    return all('"status": "finished"' in path.read_text() for path in run.rglob("summary.json"))


def _wrong_end(
    kill: Kill, code: int | None, run: Path, printed: str, *, is_unfinished: bool
) -> str:
    """What is wrong with how a killed command ended; empty if nothing."""
    if code is None:
        return "hangs"
    if code == -SIGKILL == -kill.signum or not any(run.rglob("last.ckpt")):
        return ""  # before the first step, a signal may come before anything can receive it
    if "Traceback" in printed:
        return "traceback"
    right = {128 + kill.signum: True, 0: not is_unfinished}
    if kill.is_of_worker:
        right = {0: True, 1: True}
    return "" if right.get(code) else f"exit code {code} after {kill.signum.name}"
