"""The state of an experiment, which is that of its run folders, and the pool that runs them."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from statistics import median
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import track

from bfc_lightning.experiments.pool import Pool, Task, Worker
from bfc_lightning.experiments.spec import DONE, MARK, Experiment, RunSpec, Status
from bfc_lightning.experiments.tables import choose, unlogged
from bfc_lightning.files import write_atomically, write_json
from bfc_lightning.runs.folder import CONFIG, RunError, read_summary
from bfc_lightning.runs.settings import differences, identity, read_yaml, to_yaml

RUNS, LOGS = "runs", "logs"
_CONFIGS, _STOPPED = "configs", "stopped"
_EXIT_USAGE, _EXIT_OOM = 2, 4


def commands(experiment: Experiment, run: RunSpec) -> list[tuple[str, ...]]:
    """The commands that begin a run or continue it."""
    folder = experiment.folder
    options = {
        "seed_everything": run.seed,
        "run.root": folder / RUNS,
        "run.name": run.name,
        "run.figures": "false",
        "run.threads": experiment.run.threads,
        "run.alike": run.num_alike,
    }
    command, more = "fit", {"resume": "auto", "trainer.enable_progress_bar": "false"}
    if "baseline" in run.config:
        command, more = "baseline", {"run.overwrite": "true"}
    config = str(folder / _CONFIGS / f"{run.stem}.yaml")
    train = (command, "-c", config, *(f"--{k}={v}" for k, v in {**options, **more}.items()))
    test = ("test", "-c", str(folder / RUNS / run.name / CONFIG))
    return [train, test] if run.is_tested else [train]


def write_plan(experiment: Experiment) -> None:
    """Writes `compare.yaml`, which runs the experiment again."""
    folder = experiment.folder
    folder.mkdir(parents=True, exist_ok=True)
    source = asdict(experiment.source)
    source["base"] = ["base.yaml"]
    source["run"].update(name=None, overwrite=False)
    write_atomically(folder / MARK, f"# {experiment.command}\n{to_yaml(source)}")
    write_atomically(folder / "base.yaml", to_yaml(experiment.settings))


def write_configs(experiment: Experiment, runs: Sequence[RunSpec]) -> None:
    """Writes the settings of every point of some runs."""
    folder = experiment.folder / _CONFIGS
    folder.mkdir(exist_ok=True)
    for stem, run in {run.stem: run for run in runs}.items():
        write_atomically(folder / f"{stem}.yaml", to_yaml(run.config), sync=False)


class Record:
    """The rows of an experiment so far: `results` as in `compare.csv`, and `trials` of the tuning.

    `in_jobs` names the runs that are in jobs, and `signum` is the signal that has stopped the pool.
    """

    def __init__(
        self, experiment: Experiment, runs: Sequence[RunSpec], in_jobs: dict[str, str] | None = None
    ) -> None:
        self.experiment = experiment
        self.in_jobs = in_jobs or {}
        self.signum = 0
        self._trials = [run for run in runs if run.is_trial]
        self._candidates = [run for run in runs if not run.is_trial]
        limits = experiment.limits
        self._limits = {Status.TIMEOUT: limits.seconds, Status.OOM: limits.gigabytes}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads the runs that were not done, and chooses among the trials; until then the first."""
        self._rows = {name: rows for name, rows in self._rows.items() if self.is_done(name)}
        self.trials = self._frame(self._trials)
        self.chosen = choose(self.experiment, self.trials)
        best = {run.point: run.trial for run in reversed(self._candidates)} | self.chosen
        self._runs = [run for run in self._candidates if run.trial == best[run.point]]
        order = list(self.experiment.learners)
        self.results = self._frame(sorted(self._runs, key=lambda run: order.index(run.learner)))

    @property
    def num_left(self) -> int:
        """How many runs are not done."""
        return int((~self.results["status"].isin(DONE)).sum())

    def all_runs(self) -> list[RunSpec]:
        """Those of the tuning, and its own of every point at which the choice is made."""
        tuned = {run.point for run in self._trials} - self.chosen.keys()
        return [*self._trials, *(run for run in self._runs if run.point not in tuned)]

    def todo(self) -> list[RunSpec]:
        """The runs that can be begun or continued; of the tuning alone, while it lasts."""
        left = [run for run in self.all_runs() if not self.is_done(run.name)]
        return [run for run in left if run.name not in self.in_jobs]

    def is_done(self, name: str) -> bool:
        """Whether a run is not run again."""
        return all(row["status"] in DONE for row in self._rows[name])

    def failures(self) -> dict[str, str]:
        """Every reason why runs have failed, with the name of the first of them."""
        found: dict[str, str] = {}
        for name, rows in self._rows.items():
            if rows[0]["status"] == Status.FAILED:
                found.setdefault(self._end(name)["reason"], name)
        return found

    def refusal(self) -> str:
        """Why the first run refused its settings, if every run did."""
        ends = [self._end(run.name) for run in self.all_runs()]
        is_refused = all(end.get("code") == _EXIT_USAGE for end in ends)
        return str(ends[0]["reason"]) if is_refused else ""

    def _frame(self, runs: Sequence[RunSpec]) -> pd.DataFrame:
        for run in runs:
            self._rows[run.name] = self._rows.get(run.name) or self._read(run)
        return pd.DataFrame([row for run in runs for row in self._rows[run.name]])

    def _read(self, run: RunSpec) -> list[dict[str, Any]]:
        """What a run's folder says of each seed, unless the run has other settings."""
        path = self.experiment.folder / RUNS / run.name
        summary = read_summary(path)
        tested = read_summary(path, "test.json") if run.is_tested else {}
        if summary.get("digest", run.digest) != run.digest:
            here = {**run.config, "seed_everything": run.seed}
            found = differences(identity(read_yaml(path / CONFIG)), identity(here))
            raise RunError(
                f"settings have changed since the run {run.name} was begun: {found}. Give the "
                "experiment another --run.name, or --run.overwrite true."
            )
        status = summary.get("status")
        is_untested = status == Status.FINISHED and run.is_tested and not tested
        if status not in DONE or is_untested:
            status = Status.INTERRUPTED if summary else Status.MISSING
            status = Status.SUBMITTED if run.name in self.in_jobs else self._stop(run) or status
        rows = []
        for number in range(run.num_seeds):
            own, scores = (
                each["replicas"][number] if "replicas" in each else each
                for each in (summary, tested)
            )
            metrics = {**own.get("metrics", {}), **scores.get("metrics", {})}
            rows.append({
                "run": run.name,
                "learner": run.learner,
                **run.labels,
                **({"trial": run.trial} if run.is_trial else {}),
                "seed": run.seed + number,
                "status": Status.DIVERGED if own.get("status") == Status.DIVERGED else status,
                "steps": summary.get("steps", math.nan),
                "samples_seen": summary.get("samples_seen", math.nan) / run.num_seeds,
                "wall_seconds": summary.get("wall_seconds", math.nan),
                **{key: float(value) for key, value in metrics.items() if value is not None},
            })
        return rows

    def _end(self, name: str) -> dict[str, Any]:
        """How a run ended without a result; empty if it did not."""
        return read_summary(self.experiment.folder / _STOPPED, f"{name}.json")

    def _stop(self, run: RunSpec) -> str:
        """The status of a run that ended without a result, unless the limit that it met grew."""
        end = self._end(run.name)
        if end.get("digest") != run.digest:
            return ""
        grown = (self._limits.get(end["status"]) or math.inf) > (end["limit"] or math.inf)
        return "" if grown else str(end["status"])

    def run(self, runs: Sequence[RunSpec], pool: Pool) -> None:
        """Runs them in a pool of this machine."""
        todo = {run.name: run for run in runs}
        folder = self.experiment.folder
        write_configs(self.experiment, runs)
        for name in todo:
            (folder / _STOPPED / f"{name}.json").unlink(missing_ok=True)
        with suppress(OSError):  # others may have ended without a result, too
            (folder / _STOPPED).rmdir()
        tasks = [
            Task(name, tuple(commands(self.experiment, run)), folder / LOGS / f"{name}.txt")
            for name, run in todo.items()
        ]
        done = [self.is_done(run.name) for run in [*self._trials, *self._runs]]
        console = Console(stderr=True)
        with pool:
            if any(done):
                console.out(f"{sum(done)}/{len(done)} runs were finished before.", highlight=False)
            ended = track(
                pool.run(tasks), "runs", len(todo), console=console, disable=not console.is_terminal
            )
            for number, worker in enumerate(ended, start=sum(done) + 1):
                run = todo[worker.task.name]
                self._end_run(run, worker, pool.signum)
                line = f"{number}/{len(done)} {run.name} {self._outcome(run)}"
                console.out(f"{line} ({worker.seconds:.0f} s)", highlight=False)
            self.signum = pool.signum

    def _outcome(self, run: RunSpec) -> str:
        """Status and score, e.g. `finished val/nmse 1.0e-02`."""
        rows, experiment = self._rows[run.name], self.experiment
        metric = experiment.tuning.metric if run.is_trial else experiment.metrics[0]
        values = [row[metric] for row in rows if metric in row]
        score = f" {metric} {median(values):.1e}" if values else ""
        return f"{rows[0]['status']}{score or unlogged([metric], pd.DataFrame(rows))}"

    def _end_run(self, run: RunSpec, worker: Worker, signum: int) -> None:
        """Reads a run whose process has ended; an end without a result is written down."""
        self._rows[run.name] = self._read(run)
        if self.is_done(run.name) or (signum and not worker.is_overdue):
            return
        status = Status.OOM if worker.code == _EXIT_OOM else Status.FAILED
        status = Status.TIMEOUT if worker.is_overdue else status
        text = worker.task.log.read_text(encoding="utf-8", errors="replace")
        reason = text.rstrip().rpartition("\n")[2].removeprefix("bfc: error: ")
        end = {
            "status": status,
            "limit": self._limits.get(status),
            "code": worker.code,
            "reason": f"killed by signal {-worker.code}" if worker.code < 0 else reason,
            "digest": run.digest,
        }
        folder = self.experiment.folder / _STOPPED
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{run.name}.json", end)
        self._rows[run.name] = self._read(run)
