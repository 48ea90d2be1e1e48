"""Atomic writes: a reader sees the old file or the new file, never a part of one."""

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
    """Replaces a file atomically by the temporary file that the block writes.

    If the block fails, the old file is unchanged. If the process is killed, the temporary file
    remains until `remove_unfinished` deletes it. A symbolic link is replaced, not the file it
    points to. With `sync`, the new file is flushed to disk before it is renamed, which takes a few
    milliseconds and prevents an empty file after a power failure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Deletes what killed processes left behind: `.*.tmp` in a folder and its direct subfolders.

    The caller must hold the lock of the folder, since a running process may still write such files.
    """
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, *, sync: bool = True) -> None:
    """Replaces a text file atomically."""
    with replacing(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any], *, sync: bool = True) -> None:
    """Replaces a JSON file atomically. Non-finite numbers become null."""
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
