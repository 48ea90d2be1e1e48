"""Files that are never half written: made beside their place, then renamed."""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# As `replacing` names files, and `split_run` folders.
_BESIDE = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.tmp", re.DOTALL)
# Of one name in all processes: see `Checkpoints.save`.
_BESIDE_LAST = ".last.ckpt.tmp"
# Nobody needs that long between the last byte of a checkpoint and its new name.
_PATIENCE_SECONDS = 60.0


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Replaces a file in one step, when the block has written another one beside it.

    A block that fails leaves the old file and nothing else; a process that is killed leaves the old
    file and one that `remove_unfinished` finds.

    Args:
        path: the file.
        sync: wait until the disk has it (some milliseconds), so that not even a power cut leaves an
            empty file under the name.

    Yields:
        Where to write.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        if sync:
            sync_to_disk(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Waits until the disk has the content of a file.

    Args:
        path: the file.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Deletes what killed processes have left half written in a folder and those right below it.

    A name carries the number of the process that writes: while one of this number is alive on this
    machine, be it another one by now, the file stays. `.last.ckpt.tmp` carries none: it stays for a
    minute after its last change, and is written over by the next checkpoint anyway. Whoever writes
    from another machine is not seen. Files of any other name are not ours.

    Args:
        folder: of a run or an experiment.
    """
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            if not _is_abandoned(path):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def finished(path: Path) -> Path:
    """What a half-written file was to become; of any other, its own path."""
    named = _BESIDE.fullmatch(path.name)
    return path if named is None else path.with_name(named["name"])


def _is_abandoned(path: Path) -> bool:
    """Whether a file is one of ours that nobody on this machine is still writing."""
    if path.name == _BESIDE_LAST:
        try:
            return time.time() - path.stat().st_mtime > _PATIENCE_SECONDS
        except FileNotFoundError:  # it has its name by now
            return False
    named = _BESIDE.fullmatch(path.name)
    return named is not None and not _is_at_work(int(named["process"]))


def _is_at_work(process: int) -> bool:
    """Whether another process of this number is alive; this one writes nothing at the moment."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return process != os.getpid()


def write_atomically(path: Path, text: str, *, sync: bool = True) -> None:
    """Replaces a file in one step: whoever reads it sees the old text or the new.

    Args:
        path: the file.
        text: its new content.
        sync: wait until the disk has it.
    """
    with replacing(path, sync=sync) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any], *, sync: bool = True) -> None:
    """Replaces a JSON file in one step; numbers that JSON cannot hold become null.

    Args:
        path: the file.
        content: its new content.
        sync: wait until the disk has it.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text, sync=sync)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
