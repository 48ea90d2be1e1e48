"""Files that are never half written: made beside their place, then renamed."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step: whoever reads it sees the old text or the new.

    Args:
        path: the file.
        text: its new content.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file in one step; numbers that JSON cannot hold become null.

    Args:
        path: the file.
        content: its new content.
    """
    write_atomically(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
