"""Plan, execute, tables, plots: what is missing of an experiment is run, and then reported."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
import yaml
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from bfc_lightning.experiments.plots import write_figures
from bfc_lightning.experiments.pool import Pool, Task, Worker
from bfc_lightning.experiments.spec import (
    DIVERGED,
    DONE,
    FAILED,
    FINISHED,
    INTERRUPTED,
    MARK,
    MISSING,
    OOM,
    TIMEOUT,
    Experiment,
    RunSpec,
)
from bfc_lightning.experiments.tables import choose, write_tables
from bfc_lightning.files import remove_unfinished, write_atomically, write_json
from bfc_lightning.runs.config import differences, identity, listed
from bfc_lightning.runs.folder import CONFIG, RunError, locked
from bfc_lightning.runs.loading import read_summary
from bfc_lightning.runs.yaml_files import to_yaml

_CONFIGS, _RUNS, _LOGS, _STOPPED = "configs", "runs", "logs", "stopped.json"
_EXIT_USAGE, _EXIT_OOM = 2, 4
_WRITE_SECONDS = 10.0

Say = Callable[..., None]


def run_experiment(
    experiment: Experiment,
    runs: Sequence[RunSpec],
    *,
    formats: Sequence[str] = ("png",),
    begins: bool = True,
) -> "Record":
    """Runs what is missing and writes tables and figures; unless it `begins`, it only reports.

    A new folder is removed if every run refuses its settings.
    """
    folder = experiment.folder
    with removed_if_refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if begins and experiment.run.overwrite:
                for path in folder.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for each in (folder, folder / _RUNS):
                remove_unfinished(each)
            record = Record(experiment, runs)
            if begins:
                write_plan(experiment, runs)
                record.run()
            record.write()
            write_figures(experiment, record.results, formats)
            if record.refused.issuperset(record.results["run"]):
                raise RunError(f"every run refused its settings: {record.reasons[0]}")
            return record


@contextmanager
def removed_if_refused(folder: Path) -> Iterator[None]:
    """Removes a new folder, and those above that were made for it, if the block refuses to run."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except RunError:
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def commands(experiment: Experiment, run: RunSpec) -> list[tuple[str, ...]]:
    """The commands that begin a run or continue it."""
    folder = experiment.folder
    command, more = "fit", {"resume": "auto", "trainer.enable_progress_bar": "false"}
    if "baseline" in run.config:
        command, more = "baseline", {"run.overwrite": "true"}
    options = {
        "seed_everything": run.seed,
        "run.root": folder / _RUNS,
        "run.name": run.name,
        "run.figures": "false",
        "run.threads": experiment.run.threads,
        **more,
        **({"run.alike": run.num_alike} if run.num_alike > 1 else {}),
    }
    config = str(folder / _CONFIGS / f"{run.stem}.yaml")
    found = [(command, "-c", config, *(f"--{key}={value}" for key, value in options.items()))]
    if run.is_tested:
        found.append(("test", "-c", str(folder / _RUNS / run.name / CONFIG)))
    return found


def write_plan(experiment: Experiment, runs: Sequence[RunSpec]) -> None:
    """Writes `compare.yaml`, which runs the experiment again, and the settings of every point."""
    folder = experiment.folder
    (folder / _CONFIGS).mkdir(parents=True, exist_ok=True)
    source = asdict(experiment.source)
    source["base"] = ["base.yaml"]
    source["run"].update(name=None, overwrite=False)
    write_atomically(folder / MARK, f"# {experiment.command}\n{to_yaml(source)}")
    write_atomically(folder / "base.yaml", to_yaml(experiment.settings))
    for stem, run in {run.stem: run for run in runs}.items():
        path = folder / _CONFIGS / f"{stem}.yaml"
        write_atomically(path, to_yaml(run.config), sync=False)


class Record:
    """The rows of an experiment so far: `results` as in `compare.csv`, and `trials` of the tuning.

    `signum` is the signal that has stopped it, `refused` are the names of runs that refused their
    settings, and `reasons` says why runs have failed.
    """

    def __init__(self, experiment: Experiment, runs: Sequence[RunSpec]) -> None:
        self.experiment = experiment
        self.signum = 0
        self.refused: set[str] = set()
        self.reasons: list[str] = []
        self._trials = [run for run in runs if run.is_trial]
        self._candidates = [run for run in runs if not run.is_trial]
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._written = 0.0
        stopped = experiment.folder / _STOPPED
        self._stopped: dict[str, Any] = json.loads(stopped.read_text()) if stopped.is_file() else {}
        self._choose()

    @property
    def num_left(self) -> int:
        """How many runs are not over."""
        return int((~self.results["status"].isin(DONE)).sum())

    def all_runs(self) -> list[RunSpec]:
        """Those of the tuning, and its own once the choice is made."""
        is_chosen = self.chosen.keys() == {run.point for run in self._trials}
        return [*self._trials, *(self._runs if is_chosen else [])]

    def run(self) -> None:
        """Runs those that are not over."""
        total = len(self._trials) + len(self._runs)
        with _progress(total) as say, _pool(self.experiment) as pool:
            self._run(self._trials, pool, say)
            self._choose()
            self._run(self._runs, pool, say)
            self.signum = pool.signum

    def write(self) -> None:
        """Writes the tables."""
        self._choose()
        write_tables(self.experiment, self.results, self.chosen, self.trials)
        self._written = time.monotonic()

    def _choose(self) -> None:
        """Chooses among the trials that are over; until then, the first one has a row."""
        self.trials = self._frame(self._trials)
        self.chosen = choose(self.experiment, self.trials)
        best = {run.point: run.trial for run in reversed(self._candidates)} | self.chosen
        self._runs = [run for run in self._candidates if run.trial == best[run.point]]
        order = list(self.experiment.learners)
        self.results = self._frame(sorted(self._runs, key=lambda run: order.index(run.learner)))

    def _frame(self, runs: Sequence[RunSpec]) -> pd.DataFrame:
        for run in runs:
            if run.name not in self._rows:
                self._rows[run.name] = self._read(run)
        return pd.DataFrame([row for run in runs for row in self._rows[run.name]])

    def _read(self, run: RunSpec, end: str = "") -> list[dict[str, Any]]:
        """What a run's folder says of each seed; `end` is how it ended without a result."""
        path = self.experiment.folder / _RUNS / run.name
        summary = read_summary(path)
        _check_unchanged(run, summary, path)
        status = summary.get("status", MISSING)
        if status not in (*DONE, MISSING):
            status = INTERRUPTED
        parts = _by_seed(summary, run)
        if status == FINISHED and run.is_tested:
            scores = path / "test.json"
            if scores.is_file():
                tested = _by_seed(json.loads(scores.read_text(encoding="utf-8")), run)
                pairs = zip(parts, tested, strict=True)
                parts = [{**a, "metrics": a["metrics"] | b["metrics"]} for a, b in pairs]
            else:
                status = INTERRUPTED
        if status not in DONE:
            status = self._end(run, end) or status
        return [
            {
                "run": run.name,
                "learner": run.learner,
                **run.labels,
                **({"trial": run.trial} if run.is_trial else {}),
                "seed": run.seed + number,
                "status": DIVERGED if part.get("status") == DIVERGED else status,
                "steps": summary.get("steps", math.nan),
                "samples_seen": summary.get("samples_seen", math.nan) / run.num_seeds,
                "wall_seconds": summary.get("wall_seconds", math.nan),
                **{k: float(v) for k, v in part["metrics"].items() if v is not None},
            }
            for number, part in enumerate(parts)
        ]

    def _end(self, run: RunSpec, end: str) -> str:
        """How the process of a run ended, now or before, unless the limit that ended it grew."""
        limits = {TIMEOUT: self.experiment.limits.seconds, OOM: self.experiment.limits.gigabytes}
        if end in limits:
            self._stopped[run.name] = {"status": end, "limit": limits[end], "digest": run.digest}
            write_json(self.experiment.folder / _STOPPED, self._stopped)
        stop = self._stopped.get(run.name, {"digest": ""})
        if end or stop["digest"] != run.digest:
            return end
        is_same = (limits[stop["status"]] or math.inf) <= (stop["limit"] or 0)
        return str(stop["status"]) if is_same else ""

    def _run(self, runs: Sequence[RunSpec], pool: Pool, say: Say) -> None:
        todo = {
            run.name: run
            for run in runs
            if not {row["status"] for row in self._rows[run.name]}.issubset(DONE)
        }
        if len(todo) < len(runs):
            say("runs were finished before.", done=len(runs) - len(todo))
        logs = self.experiment.folder / _LOGS
        tasks = [
            Task(name, tuple(commands(self.experiment, run)), logs / f"{name}.txt")
            for name, run in todo.items()
        ]
        metric = self.experiment.metrics[0]
        for worker in pool.run(tasks):
            name = worker.task.name
            self._rows[name] = self._read(todo[name], _end_of(worker, pool))
            values = [row[metric] for row in self._rows[name] if metric in row]
            score = f" {metric} {median(values):.1e}" if values else ""
            status = self._rows[name][0]["status"]
            say(f"{name} {status}{score} ({worker.seconds:.0f} s)", done=1)
            if status == FAILED:
                self._explain(worker, say)
            if time.monotonic() - self._written > _WRITE_SECONDS:
                self.write()

    def _explain(self, worker: Worker, say: Say) -> None:
        """Says why a run failed, each reason once."""
        name, log = worker.task.name, worker.task.log
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        reason = lines[-1].removeprefix("bfc: error: ") if lines else ""
        if worker.code < 0:
            reason = f"killed by signal {-worker.code}"
        if worker.code == _EXIT_USAGE:
            self.refused.add(name)
        if reason not in self.reasons:
            self.reasons.append(reason)
            say(f"{name} failed: {reason} (see {log})")


def _by_seed(content: Mapping[str, Any], run: RunSpec) -> list[dict[str, Any]]:
    """The results of each seed, of a run or of replicas."""
    alone = {"metrics": content.get("metrics", {})}
    return content.get("replicas") or [alone for _ in range(run.num_seeds)]


def _check_unchanged(run: RunSpec, summary: Mapping[str, Any], path: Path) -> None:
    """Refuses to count a run that was made with other settings."""
    if summary.get("digest", run.digest) != run.digest:
        stored = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        here = {**run.config, "seed_everything": run.seed}
        clauses = differences(identity(stored), identity(here))
        raise RunError(
            f"settings have changed since the run {run.name} was begun: {listed(clauses)}. "
            "Give the experiment another --run.name, or --run.overwrite true."
        )


def _end_of(worker: Worker, pool: Pool) -> str:
    """The status of a run whose process ended without a result."""
    if worker.is_overdue:
        return TIMEOUT
    if worker.code == _EXIT_OOM:
        return OOM
    return INTERRUPTED if pool.signum else FAILED


def _pool(experiment: Experiment) -> Pool:
    """One process per core and thread, or one per GPU if the runs ask for GPUs."""
    accelerator = experiment.settings.get("trainer", {}).get("accelerator", "auto")
    count = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = experiment.workers or count or max(1, (cores or 1) // experiment.run.threads)
    return Pool(workers, limits=experiment.limits, gpus=gpus)


@contextmanager
def _progress(total: int) -> Iterator[Say]:
    """A function that prints a line on stderr and advances a bar, which a terminal shows."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("runs", total=total)

        def say(line: str, done: int = 0) -> None:
            progress.advance(bar, done)
            number = f"{progress.tasks[0].completed:.0f}/{total}" if done else " "
            console.out(number, line, highlight=False)

        yield say
