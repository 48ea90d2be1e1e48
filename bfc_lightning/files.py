"""Files that are never half written: made beside their place, then renamed."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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

    Args:
        folder: on which no other process is at work.
    """
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


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
