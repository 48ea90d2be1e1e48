"""Runs that were stopped because they took too long or too much memory, and that stay stopped."""

import json
from pathlib import Path

from bfc_lightning.experiments.plan import Limits, PlannedRun
from bfc_lightning.files import write_json

OUT_OF_TIME, OUT_OF_MEMORY = "out_of_time", "out_of_memory"
STOPPED = "stopped"
LACKED_MEMORY = 4
"""Exit status of a run that asked for more memory than there was."""
_KEYS = {OUT_OF_TIME: "seconds", OUT_OF_MEMORY: "gigabytes"}


def remember_stop(run: PlannedRun, folder: Path, status: str, limits: Limits) -> None:
    """Notes under which limit a run was stopped; nothing where the machine itself had no more.

    Args:
        run: which.
        folder: of the comparison.
        status: `out_of_time` or `out_of_memory`.
        limits: of the comparison.
    """
    limit = getattr(limits, _KEYS[status])
    if limit is not None:
        (folder / STOPPED).mkdir(exist_ok=True)
        write_json(folder / STOPPED / f"{run.name}.json", {"status": status, "limit": limit})


def stop_of(run: PlannedRun, folder: Path, limits: Limits) -> str | None:
    """Why a run was stopped earlier, and would be stopped again.

    Args:
        run: which.
        folder: of the comparison.
        limits: of the comparison, now.

    Returns:
        Its status; None where it was not stopped, or its limit has grown or gone since.
    """
    path = folder / STOPPED / f"{run.name}.json"
    if not path.is_file():
        return None
    stop = json.loads(path.read_text(encoding="utf-8"))
    limit = getattr(limits, _KEYS[stop["status"]])
    return None if limit is None or limit > stop["limit"] else str(stop["status"])


def forget_stop(name: str, folder: Path) -> bool:
    """Deletes the note of a run whose settings have changed, so that it is tried again.

    Args:
        name: of the run.
        folder: of the comparison.

    Returns:
        Whether there was one.
    """
    note = folder / STOPPED / f"{name}.json"
    was_there = note.is_file()
    note.unlink(missing_ok=True)
    return was_there
