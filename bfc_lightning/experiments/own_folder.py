"""A folder that one experiment owns: how it is known, found, emptied, and kept to one process."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bfc_lightning.experiments.plan import ExperimentOptions
from bfc_lightning.experiments.settings import BASE, RUNS, as_yaml, command_line
from bfc_lightning.files import finished, remove_unfinished, write_atomically
from bfc_lightning.runs.folder import RunError, check_name

COMMANDS = "commands.txt"


@dataclass(frozen=True)
class FolderKind:
    """What tells the folders of one command from all others.

    Args:
        command: of `bfc`.
        noun: what lives there.
        parts: the folders inside; one of them is `base`.
        files: what came out, for the user to look at.
        has_lines: whether its runs may be begun one by one, before the folder bears its mark.
    """

    command: str
    noun: str
    parts: tuple[str, ...]
    files: tuple[str, ...]
    has_lines: bool = False

    @property
    def mark(self) -> str:
        """The file with everything the experiment was told."""
        return f"{self.command}.yaml"

    @property
    def header(self) -> str:
        """The first line of the mark."""
        return f"# Everything of this {self.noun}."

    @property
    def way_out(self) -> str:
        """What to do where settings have changed."""
        return f"give the {self.noun} another --run.name, or --run.overwrite true."

    def owns(self, folder: Path) -> bool:
        """Whether the command made a folder: any file may be called like its mark."""
        mark = folder / self.mark
        if not (mark.is_file() and (folder / COMMANDS).is_file() and (folder / BASE).is_dir()):
            return False
        with mark.open(encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip() == self.header

    def find(
        self,
        options: ExperimentOptions,
        configs: Sequence[str],
        *,
        files: Callable[[], Mapping[str, str]],
    ) -> Path:
        """The folder of an experiment, there or not.

        Args:
            options: the user's.
            configs: the files it was read from; where the first one is the mark of an experiment's
                folder, it is that folder.
            files: what will be written there, text by path; asked for only in doubt.

        Returns:
            The path; nothing is made.

        Raises:
            RunError: if the name is no plain folder name, or the folder is something else.
        """
        first = Path(configs[0]) if configs else Path(self.mark)
        is_own = first.name == self.mark and self.owns(first.absolute().parent)
        if is_own and options.name in (None, first.absolute().parent.name):
            return first.parent
        name = options.name if options.name is not None else first.stem
        check_name(name)
        folder = Path(options.root) / name
        if folder.exists() and not self.owns(folder) and not self._may_take(folder, files()):
            raise RunError(
                f"run.name must be free in {folder.parent} or name a {self.noun}, got {name!r}, "
                "which is none: choose another."
            )
        return folder

    def empty(self, folder: Path, files: Mapping[str, str]) -> None:
        """Deletes what the command writes, its mark last, and nothing else.

        Args:
            folder: that `find` has found.
            files: what `write` writes there, text by path.
        """
        assert self.owns(folder) or self._may_take(folder, files)
        for name in (*reversed(self.parts), *self.files, COMMANDS, self.mark):  # known to the end
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def write(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        files: Mapping[str, str],
        commands: Sequence[Sequence[Sequence[str]]],
    ) -> None:
        """Writes what an experiment is made from, its mark last: what bears it is whole.

        A folder without the mark is known by what stands here: see `_is_written`.

        Args:
            folder: of the experiment.
            settings: everything that the user said.
            files: text by path in the folder.
            commands: the words after `bfc` of the commands of each run.
        """
        for parent in {(folder / name).parent for name in files}:
            parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(parent)
        for name, content in files.items():
            write_atomically(folder / name, content)
        lines = [command_line(parts) + "\n" for parts in commands]
        write_atomically(folder / COMMANDS, "".join(lines))
        bases = [name for name in files if name.startswith(f"{BASE}/")]
        own = {**settings["run"], "name": folder.absolute().name, "overwrite": False}
        again = f"bfc {self.command} -c {folder / self.mark}"
        text = f"{self.header}\n#   {again}\n{as_yaml({**settings, 'base': bases, 'run': own})}"
        write_atomically(folder / self.mark, text)

    def _may_take(self, folder: Path, files: Mapping[str, str]) -> bool:
        """Whether nothing is there but what `write` makes before the mark: the command was killed.

        Files count by their content, so that none of the user's is written over. Runs that were
        begun one by one may be there, too.
        """
        if not folder.is_dir():
            return False
        parts = [each for each in folder.iterdir() if not (self.has_lines and _holds_runs(each))]
        found = chain.from_iterable(chain([part], part.rglob("*")) for part in parts)
        return all(self._is_written(path, folder, files) for path in found)

    def _is_written(self, path: Path, folder: Path, files: Mapping[str, str]) -> bool:
        """Whether `write` makes a file or folder before the mark."""
        if path.is_symlink():
            return False
        if path.is_dir():
            return any((folder / name).is_relative_to(path) for name in files)
        whole = finished(path)
        name = whole.relative_to(folder).as_posix()
        if whole != path:
            return name in (*files, COMMANDS, self.mark)
        if name == COMMANDS:  # comes last
            return all((folder / each).is_file() for each in files)
        return name in files and path.read_bytes() == files[name].encode()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes of ours out until the block ends.

    Args:
        folder: of an experiment, or of claims.

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


def _holds_runs(path: Path) -> bool:
    """Whether a path is the folder of runs, and holds nothing else."""
    if path.name != RUNS or not path.is_dir():
        return False
    return all(_is_of_seed(each.name) for each in path.iterdir())


def _is_of_seed(name: str) -> bool:
    stem, _, seed = name.rpartition("-seed")
    return bool(stem) and seed.isdigit()
