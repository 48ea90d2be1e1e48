"""Who is trained with whom, kept in a file, and the folders of those who are."""

import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bfc_lightning.experiments.grouping import Group
from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.files import write_atomically

_PLAN = "plan.json"


@dataclass(frozen=True)
class KeptPlan:
    """Who is trained with whom, so that a stopped experiment goes on as it was begun.

    Runs that are trained with others, or alone, get numbers that are equal only to rounding.

    Args:
        folder: of the plan, and of the groups' replicas; there is one while runs are missing.
    """

    folder: Path

    def read(self, runs: Iterable[PlannedRun]) -> list[Group]:
        """What was planned of some runs; what takes part in more than these is forgotten."""
        known = {run.name: run for run in runs}
        whole = [names for names in self._parts() if known.keys() >= set(names)]
        return [Group(tuple(known[name] for name in names)) for names in whole]

    def write(self, groups: Sequence[Group]) -> None:
        """Keeps a plan in place of the one before; the replicas of other groups are deleted."""
        names = [group.name for group in groups]
        for path in self.folder.glob("*"):
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write([[run.name for run in group.runs] for group in groups])

    def part(self, group: Group) -> None:
        """Plans the runs of a group to be trained alone, each by itself."""
        names = [run.name for run in group.runs]
        others = [part for part in self._parts() if part != names]
        self._write([*others, *([name] for name in names)])

    def delete_replicas(self, group: Group) -> None:
        """Deletes the folder of a group."""
        shutil.rmtree(self.folder / group.name, ignore_errors=True)

    def delete(self) -> None:
        """Deletes the plan and all folders, and the folder above where nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _write(self, parts: list[list[str]]) -> None:
        write_atomically(self.folder / _PLAN, json.dumps(parts, indent=1) + "\n")

    def _parts(self) -> list[list[str]]:
        try:
            parts: list[list[str]] = json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return parts
