"""The run folder: its name, its files, its lock, and what happens to one that exists."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from bfc_lightning.callbacks.exceptions import RunError as RunError

CONFIG = "config.yaml"
SUMMARY = "summary.json"
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
LONGEST_NAME = 230  # bytes: most file systems allow 255, and experiments add some


@dataclass
class RunOptions:
    """Where a run lives, and how many threads it uses.

    Args:
        name: Name of the run and its folder. Defaults to the name of the first config, with the
            suffix -2, -3, ... if that run exists.
        root: Folder of all runs; ~ and $VARIABLES are expanded.
        overwrite: Delete a run of this name first.
        figures: Draw figures when the run ends, which takes a few seconds.
        threads: CPU threads of a process; if not given, one for small networks, otherwise PyTorch's
            choice.
        alike: Number of runs that share a compiled training step; set by experiments.
    """

    name: str | None = None
    root: str = "logs"
    overwrite: bool = False
    figures: bool = True
    threads: PositiveInt | None = None
    alike: PositiveInt = 1


def find_folder(config: Namespace) -> Path:
    """The folder of a run: that of its own `config.yaml`, or `<root>/<name>`."""
    options = config.run
    first = Path(str(config.config[0])) if config.config else Path("run.yaml")
    if first.name == CONFIG and (first.parent / SUMMARY).is_file():
        stored = yaml.safe_load(first.read_text(encoding="utf-8"))["run"]
        names = (None, first.parent.resolve().name, stored["name"])
        if options.name in names and options.root == stored["root"]:
            return first.parent if first.parent.name else Path.cwd()
    return named_folder(options.root, first.stem if options.name is None else options.name)


def named_folder(root: str, name: str) -> Path:
    """`root/name`, with ~ and environment variables of the root expanded."""
    if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
        raise RunError(f"run.name must be a plain folder name, got {name!r}.")
    return Path(os.path.expandvars(root)).expanduser() / name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other process out of a folder until the block ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise RunError(f"{folder} is in use by another bfc process.") from taken
        yield
    finally:
        os.close(handle)


@dataclass
class RunFolder:
    """A folder that a run has reserved."""

    path: Path
    is_kept: bool = True  # also if the run does not begin
    has_begun: bool = False

    @property
    def replaced(self) -> Path:
        """Where the run that this one replaces is kept until this one has begun."""
        path = self.path.absolute()
        return path.with_name(f".{path.name}.replaced")

    def keep(self) -> None:
        """Makes the reservation final and deletes the run that it replaces."""
        if not self.has_begun:
            shutil.rmtree(self.replaced, ignore_errors=True)
        self.is_kept = self.has_begun = True


@contextmanager
def reserved(folder: Path, options: RunOptions, *, resumes: bool) -> Iterator[RunFolder]:
    """Makes or opens the run folder and locks it; undone if the block raises before `keep`."""
    own = RunFolder(folder)
    missing = [each for each in folder.parents if not each.exists()]
    try:
        if not (resumes and folder.is_dir()):
            _create(own, options)
        with locked(own.path):
            yield own
            own.keep()
    except BaseException:
        if not own.is_kept:
            shutil.rmtree(own.path, ignore_errors=True)
            if own.replaced.exists():
                own.replaced.rename(own.path)
        for each in missing:
            with suppress(OSError):  # not empty
                each.rmdir()
        raise


def _create(own: RunFolder, options: RunOptions) -> None:
    """Makes the folder; without a name, the first free one of NAME, NAME-2, NAME-3, ..."""
    folder = own.path
    folder.parent.mkdir(parents=True, exist_ok=True)
    if options.overwrite and folder.exists():
        if not (folder / CONFIG).is_file() and any(path.is_file() for path in folder.rglob("*")):
            raise RunError(f"run.overwrite deletes runs only, and {folder} has no {CONFIG}.")
        with locked(folder):
            if own.replaced.exists():  # the run in the folder never began
                shutil.rmtree(folder)
            else:
                folder.rename(own.replaced)
    for number in count(1):
        own.path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            own.path.mkdir()
            own.is_kept = False
            return
        if options.name is not None:
            raise RunError(
                f"the run {folder} exists: choose another run.name, or give --resume auto or "
                "--run.overwrite true."
            )


def find_checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint: `best` or `last` of the folder, a file, or the last one of a run folder."""
    path = folder / CHECKPOINTS / f"{name}.ckpt" if name in ("best", "last") else Path(name)
    if path.is_dir():
        path = path / CHECKPOINTS / "last.ckpt"
    if not path.is_file():
        raise RunError(f"the checkpoint {path} does not exist.")
    return path


def read_summary(folder: Path, name: str = SUMMARY) -> dict[str, Any]:
    """The content of `summary.json`, or of another JSON file; empty if there is none."""
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
