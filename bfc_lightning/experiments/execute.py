"""Plan, execute, tables, plots: what is missing of an experiment is run, and then reported."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from bfc_lightning.experiments.cluster import runs_in_jobs, submit, watch
from bfc_lightning.experiments.plots import write_figures
from bfc_lightning.experiments.record import RUNS, Record, write_plan
from bfc_lightning.experiments.spec import Experiment, RunSpec
from bfc_lightning.files import remove_unfinished
from bfc_lightning.runs.folder import RunError, locked


def run_experiment(
    experiment: Experiment,
    runs: Sequence[RunSpec],
    *,
    formats: Sequence[str] = ("png",),
    begins: bool = True,
) -> Record:
    """Runs what is missing and writes tables and figures; unless it `begins`, it only reports.

    A new folder is removed if every run refuses its settings, or a cluster refuses the job.
    """
    folder = experiment.folder
    with removed_if_refused(folder), locked(folder) if begins else nullcontext():
        held: dict[str, str] = {}
        with nullcontext() if begins else suppress(RunError):  # a report needs no squeue
            held = runs_in_jobs(folder)
        if begins:
            _clear(experiment, held)
        record = Record(experiment, runs, held)
        if begins:
            _run_missing(record)
            if record.held:
                return record
        record.write()
        write_figures(experiment, record.results, formats)
        if reason := record.refusal():
            raise RunError(f"every run refused its settings: {reason}")
        return record


def _clear(experiment: Experiment, held: dict[str, str]) -> None:
    """Deletes what killed processes left behind, or the experiment if it is to be replaced."""
    folder = experiment.folder
    if experiment.run.overwrite:
        if held:
            jobs = ", ".join(sorted(set(held.values())))
            raise RunError(f"run.overwrite needs an experiment without jobs: scancel {jobs} first.")
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not held:
        for each in (folder, folder / RUNS):
            remove_unfinished(each)


def _run_missing(record: Record) -> None:
    """Runs what is not over and in no job; learners that are tuned follow their trials."""
    experiment, todo, made = record.experiment, record.todo(), set[str]()
    while True:
        made |= {run.name for run in todo}
        if experiment.cluster.name == "local":
            write_plan(experiment)
            record.run(todo)
        elif todo:
            record.held |= submit(record, todo)
        record.refresh(record.held)
        if record.held and experiment.cluster.wait:
            watch(record)
        todo = [run for run in record.todo() if run.name not in made]
        if record.signum or record.held or not todo:
            return


@contextmanager
def removed_if_refused(folder: Path) -> Iterator[None]:
    """Makes a folder; removes what it has made if the block refuses to run before any run began."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except RunError:
        if missing and not any((folder / RUNS).glob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise
