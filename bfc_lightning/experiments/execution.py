"""Running what a comparison asks for, and writing down what came out after every run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bfc_lightning.experiments.commands import commands_of, is_tested
from bfc_lightning.experiments.comparison import Comparison, planned_runs, planned_trials, points
from bfc_lightning.experiments.folder import KIND
from bfc_lightning.experiments.grouping import ReadFit
from bfc_lightning.experiments.limits import stop_of
from bfc_lightning.experiments.pictures import comparison_figure
from bfc_lightning.experiments.plan import PlannedRun, Point
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
from bfc_lightning.experiments.settings import RUNS, as_yaml
from bfc_lightning.experiments.tuning import Choice, choose, keep_choice, trials_csv
from bfc_lightning.experiments.work import working
from bfc_lightning.experiments.workers import Function
from bfc_lightning.files import replacing, write_atomically


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

    def take_snapshot(self, run: PlannedRun, end: str | None = None) -> Row:
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
            "scaling": scaling_figure,
        }
        for name, make in pictures.items():
            figure = make(self.comparison, self.sorted_rows(), title=title)
            if figure is not None:
                with replacing(self.folder / f"{name}.png") as beside:
                    figure.savefig(beside, dpi=150, format="png")


def run_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    run_one: Function,
    read_fit: ReadFit,
    command: str,
) -> Outcome:
    """Runs what is missing of a comparison: the trials of the tuning first, then its own runs.

    Args:
        comparison: what is compared.
        folder: of the comparison, claimed.
        run_one: runs commands of `bfc`, given their words as `joined` puts them; returns the exit
            status of the first one that failed, or 0.
        read_fit: parses what follows `fit`.
        command: of the comparison, for its report.

    Returns:
        What became of it; table and figure are in the folder.
    """
    record = _Record(comparison, folder, command)
    tuning, runs = planned_trials(comparison), planned_runs(comparison)
    with working(record, [*tuning, *runs], run_one=run_one, read_fit=read_fit) as work:
        work.run(tuning)
        if not work.pool.signum:
            _choose(record, work.progress, runs)
            work.run(runs)
        record.draw()
    left = sum(row.status not in (*DONE, FAILED) for row in record.trials.values())
    return Outcome(record.sorted_rows(), work.num_refused, work.pool.signum, record.choices, left)


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
