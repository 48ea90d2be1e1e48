"""Runs the missing runs of an experiment and writes its report."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from bfc_lightning.experiments.cluster import runs_in_jobs, submit, watch
from bfc_lightning.experiments.plots import write_figures
from bfc_lightning.experiments.pool import Pool
from bfc_lightning.experiments.record import RUNS, Record, write_plan
from bfc_lightning.experiments.spec import Experiment, RunSpec
from bfc_lightning.experiments.tables import write_tables
from bfc_lightning.files import remove_unfinished
from bfc_lightning.runs.folder import RunError, locked


def run_experiment(
    experiment: Experiment,
    runs: Sequence[RunSpec],
    *,
    formats: Sequence[str] = ("png",),
    report_only: bool = False,
) -> Record:
    """Runs what is missing unless `report_only`, and writes tables and figures.

    A new folder is removed if every run refuses its settings, or a cluster refuses the job.
    """
    folder = experiment.folder
    with removed_if_refused(folder), nullcontext() if report_only else locked(folder):
        in_jobs: dict[str, str] = {}
        with suppress(RunError) if report_only else nullcontext():  # a report needs no squeue
            in_jobs = runs_in_jobs(folder)
        if not report_only:
            _clear(experiment, in_jobs)
        record = Record(experiment, runs, in_jobs)
        if not report_only:
            _run_missing(record)
            if record.in_jobs:
                return record
        write_tables(experiment, record.results, record.chosen, record.trials)
        write_figures(experiment, record.results, formats)
        if reason := record.refusal():
            raise RunError(f"every run refused its settings: {reason}")
        return record


def _clear(experiment: Experiment, in_jobs: dict[str, str]) -> None:
    """Deletes what killed processes left behind, or the experiment if it is to be replaced."""
    folder = experiment.folder
    if experiment.run.overwrite:
        if in_jobs:
            jobs = ", ".join(sorted(set(in_jobs.values())))
            raise RunError(f"run.overwrite needs an experiment without jobs: scancel {jobs} first.")
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not in_jobs:
        for each in (folder, folder / RUNS):
            remove_unfinished(each)


def _run_missing(record: Record) -> None:
    """Runs what is not done and in no job; learners that are tuned follow their trials."""
    experiment, todo, made = record.experiment, record.todo(), set[str]()
    while True:
        made |= {run.name for run in todo}
        if experiment.cluster.name == "local":
            write_plan(experiment)
            record.run(todo, _pool(experiment))
        elif todo:
            submit(record, todo)
        record.refresh()
        if record.in_jobs and experiment.cluster.wait:
            watch(record)
        todo = [run for run in record.todo() if run.name not in made]
        if record.signum or record.in_jobs or not todo:
            return


def _pool(experiment: Experiment) -> Pool:
    """One process per core and thread, or one per GPU if the runs ask for GPUs."""
    accelerator = experiment.settings.get("trainer", {}).get("accelerator", "auto")
    count = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = experiment.workers or count or max(1, (cores or 1) // experiment.run.threads)
    return Pool(workers, experiment.limits, gpus)


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
