"""Runs under way: together where that can be, else one by one, and what is said of them."""

import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bfc_lightning.callbacks.stops import MISTAKE
from bfc_lightning.experiments.group_words import group_words, joined
from bfc_lightning.experiments.grouping import Group, Grouping, ReadFit
from bfc_lightning.experiments.kept_plan import KeptPlan
from bfc_lightning.experiments.limits import (
    LACKED_MEMORY,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    STOPS,
    remember_stop,
)
from bfc_lightning.experiments.plan import Experiment, PlannedRun, num_workers
from bfc_lightning.experiments.progress import RunsProgress
from bfc_lightning.experiments.reasons import explain, outcome_of, reason_of
from bfc_lightning.experiments.results import DONE, FAILED, MISSING, Row
from bfc_lightning.experiments.settings import LOGS, RUNS, TOGETHER, TRIALS
from bfc_lightning.experiments.workers import Ended, Function, Started, Task, WorkerPool
from bfc_lightning.files import remove_unfinished

_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class Record(Protocol):
    """What is known of an experiment's runs, and the files that show it."""

    folder: Path

    @property
    def experiment(self) -> Experiment:
        """What is run."""

    def commands(self, run: PlannedRun) -> list[list[str]]:
        """The words after `bfc` of the commands that make a run."""

    def take_snapshot(self, run: PlannedRun, end: str | None = None) -> Row:
        """Keeps how far a run is; `end` is how its process was seen to end."""

    def write(self) -> None:
        """Writes down all rows."""


@contextmanager
def working(
    record: Record,
    runs: Sequence[PlannedRun],
    *,
    run_one: Function,
    read_fit: ReadFit,
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator["Work"]:
    """Workers, and what shows their progress, until the block ends.

    Args:
        record: of the experiment; what is there of its runs is looked up and written down first.
        runs: all that there are.
        run_one: runs commands of `bfc`, given their words as `joined` puts them.
        read_fit: parses what follows `fit`.
        environments: variables of each worker, where they differ.

    Yields:
        What runs them.
    """
    num_left = sum(record.take_snapshot(run).status not in DONE for run in runs)
    record.write()
    experiment, num_done = record.experiment, len(runs) - num_left
    workers = min(len(environments) or num_workers(experiment), max(1, num_left))
    with (
        RunsProgress(len(runs), num_done=num_done, num_workers=workers) as progress,
        WorkerPool(
            run_one, workers, seconds=experiment.limits.seconds, environments=environments
        ) as pool,
    ):
        if num_done:
            progress.say(f"{num_done} of {len(runs)} runs are done already.")
        yield Work(record, progress, pool, read_fit)
    if not pool.signum:  # else the groups go on
        shutil.rmtree(record.folder / TOGETHER, ignore_errors=True)
        remove_unfinished(record.folder)  # workers may outlive a parent that was killed before


@dataclass
class Work:
    """Runs under way.

    Attributes:
        num_refused: runs that found a mistake in their settings, not counting trials.
    """

    record: Record
    progress: RunsProgress
    pool: WorkerPool
    read_fit: ReadFit
    num_refused: int = 0
    shown: set[str] = field(default_factory=set)

    def run(self, runs: Iterable[PlannedRun]) -> None:
        """Runs those that have no result yet: together what can be, then the rest one by one."""
        rows = [self.record.take_snapshot(run) for run in runs]
        if rows and self.record.experiment.together:
            self._run_together(rows)
            rows = [self.record.take_snapshot(row.run) for row in rows]  # groups replace folders
        todo = {row.run.name: row.run for row in rows if row.status not in DONE}
        tasks = [
            Task(name, joined(self.record.commands(run)), self.record.folder / LOGS / f"{name}.txt")
            for name, run in todo.items()
        ]
        for event in self.pool.run(tasks):
            if isinstance(event, Started):
                self.progress.begin(event.task.name)
            else:
                self._end(event, todo[event.task.name])

    def _run_together(self, rows: Sequence[Row]) -> None:
        """Runs groups, those of before and new ones of what was not begun."""
        part = RUNS if rows[0].run.trial is None else TRIALS  # planned apart from each other
        kept = KeptPlan(self.record.folder / TOGETHER / part)
        grouping = Grouping(self.record.commands, self.read_fit)
        groups = self._plan(rows, kept, grouping)
        cut_off: set[str] = set()
        while groups:
            by_name, again = {group.name: group for group in groups}, []
            for event in self.pool.run([self._task(group, kept) for group in groups]):
                group = by_name[event.task.name]
                if isinstance(event, Started):
                    for run in group.runs:
                        self.progress.begin(run.name)
                elif self._is_cut_off(event) and group.name not in cut_off:
                    cut_off.add(group.name)
                    again.append(group)  # once more, from the last checkpoint
                    for run in group.runs:
                        self.progress.put_back(run.name)
                else:
                    again += self._end_together(event, group, kept, grouping)
            groups = again

    def _task(self, group: Group, kept: KeptPlan) -> Task:
        """What a worker is told of a group."""
        folder, commands = self.record.folder, self.record.commands
        words = group_words(group, commands, folder=folder, beside=kept.folder)
        log = folder / LOGS / f"{group.name}.txt"
        return Task(group.name, words, log, num_runs=len(group.runs))

    def _plan(self, rows: Sequence[Row], kept: KeptPlan, grouping: Grouping) -> list[Group]:
        """Those of the plan that was made before, unless done, and new ones of the rest."""
        left = {row.run for row in rows if row.status not in DONE}
        runs = [row.run for row in rows]
        plan = [group for group in kept.read(runs, grouping) if left & set(group.runs)]
        again = {run for group in plan for run in group.runs}
        self.progress.undo(len(again - left))
        fresh = [row.run for row in rows if row.status == MISSING and row.run not in again]
        found = grouping.groups(fresh, self.pool.num_workers)
        grouped = {run for group in found for run in group.runs}
        plan += [*found, *_alone([run for run in fresh if run not in grouped], grouping)]
        kept.write(plan)
        return [group for group in plan if len(group.runs) > 1]

    def _end_together(
        self, event: Ended, group: Group, kept: KeptPlan, grouping: Grouping
    ) -> list[Group]:
        """What a group left; unless all was stopped, those without a result are run otherwise.

        Returns:
            The smaller groups that they are in; the others are run one by one.
        """
        num_done = 0
        for run in group.runs:
            row = self.record.take_snapshot(run)
            if row.status in DONE:
                outcome = outcome_of(row, self.record.experiment.metrics[0])
                seconds = event.seconds / len(group.runs)
                self.progress.end(run.name, outcome, seconds, status=row.status)
                num_done += 1
            else:
                self.progress.put_back(run.name)
        self.record.write()
        if num_done == len(group.runs):
            kept.delete_replicas(group)
        if num_done == len(group.runs) or self.pool.signum:  # one that was stopped goes on
            return []
        parts = _alone(group.runs, grouping)
        if event.status == MISTAKE and not event.has_died:
            parts = _by_kind(group, grouping)
        kept.part(group, parts)
        again = [part for part in parts if len(part.runs) > 1]
        others = f"{group.runs[0].name} and {len(group.runs) - 1} more"
        how = "in smaller groups" if again else "one by one"
        reason = reason_of(event)
        self.progress.say(f"  {others} are run {how} ({reason})")
        self.shown.add(f"    {reason}")
        return again

    def _was_stopped(self, event: Ended) -> bool:
        """Whether a signal ended a task."""
        return bool(self.pool.signum) or (event.status in _STOPPED and not event.has_died)

    def _is_cut_off(self, event: Ended) -> bool:
        """Whether something from outside ended a group, and not the whole experiment."""
        is_ended = event.has_died or event.status in _STOPPED
        return is_ended and not event.is_overdue and not self.pool.signum

    def _end(self, event: Ended, run: PlannedRun) -> None:
        """What a run left behind; one that left no result and was not stopped has failed."""
        end: str | None = FAILED
        if event.is_overdue:
            end = OUT_OF_TIME
        elif event.status == LACKED_MEMORY and not event.has_died:
            end = OUT_OF_MEMORY
        elif self._was_stopped(event):
            end = None
        row = self.record.take_snapshot(run, end)
        if row.status in STOPS:
            remember_stop(
                run,
                self.record.folder,
                row.status,
                limits=self.record.experiment.limits,
                commands=self.record.commands,
            )
        is_refused = row.status == FAILED and event.status == MISTAKE
        self.num_refused += is_refused and run.trial is None
        outcome = outcome_of(row, self.record.experiment.metrics[0])
        self.progress.end(event.task.name, outcome, event.seconds, status=row.status)
        if row.status == FAILED:
            explain(event, self.progress, self.shown)
        self.record.write()


def _alone(runs: Sequence[PlannedRun], grouping: Grouping) -> list[Group]:
    """Runs that are to be trained alone, as a plan has them."""
    return [group for run in runs if (group := grouping.group([run]))]


def _by_kind(group: Group, grouping: Grouping) -> list[Group]:
    """Groups of runs that differ in seeds only: what is wrong in one may be right in others."""
    kinds: dict[object, list[PlannedRun]] = {}
    for run in group.runs:
        kinds.setdefault((run.point, run.trial), []).append(run)
    if len(kinds) == 1:
        return _alone(group.runs, grouping)
    return [found for runs in kinds.values() if (found := grouping.group(runs))]
