"""Runs that were stopped because they took too long or too much memory, and that stay stopped."""

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from bfc_lightning.experiments.plan import Limits, PlannedRun
from bfc_lightning.files import write_json

OUT_OF_TIME, OUT_OF_MEMORY = "out_of_time", "out_of_memory"
STOPS = (OUT_OF_TIME, OUT_OF_MEMORY)
STOPPED = "stopped"
LACKED_MEMORY = 4
"""Exit status of a run that asked for more memory than there was."""
_KEYS = {OUT_OF_TIME: "seconds", OUT_OF_MEMORY: "gigabytes"}


Commands = Callable[[PlannedRun], Sequence[Sequence[str]]]
"""The words after `bfc` of each command that makes a run; the first one trains."""


def remember_stop(
    run: PlannedRun, folder: Path, status: str, *, limits: Limits, commands: Commands
) -> None:
    """Notes under which limit a run was stopped; nothing where the machine itself had no more.

    Args:
        run: which.
        folder: of the experiment.
        status: `out_of_time` or `out_of_memory`.
        limits: of the experiment.
        commands: of its runs.
    """
    limit = getattr(limits, _KEYS[status])
    if limit is not None:
        (folder / STOPPED).mkdir(exist_ok=True)
        note = {"status": status, "limit": limit, "made_of": _made_of(commands(run)[0], folder)}
        write_json(folder / STOPPED / f"{run.name}.json", note)


def stop_of(run: PlannedRun, folder: Path, *, limits: Limits, commands: Commands) -> str | None:
    """Why a run was stopped earlier, and would be stopped again.

    Args:
        run: which.
        folder: of the experiment.
        limits: of the experiment, now.
        commands: of its runs, now.

    Returns:
        Its status; None where it was not stopped, or its limit has grown or gone since, or its
        settings have changed.
    """
    path = folder / STOPPED / f"{run.name}.json"
    if not path.is_file():
        return None
    stop = json.loads(path.read_text(encoding="utf-8"))
    limit = getattr(limits, _KEYS[stop["status"]])
    may_do_better = limit is None or limit > stop["limit"]
    if may_do_better or stop.get("made_of") != _made_of(commands(run)[0], folder):
        return None
    return str(stop["status"])


def forget_stop(name: str, folder: Path) -> bool:
    """Deletes the note of a run that is to be made again.

    Args:
        name: of the run.
        folder: of the experiment.

    Returns:
        Whether there was one.
    """
    note = folder / STOPPED / f"{name}.json"
    was_there = note.is_file()
    note.unlink(missing_ok=True)
    return was_there


def _made_of(command: Sequence[str], folder: Path) -> str:
    """A digest of a command with the contents of its configs, wherever the folder lies."""
    parts = [
        Path(word).read_text(encoding="utf-8")
        if before == "-c" and Path(word).is_file()
        else word.replace(str(folder), "")
        for before, word in pairwise(command)
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
