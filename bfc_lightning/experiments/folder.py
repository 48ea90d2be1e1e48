"""The folder of a comparison: what it holds, who may write to it, and when it may be gone on with.

compare.yaml        everything the comparison was told, ready to be run again
base/ learners/ grid/       the configs of the runs
trials/ chosen/     what is tried where learners are tuned, and what won
commands.txt        one command for each run
runs/ logs/         the runs' folders; what they printed
stopped/            which runs were stopped at a limit
compare.md *.csv *.png      what came out
"""

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.experiments.commands import as_yaml, commands_of, settings_files
from bfc_lightning.experiments.comparison import Comparison, planned_runs, planned_trials
from bfc_lightning.experiments.limits import STOPPED
from bfc_lightning.files import remove_unfinished, write_atomically
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.identity import differences, flatten

COMPARISON = "compare.yaml"
COMMANDS = "commands.txt"
RUNS = "runs"
LOGS = "logs"
_FOLDERS = ("base", "learners", "grid", "trials", "chosen", STOPPED, RUNS, LOGS)
FILES = (
    *("compare.md", "compare.csv", "trials.csv", "scaling.csv"),
    *("compare.png", "features.png", "scaling.png"),
)
"""What came out, for the user to look at."""
_HEADER = "# Everything of this comparison."
_WAY_OUT = "give the comparison another --run.name, or --run.overwrite true."


def find_comparison(comparison: Comparison, configs: Sequence[str]) -> Path:
    """The folder of a comparison, there or not.

    Args:
        comparison: what is compared.
        configs: the files it was read from; where the first one is the `compare.yaml` of a
            comparison's folder, it is that folder.

    Returns:
        The path; nothing is made.

    Raises:
        RunError: if the name is no plain folder name, or the folder is something else.
    """
    options = comparison.run
    first = Path(configs[0]) if configs else Path("compare.yaml")
    is_own = first.name == COMPARISON and _is_comparison(first.absolute().parent)
    if is_own and options.name in (None, first.absolute().parent.name):
        return first.parent
    name = options.name if options.name is not None else first.stem
    if name in ("", ".", "..") or Path(name).name != name:
        raise RunError(f"run.name must be a plain folder name, got {name!r}.")
    folder = Path(options.root) / name
    if folder.exists() and not _is_comparison(folder) and not _is_empty(folder):
        raise RunError(
            f"run.name must be free in {folder.parent} or name a comparison, got {name!r}, which "
            "is none: choose another."
        )
    return folder


def check_unchanged(comparison: Comparison, folder: Path) -> None:
    """Refuses to go on with runs that were made from other settings.

    Every run in the folder counts, also those of learners, seeds or values that are left out now.

    Args:
        comparison: what is compared.
        folder: of the comparison.

    Raises:
        RunError: if the base, a learner or a value of the grid has changed since.
    """
    runs = sorted(path.name for path in (folder / RUNS).glob("*-seed*"))
    if not runs:
        return
    files = settings_files(comparison)
    for name, text in files.items():
        made = [run for run in runs if _is_part(name, run)]
        if made and (folder / name).is_file():
            changes = _changes(folder / name, text)
            if changes:
                what = f"{_called(name)} has changed since {made[0]} was begun"
                raise RunError(f"{what}: {'; '.join(changes[:3])}; {_WAY_OUT}")
    before = yaml.safe_load((folder / COMPARISON).read_text(encoding="utf-8"))["base"]
    now = [name for name in files if name.startswith("base/")]
    if before != now:
        raise RunError(
            f"base must stay {[Path(name).name for name in before]}, with which {runs[0]} was "
            f"begun, got {[Path(name).name for name in now]}; {_WAY_OUT}"
        )


def _is_part(file: str, run: str) -> bool:
    """Whether a run was made from one of the settings files; in doubt, yes."""
    kind, _, name = file.removesuffix(".yaml").partition("/")
    if kind == "learners":
        return run.startswith(f"{name}-")
    if kind == "trials":
        learner, _, trial = name.partition("/")
        return run.startswith(f"{learner}-") and f"-tune({trial})-" in run
    return kind == "base" or f"-{name}-" in run


def _called(name: str) -> str:
    kind, _, file = name.partition("/")
    stem = file.removesuffix(".yaml")
    words = {"base": f"the base {file}", "learners": f"learner {stem}", "trials": f"trial {stem}"}
    return words.get(kind, f"grid {stem}")


def _changes(path: Path, text: str) -> list[str]:
    """What differs in meaning between a stored config and the one it would be now."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    return differences(flatten(yaml.safe_load(before) or {}), flatten(yaml.safe_load(text) or {}))


@contextmanager
def claimed(comparison: Comparison, folder: Path) -> Iterator[None]:
    """Makes the folder, or takes an existing one, and keeps others out until the block ends.

    Args:
        comparison: what is compared; with `run.overwrite` an existing folder is emptied.
        folder: of the comparison.

    Yields:
        While the block runs, no other process may claim it.
    """
    files = settings_files(comparison)  # a base may lie in the folder that is overwritten
    with locked(folder):
        if comparison.run.overwrite:
            _empty(folder)
        check_unchanged(comparison, folder)
        _write(comparison, folder, files)
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes of ours out until the block ends.

    Args:
        folder: of a comparison, or of claims.

    Yields:
        While the block runs, no other process may lock it.

    Raises:
        RunError: if it can't be written, or another process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as refused:
        raise RunError(
            f"run.root must be a folder that can be written, got {str(folder.parent)!r}: "
            f"{refused.strerror}."
        ) from refused
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as taken:
        os.close(handle)
        raise RunError(f"{folder} is being worked on by another bfc.") from taken
    try:
        remove_unfinished(folder)
        yield
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    """Deletes what a comparison writes, its mark last, and nothing else."""
    if not _is_comparison(folder):
        assert _is_empty(folder)
        return
    for name in (*_FOLDERS, *FILES, COMMANDS, COMPARISON):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_comparison(folder: Path) -> bool:
    """Whether `bfc compare` made the folder: any file may be called like its mark."""
    mark = folder / COMPARISON
    if not (mark.is_file() and (folder / COMMANDS).is_file() and (folder / "learners").is_dir()):
        return False
    with mark.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip() == _HEADER


def _write(comparison: Comparison, folder: Path, files: Mapping[str, str]) -> None:
    """The mark last: what bears it is whole."""
    bases = [name for name in files if name.startswith("base/")]
    again = f"bfc compare -c {folder / COMPARISON}"
    text = as_yaml(_settings(comparison, folder, bases))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)
    runs = [*planned_trials(comparison), *planned_runs(comparison)]
    commands = [commands_of(comparison, run, folder) for run in runs]
    lines = [
        " && ".join(f"bfc {shlex.join(words)}" for words in parts) + "\n" for parts in commands
    ]
    write_atomically(folder / COMMANDS, "".join(lines))
    write_atomically(folder / COMPARISON, f"{_HEADER}\n#   {again}\n{text}")


def _settings(comparison: Comparison, folder: Path, bases: Sequence[str]) -> dict[str, Any]:
    settings = asdict(comparison)
    settings["base"] = list(bases)
    settings["run"].update(name=folder.absolute().name, overwrite=False)
    return settings


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
