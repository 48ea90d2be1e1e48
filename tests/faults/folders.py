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
    "checkpoint",
}


def differences(whole: Path, other: Path) -> list[str]:
    """Where a run, or a folder of runs, differs from an undisturbed one; one clause each."""
    strange = _names(whole) ^ _names(other)
    if strange:
        return [f"only one of them has {name}" for name in sorted(strange)]
    runs = sorted(path.parent.relative_to(whole) for path in whole.rglob("summary.json"))
    assert runs
    found = [f"{run}: {clause}" for run in runs for clause in _of_a_run(whole / run, other / run)]
    for table in [*whole.glob("*.csv")]:
        if table.name != "metrics.csv":
            one, two = ([_kept(row) for row in _rows(p)] for p in (table, other / table.name))
            found += [f"{table.name} differs"] * (one != two)
    return found


def _names(folder: Path) -> set[str]:
    """Of all files but those of TensorBoard and the logs."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if path.parts[0] != "logs" and "events." not in path.name}


def _of_a_run(whole: Path, other: Path) -> list[str]:
    found = []
    metrics = "metrics.csv"
    if (whole / metrics).is_file() and (whole / metrics).read_text() != (
        other / metrics
    ).read_text():
        found.append("metrics.csv differs")
    for name in ("summary.json", "test.json"):
        if (whole / name).is_file():
            one, two = (_kept(_read_json(path / name)) for path in (whole, other))
            found += [f"{name} differs"] * (one != two)
    for path in sorted((whole / "checkpoints").glob("*.ckpt")):
        pair = (read_checkpoint(path), read_checkpoint(other / "checkpoints" / path.name))
        clause = _unequal(*pair)
        found += [f"{path.name} differs in {clause}"] * bool(clause)
    return found


def _unequal(one: object, two: object, place: str = "") -> str:
    """Where two checkpoints differ, bit for bit; empty if nowhere."""
    if isinstance(one, torch.Tensor):
        return "" if torch.equal(one, two) else place or "a tensor"
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return f"keys of {place}"
        keys = [key for key in one if key not in _VARYING]
        return next(filter(None, (_unequal(one[k], two[k], f"{place}.{k}") for k in keys)), "")
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return f"length of {place}"
        pairs = enumerate(zip(one, two, strict=True))
        return next(filter(None, (_unequal(a, b, f"{place}.{n}") for n, (a, b) in pairs)), "")
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
        _read_json(path)
    elif path.suffix == ".csv":
        assert all(None not in row and None not in row.values() for row in _rows(path))
    elif path.suffix == ".ckpt":
        read_checkpoint(path)
    elif path.suffix == ".png":
        assert np.ptp(imread(path)) > 0
    else:
        assert path.suffix in (".txt", ".md", ".tex", ".html"), "a file of no known kind"


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _kept(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in _VARYING}
