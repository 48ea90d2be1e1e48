"""Jobs of a cluster, by submitit: runs are packed into shards, and each job is a pool for one.

A run in a job has a lock, a file with the job's id. It is stale once squeue does not list the job.
"""

import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bfc_lightning.callbacks.exceptions import Interrupted
from bfc_lightning.experiments.pool import Pool, run_job
from bfc_lightning.experiments.record import LOGS, Record, write_plan
from bfc_lightning.experiments.spec import Experiment, RunSpec, Status
from bfc_lightning.experiments.tables import summary_table
from bfc_lightning.runs.folder import RunError

_SHARD_SECONDS = 900.0
_GUESS_SECONDS = 30.0
_SIGNAL_SECONDS = 120
_POLL_SECONDS = 10


def runs_in_jobs(folder: Path) -> dict[str, str]:
    """The runs that are in a job that waits or runs, each with the job; deletes stale locks."""
    locks = {}
    for path in _lock(folder, "").glob("[!.]*"):
        with suppress(FileNotFoundError):  # its shard has just ended
            locks[path.name] = path.read_text(encoding="utf-8")
    live = _slurm("squeue", "--noheader", "--array", "--format=%i").split() if locks else []
    for name, job in locks.items():
        if job not in live:
            _lock(folder, name).unlink(missing_ok=True)
    return {name: job for name, job in locks.items() if job in live}


def _lock(folder: Path, name: str) -> Path:
    return folder / "locks" / name


def _take_lock(folder: Path, name: str, job: str) -> bool:
    """Takes the lock of a run for a job unless another has it; returns whether the job has it."""
    lock = _lock(folder, name)
    lock.parent.mkdir(exist_ok=True)
    beside = lock.with_name(f".{name}.{job}.tmp")
    beside.write_text(job, encoding="utf-8")
    with suppress(FileExistsError):
        os.link(beside, lock)  # atomic, with its content, also between machines
    beside.unlink()
    return lock.read_text(encoding="utf-8") == job


def _slurm(*command: str) -> str:
    """The output of a command of SLURM."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise RunError(f"{command[0]} is not in the PATH; SLURM is needed.") from error
    except subprocess.CalledProcessError as error:
        raise RunError(error.stderr) from error


def submit(record: Record, runs: Sequence[RunSpec]) -> None:
    """Submits runs as a job or a job array, and says which."""
    try:
        import submitit
    except ImportError as error:
        raise RunError("--cluster needs submitit: pip install 'bfc_lightning[slurm]'.") from error
    folder, options = record.experiment.folder, record.experiment.cluster
    if options.name == "slurm":
        _slurm("sbatch", "--version")
    jobs = folder / LOGS / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    executor = submitit.AutoExecutor(jobs, options.name.replace("subprocess", "local"))
    executor.update_parameters(
        name=f"bfc-{folder.name}",
        timeout_min=options.time,
        cpus_per_task=options.cpus,
        gpus_per_node=options.gpus or None,
        stderr_to_stdout=True,
        slurm_partition=options.partition,
        slurm_mem=options.memory,
        slurm_array_parallelism=options.parallelism,
        slurm_signal_delay_s=_SIGNAL_SECONDS,
        slurm_srun_args=[f"--cpus-per-task={options.cpus}"],  # srun does not inherit it
        slurm_additional_parameters={"requeue": True, **options.options},
    )
    number = math.ceil(len(runs) / (options.runs_per_job or _runs_per_job(record)))
    size = math.ceil(len(runs) / number)
    shards = [runs[first : first + size] for first in range(0, len(runs), size)]
    before = set(jobs.iterdir())
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by processes
    try:
        with redirect_stderr(io.StringIO()):  # it would print what it raises
            array = executor.map_array(run_job, [record.experiment] * len(shards), shards)
    except submitit.core.utils.FailedJobError as error:
        for path in set(jobs.iterdir()) - before:
            path.unlink()
        raise RunError(str(error)) from error
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
    write_plan(record.experiment)
    job_id = array[0].job_id.partition("_")[0]
    print(f"bfc: job {job_id}: {len(runs)} runs in {len(shards)} shards", file=sys.stderr)
    if options.name != "slurm":
        _wait(record, array)
        return
    for job, shard in zip(array, shards, strict=True):
        for run in shard:
            record.in_jobs[run.name] = job.job_id
            _take_lock(folder, run.name, job.job_id)


def _wait(record: Record, jobs: Sequence[Any]) -> None:
    """Waits for shards on this machine; a signal stops them."""
    with _stoppable(record):
        for job in jobs:
            job.wait()
    if record.signum and record.experiment.cluster.name == "subprocess":
        for job in [job for job in jobs if not job.done()]:
            os.kill(int(job.job_id), signal.SIGTERM)
            job.wait()


@contextmanager
def _stoppable(record: Record) -> Iterator[None]:
    """Ends the block on a signal, which the record keeps."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        record.signum = stop.exit_code - 128 if isinstance(stop, Interrupted) else signal.SIGINT


def _runs_per_job(record: Record) -> int:
    """As many runs as take a quarter of an hour, if they are like those that have finished."""
    finished = record.results.loc[record.results["status"] == Status.FINISHED, "wall_seconds"]
    seconds = _GUESS_SECONDS if finished.empty else float(finished.median())
    return max(1, int(_SHARD_SECONDS / seconds)) * _workers(record.experiment)


def _workers(experiment: Experiment) -> int:
    """How many runs a job makes at a time."""
    return max(1, int(experiment.cluster.cpus) // int(experiment.run.threads))


def run_shard(experiment: Experiment, runs: Sequence[RunSpec]) -> None:
    """Runs a shard in a job; the signal before the time limit requeues it, and it resumes."""
    from submitit import JobEnvironment

    job, folder = JobEnvironment().job_id, experiment.folder
    if experiment.cluster.name == "slurm":
        runs = [run for run in runs if _take_lock(folder, run.name, job)]
    record = Record(experiment, runs)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") if experiment.cluster.gpus else None
    pool = Pool(_workers(experiment), experiment.limits, gpus.split(",") if gpus else ())
    record.run([run for run in runs if not record.is_done(run.name)], pool)
    if record.signum == signal.SIGUSR2:
        _slurm("scontrol", "requeue", job)
    if record.signum and experiment.cluster.name == "debug":  # in the process of the command
        raise Interrupted(record.signum)
    if not record.signum:  # otherwise SLURM may requeue the job
        for run in runs:
            _lock(folder, run.name).unlink(missing_ok=True)


def watch(record: Record) -> None:
    """Shows the table of the runs so far while any is in a job."""
    with _stoppable(record), Live(console=Console(stderr=True), auto_refresh=False) as shown:
        while record.in_jobs:
            table = summary_table(record.experiment, record.results, record.chosen)
            shown.update(Text(table.to_string(index=False)), refresh=True)
            for _ in range(4 * _POLL_SECONDS):
                if any(_lock(record.experiment.folder, "").iterdir()):
                    time.sleep(0.25)
            with suppress(RunError):  # the controller may be busy
                record.in_jobs = runs_in_jobs(record.experiment.folder)
            record.refresh()
