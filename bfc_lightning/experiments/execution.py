"""Running what a comparison asks for, and writing down what came out after every run."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bfc_lightning.experiments.comparison import (
    Comparison,
    PlannedRun,
    as_yaml,
    fit_words,
    num_workers,
    planned_runs,
    points,
)
from bfc_lightning.experiments.folder import COMPARISON, LOGS, RUNS
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
from bfc_lightning.experiments.workers import Ended, Function, Started, Task, WorkerPool
from bfc_lightning.files import write_atomically

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
    """

    rows: list[Row]
    num_refused: int
    signum: int


@dataclass
class _Record:
    """The rows so far, and the files that show them."""

    comparison: Comparison
    folder: Path
    command: str
    rows: dict[str, Row] = field(default_factory=dict)

    def look(self, run: PlannedRun, *, has_failed: bool = False) -> Row:
        row = read_row(run, self.folder / RUNS, has_failed=has_failed)
        self.rows[run.name] = row
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
        )
        write_atomically(self.folder / "compare.csv", as_csv(rows))
        write_atomically(self.folder / "compare.md", text)

    def draw(self) -> None:
        title = self.folder.absolute().name
        for name, make in (("compare", comparison_figure), ("features", features_figure)):
            figure = make(self.comparison, self.sorted_rows(), title=title)
            if figure is not None:
                figure.savefig(self.folder / f"{name}.png", dpi=150)


def run_comparison(
    comparison: Comparison, folder: Path, *, run_one: Function, command: str
) -> Outcome:
    """Runs what is missing of a comparison.

    Args:
        comparison: what is compared.
        folder: of the comparison, claimed.
        run_one: runs one command of `bfc`, given its words; returns its exit status.
        command: of the comparison, for its report.

    Returns:
        What became of it; table and figure are in the folder.
    """
    record = _Record(comparison, folder, command)
    runs = {run.name: run for run in planned_runs(comparison)}
    waiting = [run for run in runs.values() if record.look(run).status not in DONE]
    tasks = [
        Task(run.name, tuple(fit_words(comparison, run, folder)), folder / LOGS / f"{run.name}.txt")
        for run in waiting
    ]
    record.write()
    workers = min(num_workers(comparison), max(1, len(tasks)))
    num_done = len(runs) - len(tasks)
    refused = 0
    shown: set[str] = set()
    with (
        RunsProgress(len(runs), num_done=num_done, num_workers=workers) as progress,
        WorkerPool(run_one, workers) as pool,
    ):
        if num_done:
            progress.say(f"{num_done} of {len(runs)} runs are done already.")
        for event in pool.run(tasks):
            if isinstance(event, Started):
                progress.begin(event.task.name)
                continue
            row = _look_at(event, record, runs[event.task.name], is_stopping=bool(pool.signum))
            refused += row.status == FAILED and event.status == _REFUSED
            progress.end(event.task.name, _outcome(row, comparison.metrics[0]), event.seconds)
            if row.status == FAILED:
                _explain(event, progress, shown)
            record.write()
        record.draw()
    return Outcome(record.sorted_rows(), refused, pool.signum)


def _look_at(event: Ended, record: _Record, run: PlannedRun, *, is_stopping: bool) -> Row:
    """What a run left behind; one that left no result and was not stopped has failed."""
    was_stopped = is_stopping or (event.status in _STOPPED and not event.has_died)
    return record.look(run, has_failed=not was_stopped)


def _outcome(row: Row, headline: str) -> str:
    value = row.metrics.get(headline)
    return row.status if value is None else f"{row.status} {headline} {value:.1e}"


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
