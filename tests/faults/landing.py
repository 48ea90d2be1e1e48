"""Where a kill lands: the moment that it waits for, whom it reaches, what was saved by then."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.identity import read_checkpoint
from tests.faults.forked import Command
from tests.faults.kinds import SAVED_EVERY, STEPS

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# How often each is drawn: what is killed when all is saved proves little.
MOMENTS = {"start": 2, "training": 4, "saving": 3, "end": 1}


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        signum: by which signal.
        moment: one of `MOMENTS`.
        is_of_child: whether it goes to a child of the first process.
        share: from 0 to 1, how late in its moment it comes.
        patience: how many looks at a file that is being saved it lets pass.
    """

    signum: signal.Signals
    moment: str
    is_of_child: bool
    share: float
    patience: int

    def __str__(self) -> str:
        whom = "a child" if self.is_of_child else "the first process"
        return f"{self.signum.name} to {whom} at {self.moment}"


def wait_for(kill: Kill, command: Command, *, run: Path, seconds: float, is_fit: bool) -> None:
    """Waits until the moment has come, or the command has ended before it.

    Args:
        kill: that is to come.
        command: that it goes to.
        run: the folder of the run or of the runs.
        seconds: what the whole takes; the clock tells how far several runs are.
        is_fit: whether it is one run, of which the steps do.
    """
    began, patience = time.monotonic(), kill.patience
    while command.poll() is None:
        share = (time.monotonic() - began) / seconds
        if kill.moment == "start" and share >= kill.share / 2:
            return
        is_late = is_fit or share >= kill.share
        if kill.moment == "training" and is_late and _is_far(run, kill.share if is_fit else 0.0):
            return
        if kill.moment == "saving":
            patience -= _is_saving(run)
            if patience <= 0:
                return
        if kill.moment == "end" and _is_at_its_end(run):
            time.sleep(_END_SECONDS * kill.share**2)
            return
        time.sleep(0.0005)


# What comes after the last step takes a forked run about so long.
_END_SECONDS = 0.1


def _is_far(run: Path, share: float) -> bool:
    """Whether something is saved, and of one run so much that it is in the middle.

    `summary.json` has the steps of the checkpoint that is saved next: those before are saved.
    """
    goal = 2 * SAVED_EVERY + share * 0.6 * STEPS
    return any(steps >= goal for _, steps in _summaries(run))


def _is_saving(run: Path) -> bool:
    """Whether a file is half written, of a run or of a run of several."""
    patterns = (".*.tmp", "*/.*.tmp", "*/*/.*.tmp", "*/*/*/.*.tmp")
    return any(path for pattern in patterns for path in run.glob(pattern))


def _is_at_its_end(run: Path) -> bool:
    """Whether the last step is done, or the first run of several has finished."""
    return any(status == "finished" or steps == STEPS for status, steps in _summaries(run))


def _summaries(run: Path) -> Iterator[tuple[str, int]]:
    """Status and steps of a run, or of each of several that has begun."""
    for path in (run / "summary.json", *run.glob("*/*/summary.json")):
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            continue
        yield content["status"], content["steps"]


def send(kill: Kill, command: Command) -> bool:
    """Sends the signal.

    Args:
        kill: of which it is.
        command: that it goes to.

    Returns:
        Whether it has reached a process that was alive.
    """
    if command.poll() is not None:
        return False
    if not kill.is_of_child:
        return command.send(kill.signum)
    for pid in children_of(command.pid)[-1:]:
        try:
            os.kill(pid, kill.signum)
        except ProcessLookupError:  # it has ended by itself
            return False
        return True
    return False


def children_of(parent: int) -> list[int]:
    """Processes at work for another one, where the system tells."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            words = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if int(owner) == parent and state != "Z" and "resource_tracker" not in words:
            found.append(int(folder.name))
    return sorted(found)


def unsaved(whole: Path, run: Path) -> list[str]:
    """Which runs have not saved their last step.

    As steps that are saved stay saved, those that are missing now were missing before.

    Args:
        whole: the folder of an undisturbed run, or of several.
        run: the same of one that is or was killed.
    """
    paths = [path.relative_to(whole) for path in whole.rglob("last.ckpt")]
    assert paths
    return sorted(str(path) for path in paths if _saved_step(run / path) < STEPS)


def _saved_step(path: Path) -> int:
    try:
        return read_checkpoint(path)["global_step"]
    except (FileNotFoundError, RunError):  # not there, or not whole
        return 0


def wrong_end(
    kill: Kill, status: int, *, printed: str, is_fit: bool, is_begun: bool, is_saved: bool
) -> str:
    """What is wrong with how a command ended that a kill has reached; empty if nothing.

    Args:
        kill: that has reached it.
        status: of its exit, -N after signal N.
        printed: by it.
        is_fit: whether it is one run.
        is_begun: whether any step was saved.
        is_saved: whether all steps were, in the end.
    """
    is_kill = kill.signum == signal.SIGKILL
    if "Traceback" in printed and not is_kill:
        return "traceback"
    is_deaf = not is_begun or is_saved  # SIGTERM is received from before training until after it
    right = {
        0: is_saved,
        128 + signal.SIGTERM: not is_kill,
        -signal.SIGTERM: not is_kill and is_deaf,
    }
    if kill.is_of_child and is_fit:
        right = {0: is_saved, 1: is_kill or is_deaf, 128 + signal.SIGTERM: not is_kill}
    elif kill.is_of_child:
        right = {0: is_saved, 1: " runs failed; again: " in printed}
    elif is_kill:
        right = {-signal.SIGKILL: True}
    return "" if right.get(status) else f"exit status {status} after {kill.signum.name}"
