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
MOMENTS = ("any", "training", "training", "saving")
_LONG = {"trainer": {"max_steps": 120, "val_check_interval": 5}}
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
# Every command that is killed, and how often relative to the others.
KINDS = {
    "fit, eager": ((*_FIT, "--engine", "eager"), 3),
    "fit, autograd": ((*_FIT, "--engine", "autograd"), 3),
    "fit, replicas": ((*_FIT, "--model.num_replicas", "3"), 2),
    "fit, figures": ((*_FIT, "--run.figures", "true"), 1),
    "compare": (("compare", "-c", "compare.yaml"), 5),
}


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

    `num_commands` counts commands; one is killed up to three times before it may end.
    """

    landed: Counter = field(default_factory=Counter)
    unfinished: Counter = field(default_factory=Counter)
    num_commands: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        rows = [("killed", "by", "kills", "unfinished")]
        rows += [(*key, self.landed[key], self.unfinished[key]) for key in sorted(self.landed)]
        rows.append(("all", "", self.landed.total(), self.unfinished.total()))
        table = ["{:<15}{:<9}{:>7}{:>12}".format(*row) for row in rows]
        return [*table, f"{self.num_commands} commands, {len(self.lost)} lost"]


def try_kills(
    count: int,
    *,
    seed: int,
    folder: Path,
    only: str = "",
    signals: Sequence[Signals] = SIGNALS,
    moments: Sequence[str] = MOMENTS,
) -> Iterator[Tally]:
    """Kills commands until `count` signals have landed; yields the tally after each command.

    `folder` is empty, and in the end holds what was lost.
    """
    chance, tally = random.Random(seed), Tally()
    weights = {kind: weight for kind, (_, weight) in KINDS.items() if only in kind}
    whole: dict[str, tuple[Path, float]] = {}
    while tally.landed.total() < count:
        (kind,) = chance.choices(list(weights), list(weights.values()))
        if kind not in whole:
            whole[kind] = _undisturbed(kind, folder / f"whole-{len(whole)}")
        kills = [
            Kill(
                chance.choice(signals),
                chance.choice(moments),
                chance.random(),
                kind == "compare" and chance.random() < 0.25,
            )
            for _ in range(min(chance.randint(1, _MOST_KILLS), count - tally.landed.total()))
        ]
        root = folder / f"kill-{tally.num_commands}"
        problem = _try(kind, kills, whole[kind], root, tally)
        tally.num_commands += 1
        if problem:
            tally.lost.append((kind, f"{problem} ({'; '.join(map(str, kills))}): {root}"))
        else:
            shutil.rmtree(root)
        yield tally


def _begin(kind: str, root: Path, log: str) -> Command:
    """Starts a command; its run or experiment is `logs/run` below `root`."""
    root.mkdir(exist_ok=True)
    (root / "long.yaml").write_text(yaml.safe_dump(_LONG))
    (root / "compare.yaml").write_text(yaml.safe_dump(_EXPERIMENT))
    files = {name: str(root / name) for name in ("long.yaml", "compare.yaml")}
    argv = [files.get(each, each) for each in KINDS[kind][0]]
    return start([*argv, "--run.root", str(root / "logs"), "--run.name", "run"], root / log)


def _undisturbed(kind: str, root: Path) -> tuple[Path, float]:
    """The folder of an undisturbed run, and the seconds that it takes."""
    began = time.monotonic()
    command = _begin(kind, root, "whole.txt")
    code = command.wait(_HANG_SECONDS)
    command.end()
    assert code == 0, command.printed()
    return root / "logs" / "run", time.monotonic() - began


def _try(
    kind: str, kills: Sequence[Kill], whole: tuple[Path, float], root: Path, tally: Tally
) -> str:
    """Kills a command, repeats it until it ends, and says what was lost; empty if nothing."""
    reference, seconds = whole
    run = root / "logs" / "run"
    for number, kill in enumerate(kills):
        command = _begin(kind, root, f"killed-{number}.txt")
        _wait_for(kill, command, run, seconds)
        has_landed = _send(kill, command)
        code = command.wait(_HANG_SECONDS)
        command.end()
        is_unfinished = not _is_saved(reference, run)
        if has_landed:
            tally.landed[kind, kill.signum.name] += 1
            tally.unfinished[kind, kill.signum.name] += is_unfinished
        problem = _wrong_end(kill, code, run, command.printed(), is_unfinished=is_unfinished)
        if problem:
            return problem
    command = _begin(kind, root, "last.txt")
    code = command.wait(_HANG_SECONDS)
    command.end()
    if code != 0:
        return f"does not resume: exit code {code}"
    return "; ".join(unreadable(run) or differences(reference, run))


def _wait_for(kill: Kill, command: Command, run: Path, seconds: float) -> None:
    """Waits for the moment of a kill, or for the end of the command."""
    if kill.moment != "any":
        while command.is_alive() and not any(run.rglob("last.ckpt")):
            time.sleep(0.002)
        seconds /= 2
    command.wait(kill.share * seconds)
    deadline = time.monotonic() + seconds
    while kill.moment == "saving" and command.is_alive() and time.monotonic() < deadline:
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
    names = [path.relative_to(whole) for path in whole.rglob("*.json")]
    return all((run / name).is_file() for name in names) and all(
        '"status": "finished"' in path.read_text() for path in run.rglob("summary.json")
    )


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
    if kill.is_of_worker:
        is_right = code in (0, 1)
    else:
        is_right = code == 128 + kill.signum or (code == 0 and not is_unfinished)
    return "" if is_right else f"exit code {code} after {kill.signum.name}"
