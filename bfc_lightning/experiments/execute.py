"""Plan, execute, tables, plots: what is missing of an experiment is run, and then reported."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bfc_lightning.experiments.plots import write_figures
from bfc_lightning.experiments.pool import Ended, Pool, Task
from bfc_lightning.experiments.reading import chosen_runs, expand
from bfc_lightning.experiments.spec import (
    DIVERGED,
    DONE,
    FAILED,
    FINISHED,
    INTERRUPTED,
    MISSING,
    OOM,
    TIMEOUT,
    Experiment,
    Limits,
    Place,
    RunSpec,
    trial_name,
)
from bfc_lightning.experiments.tables import Chosen, write_tables
from bfc_lightning.experiments.tuning import choose
from bfc_lightning.files import remove_unfinished, write_atomically, write_json
from bfc_lightning.runs.config import differences, identity, listed
from bfc_lightning.runs.folder import CONFIG, RunError
from bfc_lightning.runs.loading import read_summary
from bfc_lightning.runs.yaml_files import to_yaml

MARK = "compare.yaml"
_CONFIGS, _RUNS, _LOGS, _STOPPED = "configs", "runs", "logs", "stopped.json"
_EXIT_USAGE, _EXIT_OOM = 2, 4
_LIMIT_OF = {TIMEOUT: "seconds", OOM: "gigabytes"}
_WRITE_SECONDS = 10.0
_NUMBERS = ("steps", "samples_seen", "wall_seconds")

Say = Callable[..., None]


@dataclass
class Outcome:
    """What became of an experiment."""

    results: pd.DataFrame
    trials: pd.DataFrame | None = None
    chosen: Chosen = field(default_factory=dict)
    signum: int = 0
    num_refused: int = 0
    reasons: list[str] = field(default_factory=list)


def run_experiment(
    experiment: Experiment, place: Place, *, formats: Sequence[str] = ("png",), runs: bool = True
) -> Outcome:
    """Runs what is missing and writes tables and figures; with `runs=False` it only reports."""
    trials, candidates = expand(experiment)
    check_unchanged([*trials, *candidates], place.folder)
    record = _Record(experiment, place, trials, candidates)
    if runs:
        write_plan(experiment, place, [*trials, *candidates])
        total = len(trials) + len(record.runs)
        with _progress(total) as say, _pool(experiment, total) as pool:
            _run(record, pool, say, trials)
            record.choose()
            if not pool.signum:
                _run(record, pool, say, record.runs)
            record.outcome.signum = pool.signum
    record.choose()
    record.write()
    write_figures(experiment, record.outcome.results, place, formats)
    return record.outcome


def all_runs(experiment: Experiment, place: Place) -> list[RunSpec]:
    """Every run in a fixed order: those of the tuning, and its own once the choice is made."""
    trials, candidates = expand(experiment)
    record = _Record(experiment, place, trials, candidates)
    record.choose()
    is_chosen = len(record.outcome.chosen) == len({run.point for run in trials})
    return [*trials, *(record.runs if is_chosen else [])]


def commands(experiment: Experiment, run: RunSpec, folder: Path) -> list[tuple[str, ...]]:
    """The commands that begin a run or continue it."""
    options = {
        "seed_everything": run.seed,
        "run.root": folder / _RUNS,
        "run.name": run.name,
        "run.figures": "false",
        "run.threads": experiment.threads,
    }
    if run.is_baseline:
        options |= {"run.overwrite": "true"}
    else:
        options |= {"resume": "auto", "trainer.enable_progress_bar": "false"}
    command = "baseline" if run.is_baseline else "fit"
    config = str(folder / _CONFIGS / f"{run.stem}.yaml")
    found = [(command, "-c", config, *(f"--{key}={value}" for key, value in options.items()))]
    if _is_tested(experiment, run):
        found.append(("test", "-c", str(folder / _RUNS / run.name / CONFIG)))
    return found


def _is_tested(experiment: Experiment, run: RunSpec) -> bool:
    return experiment.test and not run.is_baseline and not run.is_trial


def write_plan(experiment: Experiment, place: Place, runs: Sequence[RunSpec]) -> None:
    """Writes the settings of every point, and `compare.yaml`, which runs the experiment again."""
    folder = place.folder
    (folder / _CONFIGS).mkdir(parents=True, exist_ok=True)
    for stem, run in {run.stem: run for run in runs}.items():
        path = folder / _CONFIGS / f"{stem}.yaml"
        text = to_yaml(run.config)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text, sync=False)
    write_atomically(folder / "base.yaml", to_yaml(experiment.base))
    own = {**experiment.source["run"], "name": folder.absolute().name, "overwrite": False}
    own["root"] = str(folder.parent)
    source = {**experiment.source, "base": ["base.yaml"], "run": own}
    write_atomically(folder / MARK, f"# {place.command}\n{to_yaml(source)}")


def check_unchanged(runs: Sequence[RunSpec], folder: Path) -> None:
    """Refuses to count runs that were made with other settings."""
    for run in runs:
        stored = read_summary(folder / _RUNS / run.name).get("digest", run.digest)
        if stored != run.digest:
            text = (folder / _RUNS / run.name / CONFIG).read_text(encoding="utf-8")
            here = identity({**run.config, "seed_everything": run.seed})
            clauses = differences(identity(yaml.safe_load(text)), here)
            raise RunError(
                f"settings have changed since the run {run.name} was begun: {listed(clauses)}. "
                "Give the experiment another --run.name, or --run.overwrite true."
            )


class _Record:
    """The rows of an experiment so far, and the files that show them."""

    def __init__(
        self,
        experiment: Experiment,
        place: Place,
        trials: Sequence[RunSpec],
        candidates: Sequence[RunSpec],
    ) -> None:
        self.experiment = experiment
        self.place = place
        self.trials = trials
        self.candidates = candidates
        first: dict[Any, Mapping[str, Any]] = {}
        for run in candidates:
            first.setdefault(run.point, run.trial)
        self.runs = chosen_runs(candidates, first)  # until a choice is made
        self.outcome = Outcome(pd.DataFrame())
        self._rows: dict[str, dict[str, Any]] = {}
        self._written = 0.0
        stopped = place.folder / _STOPPED
        self.stopped: dict[str, Any] = json.loads(stopped.read_text()) if stopped.is_file() else {}

    def read(self, run: RunSpec, end: str = "") -> str:
        """Reads how far a run is; `end` is how its process ended without a result."""
        row = _row(self.experiment, run, self.place.folder)
        stop = self.stopped.get(run.name, {})
        if row["status"] not in DONE and end in _LIMIT_OF:
            limit = getattr(self.experiment.limits, _LIMIT_OF[end])
            self.stopped[run.name] = {"status": end, "limit": limit, "digest": run.digest}
            write_json(self.place.folder / _STOPPED, self.stopped)
        elif not end and stop and _is_still_stopped(stop, run, self.experiment.limits):
            end = stop["status"]
        if row["status"] not in DONE and end:
            row["status"] = end
        self._rows[run.name] = row
        return str(row["status"])

    def headline(self, run: RunSpec) -> str:
        """The status of a run with its first metric."""
        row = self._rows[run.name]
        name = self.experiment.metrics[0]
        value = row["metrics"].get(name)
        return str(row["status"]) if value is None else f"{row['status']} {name} {value:.1e}"

    def choose(self) -> None:
        """Chooses among the trials, as far as they are over."""
        if self.trials:
            frame = self.frame(self.trials)
            frame.insert(2 + len(self.experiment.axes), "trial", [_trial(r) for r in self.trials])
            values = {f"{run.learner}:{_trial(run)}": run.trial for run in self.trials}
            self.outcome.trials = frame
            self.outcome.chosen = choose(self.experiment, frame, values)
            first = {run.point: run.trial for run in self.runs}
            self.runs = chosen_runs(self.candidates, {**first, **self.outcome.chosen})

    def frame(self, runs: Sequence[RunSpec]) -> pd.DataFrame:
        """One row per run, as `compare.csv` has it."""
        for run in runs:
            if run.name not in self._rows:
                self.read(run)
        rows = [self._rows[run.name] for run in runs]
        names = dict.fromkeys(key for row in rows for key in row["metrics"])
        fixed = [{key: row[key] for key in row if key != "metrics"} for row in rows]
        metrics = pd.DataFrame([row["metrics"] for row in rows], columns=list(names), dtype=float)
        return pd.concat([pd.DataFrame(fixed), metrics], axis=1)

    def explain(self, event: Ended, say: "Say") -> None:
        """Says why a run failed, each reason once."""
        log, out = event.task.log, self.outcome
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        reason = lines[-1].removeprefix("bfc: error: ") if lines else ""
        if event.code < 0:
            reason = f"killed by signal {-event.code}"
        out.num_refused += event.code == _EXIT_USAGE
        if reason not in out.reasons:
            out.reasons.append(reason)
            say(f"{event.task.name} failed: {reason} (see {log})")

    def write_if_due(self) -> None:
        """Writes the tables, every few seconds."""
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes the tables, learner by learner."""
        order = {learner: number for number, learner in enumerate(self.experiment.learners)}
        out = self.outcome
        out.results = self.frame(sorted(self.runs, key=lambda run: order[run.learner]))
        write_tables(self.experiment, out.results, self.place, out.chosen, out.trials)
        self._written = time.monotonic()


def _trial(run: RunSpec) -> str:
    return trial_name(run.trial)


def _is_still_stopped(stop: Mapping[str, Any], run: RunSpec, limits: Limits) -> bool:
    """Whether a run that was stopped would be stopped again."""
    limit = getattr(limits, _LIMIT_OF[stop["status"]])
    return stop["digest"] == run.digest and limit is not None and limit <= (stop["limit"] or 0)


def _row(experiment: Experiment, run: RunSpec, folder: Path) -> dict[str, Any]:
    """What a run's folder says."""
    path = folder / _RUNS / run.name
    summary = read_summary(path)
    metrics = {k: v for k, v in summary.get("metrics", {}).items() if v is not None}
    status = summary.get("status", MISSING)
    if status not in (FINISHED, DIVERGED, TIMEOUT, MISSING):
        status = INTERRUPTED
    if status == FINISHED and _is_tested(experiment, run):
        scores = path / "test.json"
        if scores.is_file():
            metrics |= json.loads(scores.read_text(encoding="utf-8"))["metrics"]
        else:
            status = INTERRUPTED
    return {
        "run": run.name,
        "learner": run.learner,
        **run.labels,
        "seed": run.seed,
        "status": status,
        **{key: summary.get(key, float("nan")) for key in _NUMBERS},
        "metrics": metrics,
    }


def _run(record: _Record, pool: Pool, say: Say, runs: Sequence[RunSpec]) -> None:
    """Runs those that are not over."""
    folder = record.place.folder
    todo = {run.name: run for run in runs if record.read(run) not in DONE}
    if len(todo) < len(runs):
        say("runs were finished before.", done=len(runs) - len(todo))
    tasks = [
        Task(name, tuple(commands(record.experiment, run, folder)), folder / _LOGS / f"{name}.txt")
        for name, run in todo.items()
    ]
    for event in pool.run(tasks):
        if isinstance(event, Task):
            continue
        run = todo[event.task.name]
        status = record.read(run, _end(event, pool))
        say(f"{run.name} {record.headline(run)} ({event.seconds:.0f} s)", done=1)
        if status == FAILED:
            record.explain(event, say)
        record.write_if_due()


def _end(event: Ended, pool: Pool) -> str:
    """The status of a run whose process ended without a result."""
    if event.is_overdue:
        return TIMEOUT
    if event.code == _EXIT_OOM:
        return OOM
    return INTERRUPTED if pool.signum else FAILED


def _pool(experiment: Experiment, num_runs: int) -> Pool:
    """One process per core and thread, or one per GPU if the runs ask for GPUs."""
    accelerator = experiment.base.get("trainer", {}).get("accelerator", "auto")
    count = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = experiment.workers or count or max(1, (cores or 1) // experiment.threads)
    return Pool(min(workers, max(1, num_runs)), limits=experiment.limits, gpus=gpus)


@contextmanager
def _progress(total: int) -> Iterator[Say]:
    """A function that prints a line on stderr and advances a bar, which a terminal shows."""
    console = Console(stderr=True)
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console,
        disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("runs", total=total)

        def say(line: str, done: int = 0) -> None:
            progress.advance(bar, done)
            text = f"{progress.tasks[0].completed:.0f}/{total} {line}" if done else f"  {line}"
            if console.is_terminal:
                progress.console.print(text, highlight=False, markup=False)
            else:
                print(text, file=sys.stderr, flush=True)

        yield say


def clear(folder: Path) -> None:
    """Deletes an experiment."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise RunError(f"run.overwrite deletes experiments only, {folder} has no {MARK}.")
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def tidy(folder: Path) -> None:
    """Removes what killed processes have left unfinished."""
    remove_unfinished(folder)
    for name in (_CONFIGS, _RUNS):
        if (folder / name).is_dir():
            remove_unfinished(folder / name)
