"""The run folder: its name, its files, and what may be done to one that exists."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bfc_lightning.files import finished

CONFIG = "config.yaml"
SUMMARY = "summary.json"
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
LONGEST_NAME = 230
"""Bytes of the name of a run or experiment: most file systems have 255, and we put 18 to it."""


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
        figures: draw figures when the run ends, which takes a few seconds.
        threads: CPU threads of a process; PyTorch's choice if not given. Small networks are faster
            with one wherever something else runs on the machine.
    """

    name: str | None = None
    root: str = "logs"
    overwrite: bool = False
    figures: bool = True
    threads: int | None = None


def config_text(folder: Path, settings: str) -> str:
    """`config.yaml` of a run, which says how to run it again.

    Args:
        folder: of the run.
        settings: everything that it was told, as YAML.

    Returns:
        The text.
    """
    command = f"bfc fit -c {folder / CONFIG} --run.name ANOTHER"
    return f"# Every setting of the run {folder.name}. Again: {command}\n{settings}"


def find_folder(options: RunOptions, configs: Sequence[str | Path]) -> Path:
    """The folder of an existing or coming run: by its name, its own config, or its config's name.

    Args:
        options: the user's.
        configs: the config files, as given; where the first one is the `config.yaml` of a run
            folder, it is that folder, wherever one calls from, and renamed or copied, too.

    Returns:
        The path; nothing is made.
    """
    first = Path(configs[0]) if configs else Path("run.yaml")
    if first.name == CONFIG and (first.parent / CHECKPOINTS).is_dir():
        own_names = (None, first.parent.resolve().name, _stored_name(first))
        if options.name in own_names:
            return first.parent
    name = options.name if options.name is not None else first.stem
    check_name(name)
    return Path(options.root) / name


def _stored_name(config: Path) -> object:
    """The name that a run had when its config was written."""
    stored = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    return (stored.get("run") or {}).get("name")


def check_name(name: str) -> None:
    """Refuses what is no name of a folder, or would break a line of text.

    Args:
        name: of a run or experiment.

    Raises:
        RunError: if it is none, or too long.
    """
    is_plain = name not in ("", ".", "..") and Path(name).name == name and name.isprintable()
    if not is_plain:
        raise RunError(f"run.name must be a plain folder name, got {name!r}.")
    length = len(os.fsencode(name))
    if length > LONGEST_NAME:
        raise RunError(f"run.name must have at most {LONGEST_NAME} bytes, got {length}: {name}.")


@dataclass
class FolderClaim:
    """A folder that a run has taken, until the run is sure to start.

    Args:
        path: of the folder.
        is_new: whether it was made for this run.
        replaced: where the run that it replaces was put meanwhile.
    """

    path: Path
    is_new: bool = False
    replaced: Path | None = None

    def abandon(self) -> None:
        """Leaves everything as it was before the claim."""
        if self.is_new:
            shutil.rmtree(self.path)
        if self.replaced is not None:
            self.replaced.rename(self.path)

    def keep(self) -> None:
        """Makes the claim final: deletes the run that it replaces."""
        if self.replaced is not None:
            for replaced in _set_aside_of(
                self.path
            ):  # one may be left of a process that was killed
                shutil.rmtree(replaced)
            self.replaced = None


def claim_new_folder(folder: Path, options: RunOptions) -> FolderClaim:
    """Makes the folder of a new run, with its folder for checkpoints.

    Args:
        folder: where the run wants to live.
        options: the user's; without a name, -2, -3, ... is added where the folder is taken.

    Returns:
        The claim, on a folder made just now.

    Raises:
        RunError: if the name is taken, or the folder can't be written.
    """
    claim = FolderClaim(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if options.overwrite and folder.exists():
            claim.replaced = _set_aside(folder)
        claim.path = _make_numbered(folder) if options.name is None else _make(folder)
        claim.is_new = True
        (claim.path / CHECKPOINTS).mkdir()
    except OSError as refused:
        claim.abandon()
        raise RunError(
            f"run.root must be a folder that can be written, got {str(folder.parent)!r}: "
            f"{refused.strerror}."
        ) from refused
    return claim


def _make(folder: Path) -> Path:
    if folder.exists():
        raise RunError(
            f"run.name must be free in {folder.parent}, got {folder.name!r}, which is taken: "
            "choose another, or give --run.overwrite true, or --resume auto."
        )
    folder.mkdir()
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


def _set_aside(folder: Path) -> Path:
    if not ((folder / CONFIG).is_file() or _is_just_begun(folder)):
        raise RunError(
            f"run.overwrite deletes run folders only, got {folder}, which holds no {CONFIG}."
        )
    return folder.rename(folder.with_name(f".{folder.name}.replaced.{os.getpid()}"))


def _set_aside_of(folder: Path) -> list[Path]:
    start = f".{folder.name}.replaced."
    return [
        path
        for path in folder.parent.iterdir()
        if path.name.startswith(start) and path.name.removeprefix(start).isdigit()
    ]


def _is_just_begun(folder: Path) -> bool:
    """Whether a folder holds no more than a run makes before its config: the run was killed."""
    parts = list(folder.iterdir()) if folder.is_dir() else [folder]
    begun = [path for path in parts if path.name == CHECKPOINTS and path.is_dir()]
    rest = [path for path in parts if path not in begun and not _is_unfinished_config(path)]
    return not rest and not any(path for each in begun for path in each.iterdir())


def _is_unfinished_config(path: Path) -> bool:
    return finished(path) == path.with_name(CONFIG) != path


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
