"""Who is trained with whom, kept in a file, and the folders of those who are."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bfc_lightning.experiments.grouping import Group, Grouping
from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.files import write_atomically

_PLAN = "plan.json"


@dataclass(frozen=True)
class KeptPlan:
    """Who is trained with whom, so that a stopped experiment goes on as it was begun.

    Runs that are trained with others, or alone, get numbers that are equal only to rounding.

    Args:
        folder: of the plan, and of the groups' replicas.
    """

    folder: Path

    def read(self, runs: Iterable[PlannedRun], grouping: Grouping) -> list[Group]:
        """What was planned of some runs.

        Args:
            runs: that there are now; what takes part in more than these is forgotten.
            grouping: of their settings now; a group of which one has changed is forgotten.

        Returns:
            The groups, those of one run for runs that were to be trained alone.
        """
        known = {run.name: run for run in runs}
        kept = []
        for name, members in self._parts().items():
            if known.keys() >= set(members):
                group = grouping.group([known[member] for member in members])
                if group is not None and group.name == name:
                    kept.append(group)
        return kept

    def write(self, groups: Sequence[Group]) -> None:
        """Keeps a plan in place of the one before; the replicas of other groups are deleted."""
        names = [group.name for group in groups]
        for path in self.folder.glob("*"):
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write({group.name: [run.name for run in group.runs] for group in groups})

    def part(self, group: Group, parts: Sequence[Group]) -> None:
        """Plans other groups in place of one, and deletes its replicas."""
        planned = {name: members for name, members in self._parts().items() if name != group.name}
        self._write(planned | {part.name: [run.name for run in part.runs] for part in parts})
        self.delete_replicas(group)

    def delete_replicas(self, group: Group) -> None:
        """Deletes the folder of a group."""
        shutil.rmtree(self.folder / group.name, ignore_errors=True)

    def _write(self, parts: dict[str, list[str]]) -> None:
        write_atomically(self.folder / _PLAN, json.dumps(parts, indent=1) + "\n")

    def _parts(self) -> dict[str, list[str]]:
        """Names of the runs by that of their group."""
        try:
            parts: dict[str, list[str]] = json.loads(
                (self.folder / _PLAN).read_text(encoding="utf-8")
            )
        except FileNotFoundError:
            return {}
        return parts
