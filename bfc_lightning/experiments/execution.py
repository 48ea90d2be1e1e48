"""Running what a comparison asks for, and writing down what came out after every run."""

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bfc_lightning.callbacks.stops import MISTAKE
from bfc_lightning.experiments.commands import commands_of, is_tested
from bfc_lightning.experiments.comparison import Comparison, planned_runs, planned_trials, points
from bfc_lightning.experiments.folder import KIND
from bfc_lightning.experiments.group_words import group_words, joined
from bfc_lightning.experiments.grouping import Group, groups_of
from bfc_lightning.experiments.kept_plan import KeptPlan
from bfc_lightning.experiments.limits import (
    LACKED_MEMORY,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    STOPS,
    remember_stop,
    stop_of,
)
from bfc_lightning.experiments.pictures import comparison_figure, features_figure
from bfc_lightning.experiments.plan import Experiment, PlannedRun, Point, num_workers
from bfc_lightning.experiments.progress import RunsProgress
from bfc_lightning.experiments.reasons import explain, outcome_of, tail_of
from bfc_lightning.experiments.results import (
    DONE,
    FAILED,
    MISSING,
    Row,
    as_csv,
    as_markdown,
    of_point,
    read_row,
)
from bfc_lightning.experiments.scaling_picture import scaling_figure
from bfc_lightning.experiments.scaling_report import scaling_csv, scaling_sections
from bfc_lightning.experiments.settings import LOGS, RUNS, TOGETHER, TRIALS, as_yaml
from bfc_lightning.experiments.tuning import Choice, choose, keep_choice, trials_csv
from bfc_lightning.experiments.workers import Ended, Function, Started, Task, WorkerPool
from bfc_lightning.files import replacing, write_atomically

_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """What became of a comparison.

    Attributes:
        rows: one for each run, learner by learner.
        num_refused: of these, how many found a mistake in their settings.
        signum: the signal that stopped it, 0 if none.
        choices: what tuning chose, at each point where it was done.
        num_trials_left: runs of the tuning that did not come to an end.
    """

    rows: list[Row]
    num_refused: int
    signum: int
    choices: dict[Point, Choice] = field(default_factory=dict)
    num_trials_left: int = 0


class Record(Protocol):
    """What is known of an experiment's runs, and the files that show it."""

    folder: Path

    @property
    def experiment(self) -> Experiment:
        """What is run."""

    def commands(self, run: PlannedRun) -> list[list[str]]:
        """The words after `bfc` of the commands that make a run."""

    def look(self, run: PlannedRun, end: str | None = None) -> Row:
        """Keeps how far a run is; `end` is how its process was seen to end."""

    def write(self) -> None:
        """Writes down all rows."""


@dataclass
class _Record:
    """The rows of a comparison so far, and the files that show them."""

    comparison: Comparison
    folder: Path
    command: str
    rows: dict[str, Row] = field(default_factory=dict)
    trials: dict[str, Row] = field(default_factory=dict)
    choices: dict[Point, Choice] = field(default_factory=dict)

    @property
    def experiment(self) -> Comparison:
        return self.comparison

    def commands(self, run: PlannedRun) -> list[list[str]]:
        return commands_of(self.comparison, run, self.folder)

    def look(self, run: PlannedRun, end: str | None = None) -> Row:
        if end is None:
            limits = self.comparison.limits
            end = stop_of(run, self.folder, limits=limits, commands=self.commands)
        tested = is_tested(self.comparison, run)
        row = read_row(run, self.folder / RUNS, end=end, is_tested=tested)
        (self.rows if run.trial is None else self.trials)[run.name] = row
        return row

    def sorted_rows(self) -> list[Row]:
        rows = list(self.rows.values())
        return [row for point in points(self.comparison) for row in of_point(rows, point)]

    def write(self) -> None:
        rows = self.sorted_rows()
        comparison = self.comparison
        grid = {
            name: {"key": axis.key, "values": axis.values} for name, axis in comparison.grid.items()
        }
        differing = {"learners": comparison.learners, **({"grid": grid} if grid else {})}
        text = as_markdown(
            comparison,
            rows,
            title=self.folder.absolute().name,
            command=f"{self.command}\n    bfc compare -c {self.folder / KIND.mark}",
            settings=as_yaml(differing),
            chosen={point: choice.trial for point, choice in self.choices.items()},
            sections=scaling_sections(comparison, rows) if comparison.scaling is not None else [],
        )
        write_atomically(self.folder / "compare.csv", as_csv(rows))
        write_atomically(self.folder / "compare.md", text)
        if comparison.scaling is not None:
            write_atomically(self.folder / "scaling.csv", scaling_csv(comparison, rows))
        if self.trials:
            tried = trials_csv(comparison, list(self.trials.values()), self.choices)
            write_atomically(self.folder / "trials.csv", tried)

    def draw(self) -> None:
        title = self.folder.absolute().name
        pictures = {
            "compare": comparison_figure,
            "features": features_figure,
            "scaling": scaling_figure,
        }
        for name, make in pictures.items():
            figure = make(self.comparison, self.sorted_rows(), title=title)
            if figure is not None:
                with replacing(self.folder / f"{name}.png") as beside:
                    figure.savefig(beside, dpi=150, format="png")


def run_comparison(
    comparison: Comparison, folder: Path, *, run_one: Function, command: str
) -> Outcome:
    """Runs what is missing of a comparison: the trials of the tuning first, then its own runs.

    Args:
        comparison: what is compared.
        folder: of the comparison, claimed.
        run_one: runs commands of `bfc`, given their words as `joined` puts them; returns the exit
            status of the first one that failed, or 0.
        command: of the comparison, for its report.

    Returns:
        What became of it; table and figure are in the folder.
    """
    record = _Record(comparison, folder, command)
    tuning, runs = planned_trials(comparison), planned_runs(comparison)
    with working(record, [*tuning, *runs], run_one=run_one) as work:
        work.run(tuning)
        if not work.pool.signum:
            _choose(record, work.progress, runs)
            work.run(runs)
        record.draw()
    left = sum(row.status not in (*DONE, FAILED) for row in record.trials.values())
    return Outcome(record.sorted_rows(), work.num_refused, work.pool.signum, record.choices, left)


@contextmanager
def working(
    record: Record,
    runs: Sequence[PlannedRun],
    *,
    run_one: Function,
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator["Work"]:
    """Workers, and what shows their progress, until the block ends.

    Args:
        record: of the experiment; what is there of its runs is looked up and written down first.
        runs: all that there are.
        run_one: runs commands of `bfc`, given their words as `joined` puts them.
        environments: variables of each worker, where they differ.

    Yields:
        What runs them.
    """
    num_left = sum(record.look(run).status not in DONE for run in runs)
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
        yield Work(record, progress, pool)


def _choose(record: _Record, progress: RunsProgress, runs: Sequence[PlannedRun]) -> None:
    """Settles what the trials have shown."""
    record.choices = choose(record.comparison, list(record.trials.values()))
    for choice in record.choices.values():
        gone = keep_choice(choice, runs, record.folder)
        if gone:
            name = choice.point.name
            progress.say(f"{name} is now tuned otherwise: its {len(gone)} runs are redone.")
        progress.undo(sum(record.rows[run.name].status in DONE for run in gone))
    record.write()


@dataclass
class Work:
    """Runs under way, and what is said of them.

    Attributes:
        num_refused: runs that found a mistake in their settings, not counting trials.
    """

    record: Record
    progress: RunsProgress
    pool: WorkerPool
    num_refused: int = 0
    shown: set[str] = field(default_factory=set)

    def run(self, runs: Iterable[PlannedRun]) -> None:
        """Runs those that have no result yet: together what can be, then the rest one by one."""
        rows = [self.record.look(run) for run in runs]
        kept = self._kept_plan(rows)
        if kept is not None:
            self._run_together(rows, kept)
            rows = [self.record.look(row.run) for row in rows]  # groups replace folders
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
        if kept is not None and not self.pool.signum:
            kept.delete()

    def _kept_plan(self, rows: Sequence[Row]) -> KeptPlan | None:
        """Where it is kept who is trained with whom: trials with trials, apart from the rest."""
        if not rows or not self.record.experiment.together:
            return None
        part = RUNS if rows[0].run.trial is None else TRIALS
        return KeptPlan(self.record.folder / TOGETHER / part)

    def _run_together(self, rows: Sequence[Row], kept: KeptPlan) -> None:
        """Runs groups, those of before and new ones of what was not begun."""
        record, folder = self.record, self.record.folder
        groups = self._plan(rows, kept)
        tasks = [
            Task(
                name,
                group_words(group, record.commands, folder=folder, beside=kept.folder),
                folder / LOGS / f"{name}.txt",
                num_runs=len(group.runs),
            )
            for name, group in groups.items()
        ]
        for is_last in (False, True):
            cut_off = []
            for event in self.pool.run(tasks):
                group = groups[event.task.name]
                if isinstance(event, Started):
                    for run in group.runs:
                        self.progress.begin(run.name)
                elif not is_last and self._is_cut_off(event):
                    cut_off.append(event.task)
                    for run in group.runs:
                        self.progress.put_back(run.name)
                else:
                    self._end_together(event, group, kept)
            tasks = cut_off  # once more, from the last checkpoint

    def _plan(self, rows: Sequence[Row], kept: KeptPlan) -> dict[str, Group]:
        """Groups by name: those of the plan that was made before, unless done, and of the rest."""
        left = {row.run for row in rows if row.status not in DONE}
        plan = [group for group in kept.read(row.run for row in rows) if left & set(group.runs)]
        again = {run for group in plan for run in group.runs}
        self.progress.undo(len(again - left))
        fresh = [row.run for row in rows if row.status == MISSING and row.run not in again]
        found = groups_of(fresh, self.record.commands, self.pool.num_workers)
        grouped = {run for group in found for run in group.runs}
        plan += [*found, *(Group((run,)) for run in fresh if run not in grouped)]
        kept.write(plan)
        return {group.name: group for group in plan if len(group.runs) > 1}

    def _end_together(self, event: Ended, group: Group, kept: KeptPlan) -> None:
        """What a group left; those without a result are run alone, unless all was stopped."""
        num_done = 0
        for run in group.runs:
            row = self.record.look(run)
            if row.status in DONE:
                outcome = outcome_of(row, self.record.experiment.metrics[0])
                seconds = event.seconds / len(group.runs)
                self.progress.end(run.name, outcome, seconds, status=row.status)
                num_done += 1
            else:
                self.progress.put_back(run.name)
        is_split_up = num_done < len(group.runs) and not self.pool.signum
        if is_split_up:
            kept.part(group)
        if is_split_up or num_done == len(group.runs):  # one that was stopped goes on
            kept.delete_replicas(group)
        if is_split_up:
            others = f"{group.runs[0].name} and {len(group.runs) - 1} more"
            reason = (tail_of(event.task.log, only_last=True) or [""])[0]
            self.progress.say(f"  {others} are run one by one ({reason})")
            self.shown.add(f"    {reason}")
        self.record.write()

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
        row = self.record.look(run, end)
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
