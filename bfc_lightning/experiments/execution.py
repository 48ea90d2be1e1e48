"""Running what a comparison asks for, and writing down what came out after every run."""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bfc_lightning.experiments.commands import as_yaml, commands_of, is_tested
from bfc_lightning.experiments.comparison import (
    Comparison,
    PlannedRun,
    Point,
    num_workers,
    planned_runs,
    planned_trials,
    points,
)
from bfc_lightning.experiments.folder import COMPARISON, LOGS, RUNS
from bfc_lightning.experiments.limits import (
    LACKED_MEMORY,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    remember_stop,
    stop_of,
)
from bfc_lightning.experiments.pictures import comparison_figure, features_figure
from bfc_lightning.experiments.progress import RunsProgress
from bfc_lightning.experiments.results import (
    DONE,
    FAILED,
    Row,
    as_csv,
    as_markdown,
    of_point,
    read_row,
)
from bfc_lightning.experiments.scaling_picture import scaling_figure
from bfc_lightning.experiments.scaling_report import scaling_csv, scaling_sections
from bfc_lightning.experiments.tuning import Choice, choose, keep_choice, trials_csv
from bfc_lightning.experiments.workers import Ended, Function, Started, Task, WorkerPool
from bfc_lightning.files import replacing, write_atomically

AND = "&&"
_REFUSED = 2
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_TAIL_LINES = 6


@dataclass(frozen=True)
class Outcome:
    """What became of a comparison.

    Attributes:
        rows: one for each run, learner by learner.
        num_refused: runs that found a mistake in their settings.
        signum: the signal that stopped it, 0 if none.
        choices: what tuning chose, at each point where it was done.
        num_trials_left: runs of the tuning that did not come to an end.
    """

    rows: list[Row]
    num_refused: int
    signum: int
    choices: dict[Point, Choice] = field(default_factory=dict)
    num_trials_left: int = 0


@dataclass
class _Record:
    """The rows so far, and the files that show them."""

    comparison: Comparison
    folder: Path
    command: str
    rows: dict[str, Row] = field(default_factory=dict)
    trials: dict[str, Row] = field(default_factory=dict)
    choices: dict[Point, Choice] = field(default_factory=dict)

    def look(self, run: PlannedRun, end: str | None = None) -> Row:
        if end is None:
            end = stop_of(run, self.folder, self.comparison.limits)
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
            command=f"{self.command}\n    bfc compare -c {self.folder / COMPARISON}",
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
    todo = [run for run in (*tuning, *runs) if record.look(run).status not in DONE]
    record.write()
    total = len(tuning) + len(runs)
    workers = min(num_workers(comparison), max(1, len(todo)))
    with (
        RunsProgress(total, num_done=total - len(todo), num_workers=workers) as progress,
        WorkerPool(run_one, workers, seconds=comparison.limits.seconds) as pool,
    ):
        if total > len(todo):
            progress.say(f"{total - len(todo)} of {total} runs are done already.")
        work = _Work(record, progress, pool)
        work.run(tuning)
        if not pool.signum:
            work.choose(runs)
            work.run(runs)
        record.draw()
    left = sum(row.status not in (*DONE, FAILED) for row in record.trials.values())
    return Outcome(record.sorted_rows(), work.num_refused, pool.signum, record.choices, left)


def joined(commands: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The words of several commands in one row, with `&&` between them."""
    words = [word for command in commands for word in (AND, *command)]
    return tuple(words[1:])


@dataclass
class _Work:
    """Runs under way, and what is said of them."""

    record: _Record
    progress: RunsProgress
    pool: WorkerPool
    num_refused: int = 0
    shown: set[str] = field(default_factory=set)

    def run(self, runs: Iterable[PlannedRun]) -> None:
        """Runs those that have no result yet."""
        comparison, folder = self.record.comparison, self.record.folder
        todo = {run.name: run for run in runs if self.record.look(run).status not in DONE}
        tasks = [
            Task(
                name,
                joined(commands_of(comparison, run, folder)),
                folder / LOGS / f"{name}.txt",
            )
            for name, run in todo.items()
        ]
        for event in self.pool.run(tasks):
            if isinstance(event, Started):
                self.progress.begin(event.task.name)
            else:
                self._end(event, todo[event.task.name])

    def choose(self, runs: Sequence[PlannedRun]) -> None:
        """Settles what the trials have shown."""
        record = self.record
        record.choices = choose(record.comparison, list(record.trials.values()))
        for choice in record.choices.values():
            gone = keep_choice(choice, runs, record.folder)
            if gone:
                name = choice.point.name
                self.progress.say(
                    f"{name} is now tuned otherwise: its {len(gone)} runs are redone."
                )
            self.progress.undo(sum(record.rows[run.name].status in DONE for run in gone))
        record.write()

    def _end(self, event: Ended, run: PlannedRun) -> None:
        """What a run left behind; one that left no result and was not stopped has failed."""
        is_stopped = event.status in _STOPPED and not event.has_died
        end: str | None = FAILED
        if event.is_overdue:
            end = OUT_OF_TIME
        elif event.status == LACKED_MEMORY and not event.has_died:
            end = OUT_OF_MEMORY
        elif self.pool.signum or is_stopped:
            end = None
        row = self.record.look(run, end)
        if row.status in (OUT_OF_TIME, OUT_OF_MEMORY):
            remember_stop(run, self.record.folder, row.status, self.record.comparison.limits)
        self.num_refused += row.status == FAILED and event.status == _REFUSED
        headline = self.record.comparison.metrics[0]
        self.progress.end(event.task.name, _outcome(row, headline), event.seconds)
        if row.status == FAILED:
            _explain(event, self.progress, self.shown)
        self.record.write()


def _outcome(row: Row, headline: str) -> str:
    value = row.metrics.get(headline)
    words = row.status.replace("_", " ")
    return words if value is None else f"{words} {headline} {value:.1e}"


def _explain(event: Ended, progress: RunsProgress, shown: set[str]) -> None:
    """Says why a run failed, the same reason only once."""
    if event.has_died:
        what = f"its process died (exit code {event.status})"
        if event.status < 0:
            what = f"its process was killed by signal {-event.status}"
    else:
        what = f"exit status {event.status}"
    tail = _tail(event.task.log, only_last=event.status == _REFUSED)
    reason = "\n".join(f"    {line}" for line in tail)
    if reason and reason in shown:
        reason = "    as before"
    shown.add(reason)
    progress.say(f"  {event.task.name} failed: {what}; {event.task.log} ends with\n{reason}")


def _tail(log: Path, *, only_last: bool) -> Sequence[str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-(1 if only_last else _TAIL_LINES) :]
