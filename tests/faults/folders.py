"""What must agree in two run folders, and that every file in a folder can be read."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

from bfc_lightning.runs.loading import read_checkpoint

# Clocks, the state of the source tree, and where a folder is.
_VARYING = {
    *("wall_seconds", "samples_per_second", "measure_seconds", "fit_seconds", "seconds", "git"),
    *("checkpoint", "root"),
}


def differences(whole: Path, other: Path) -> list[str]:
    """Where a run, or a folder of runs, differs from an undisturbed one; one clause each."""
    strange = _names(whole) ^ _names(other)
    if strange:
        return [f"only one of them has {name}" for name in sorted(strange)]
    assert any(whole.rglob("summary.json"))
    found = []
    for name in sorted(_names(whole)):
        one, two = whole / name, other / name
        if one.suffix == ".ckpt":
            place = _unequal(read_checkpoint(one), read_checkpoint(two))
            found += [f"{name} differs in {place}"] * bool(place)
        elif one.name == "metrics.csv":
            found += [f"{name} differs"] * (one.read_text() != two.read_text())
        elif one.suffix == ".csv" or one.name in ("summary.json", "test.json"):
            found += [f"{name} differs"] * bool(_unequal(_content(one), _content(two), name))
    return found


def _names(folder: Path) -> set[str]:
    """Of all files but those of TensorBoard and the logs."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if path.parts[0] != "logs" and "events." not in path.name}


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _unequal(one: object, two: object, place: str = "") -> str:
    """Where two contents differ, bit for bit; empty if nowhere."""
    if isinstance(one, torch.Tensor):
        return "" if torch.equal(one, two) else place
    if isinstance(one, list | tuple):
        one, two = (dict(enumerate(each)) for each in (one, two))
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return f"keys of {place}"
        keys = [key for key in one if key not in _VARYING]
        return next(filter(None, (_unequal(one[k], two[k], f"{place}.{k}") for k in keys)), "")
    return "" if one == two or one != one else place


def unreadable(folder: Path) -> list[str]:
    """Files that cannot be read, and unfinished ones."""
    found = [f"left over: {path.name}" for path in folder.rglob(".*")]
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            try:
                _read(path)
            except Exception as wrong:
                found.append(f"{path.name} cannot be read: {type(wrong).__name__} {wrong}")
    return found


def _read(path: Path) -> None:
    """Reads a file to its end, in the format of its suffix."""
    if path.name.startswith("events."):
        assert any(True for _ in RawEventFileLoader(str(path)).Load()) or path.stat().st_size < 200
    elif path.suffix == ".yaml":
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
    elif path.suffix == ".json":
        _content(path)
    elif path.suffix == ".csv":
        assert all(None not in row and None not in row.values() for row in _content(path))
    elif path.suffix == ".ckpt":
        read_checkpoint(path)
    elif path.suffix == ".png":
        assert np.ptp(imread(path)) > 0
    else:
        assert path.suffix in (".txt", ".md", ".tex", ".html"), "a file of no known kind"
