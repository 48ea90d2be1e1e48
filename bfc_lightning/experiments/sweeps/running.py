"""Running what is missing of a sweep, and writing down what came out after every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bfc_lightning.experiments.execution import Outcome
from bfc_lightning.experiments.grouping import ReadFit
from bfc_lightning.experiments.limits import stop_of
from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.experiments.results import Row, read_row
from bfc_lightning.experiments.settings import RUNS, as_yaml
from bfc_lightning.experiments.sweeps.commands import commands_of
from bfc_lightning.experiments.sweeps.folder import KIND, kept_bases
from bfc_lightning.experiments.sweeps.picture import sweep_figure
from bfc_lightning.experiments.sweeps.results import sweep_csv, sweep_markdown
from bfc_lightning.experiments.sweeps.sweep import Sweep, sweep_points, sweep_runs
from bfc_lightning.experiments.work import working
from bfc_lightning.experiments.workers import Function
from bfc_lightning.files import replacing, write_atomically


@dataclass
class _Record:
    """The rows of a sweep so far, and the files that show them."""

    experiment: Sweep
    folder: Path
    command: str
    more: Sequence[str] = ()
    rows: dict[str, Row] = field(default_factory=dict)

    @cached_property
    def _words(self) -> dict[PlannedRun, list[str]]:
        bases = kept_bases(self.experiment, self.folder)
        return commands_of(self.experiment, self.folder, bases=bases)

    def commands(self, run: PlannedRun) -> list[list[str]]:
        return [[*self._words[run], *self.more]]

    def take_snapshot(self, run: PlannedRun, end: str | None = None) -> Row:
        if end is None:
            limits = self.experiment.limits
            end = stop_of(run, self.folder, limits=limits, commands=self.commands)
        row = read_row(run, self.folder / RUNS, end=end)
        self.rows[run.name] = row
        return row

    def sorted_rows(self) -> list[Row]:
        order = {point: number for number, point in enumerate(sweep_points(self.experiment))}
        return sorted(self.rows.values(), key=lambda row: order[row.run.point])

    def write(self) -> None:
        sweep, rows = self.experiment, self.sorted_rows()
        text = sweep_markdown(
            sweep,
            rows,
            title=self.folder.absolute().name,
            command=f"{self.command}\n    bfc sweep -c {self.folder / KIND.mark}",
            settings=as_yaml({"grid": sweep.grid} if sweep.grid else {"points": sweep.points}),
        )
        write_atomically(self.folder / "sweep.csv", sweep_csv(sweep, rows))
        write_atomically(self.folder / "sweep.md", text)

    def draw(self) -> None:
        title = self.folder.absolute().name
        figure = sweep_figure(self.experiment, self.sorted_rows(), title=title)
        if figure is not None:
            with replacing(self.folder / "sweep.png") as beside:
                figure.savefig(beside, dpi=150, format="png")


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    run_one: Function,
    read_fit: ReadFit,
    command: str,
    environments: Sequence[Mapping[str, str]] = (),
) -> Outcome:
    """Runs what is missing of a sweep.

    Args:
        sweep: what is swept.
        folder: of the sweep, claimed.
        run_one: runs commands of `bfc`; returns the exit status.
        read_fit: parses what follows `fit`.
        command: of the sweep, for its report.
        environments: variables of each worker where each has a GPU of its own, else none.

    Returns:
        What became of it; table and figure are in the folder.
    """
    more = ("--trainer.devices", "1") if environments else ()
    record = _Record(sweep, folder, command, more)
    runs = sweep_runs(sweep)
    with working(
        record, runs, run_one=run_one, read_fit=read_fit, environments=environments
    ) as work:
        work.run(runs)
        record.draw()
    return Outcome(record.sorted_rows(), work.num_refused, work.pool.signum)


def report_sweep(sweep: Sweep, folder: Path, *, command: str) -> Outcome:
    """Looks how far a sweep is, and makes its table and figure of what is there; runs nothing.

    Args:
        sweep: what is swept.
        folder: of the sweep, claimed.
        command: of the sweep, for its report.

    Returns:
        How far it is.
    """
    record = _Record(sweep, folder, command)
    for run in sweep_runs(sweep):
        record.take_snapshot(run)
    record.write()
    record.draw()
    return Outcome(record.sorted_rows(), num_refused=0, signum=0)
