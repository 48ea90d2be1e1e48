"""The run folder: its name, its files, and what may be done to one that exists."""

import shutil
from dataclasses import dataclass
from pathlib import Path

CONFIG = "config.yaml"
SUMMARY = "summary.json"
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"


class RunError(ValueError):
    """A mistake of the user about runs, folders or checkpoints; its text is one clear line."""


@dataclass
class RunOptions:
    """Where a run lives, and what of the machine it takes.

    Args:
        name: of the run and its folder; the first config's name, with -2, -3, ... where that is
            taken, if not given.
        root: the folder of all runs.
        overwrite: delete a run of this name first.
        threads: CPU threads of a process; PyTorch's choice if not given. Small networks are faster
            with one wherever something else runs on the machine.
    """

    name: str | None = None
    root: str = "logs"
    overwrite: bool = False
    threads: int | None = None


def find_folder(options: RunOptions, stem: str) -> Path:
    """The folder of an existing or coming run, by its name or else its config's.

    Args:
        options: the user's.
        stem: the first config's name.

    Returns:
        The path; nothing is made.

    Raises:
        RunError: if the name is no plain folder name.
    """
    name = options.name if options.name is not None else stem
    if name in ("", ".", "..") or Path(name).name != name:
        raise RunError(f"run.name must be a plain folder name, got {name!r}.")
    return Path(options.root) / name


def new_folder(options: RunOptions, stem: str) -> Path:
    """Makes the folder of a new run, with its folder for checkpoints.

    Args:
        options: the user's.
        stem: the first config's name.

    Returns:
        The folder, made just now.

    Raises:
        RunError: if the name is taken, or the folder can't be written.
    """
    folder = find_folder(options, stem)
    try:
        if options.overwrite and folder.exists():
            _delete(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if options.name is None:
            folder = _make_numbered(folder)
        else:
            folder.mkdir()
        (folder / CHECKPOINTS).mkdir()
    except FileExistsError as taken:
        raise RunError(
            f"run.name must be free in {options.root}, got {options.name!r}, which is taken: "
            "choose another, or give --run.overwrite true, or --resume auto."
        ) from taken
    except OSError as refused:
        raise RunError(
            f"run.root must be a folder that can be written, got {options.root!r}: "
            f"{refused.strerror}."
        ) from refused
    return folder


def _make_numbered(folder: Path) -> Path:
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")
        else:
            return candidate


def _delete(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise RunError(
            f"run.overwrite deletes run folders only, got {folder}, which holds no {CONFIG}."
        )
    shutil.rmtree(folder)


def find_checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint by `best`, `last` or path.

    Args:
        name: `best` and `last` are looked for in the run's own folder only.
        folder: of the run.

    Returns:
        The path of a file that exists.

    Raises:
        RunError: if there is no such file.
    """
    if name in ("best", "last"):
        path = folder / CHECKPOINTS / f"{name}.ckpt"
    else:
        path = Path(name)
        if path.is_dir():
            path = path / CHECKPOINTS / "last.ckpt"
    if not path.is_file():
        raise RunError(f"the checkpoint must exist, got {name!r}: there is no file {path}.")
    return path
