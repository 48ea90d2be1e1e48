"""`bfc sweep`: one learner at many settings, each with several seeds."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bfc_lightning.cli.ends import ended
from bfc_lightning.cli.many_runs import (
    exit_status,
    experiment_parser,
    parse_experiment,
    refuse_all,
    run_one,
    show_end,
    show_table,
)
from bfc_lightning.cli.refusals import absent_folders, parsing, refusing
from bfc_lightning.experiments.sweeps.checks import check_sweep
from bfc_lightning.experiments.sweeps.sweep import Sweep, swept_keys
from bfc_lightning.runs.folder import RunError

if TYPE_CHECKING:
    from bfc_lightning.experiments.execution import Outcome

DESCRIPTION = """\
Trains a learner at every combination of some settings, with several seeds: one table, one figure.

Every point of the grid is run with every seed, as an ordinary run of `bfc fit`; the runs are spread
over the cores, or over the GPUs where the base asks for them, one run a GPU. The same command goes
on where it was stopped; seeds and values may be added. Start from configs/sweep/gap.yaml:

    base: [../two_levels.yaml]
    seeds: [0, 1, 2]
    grid:
      target.init_args.level_scales: [0.1, 0.3, 1.0]
      target.init_args.widths: {narrow: [2, 2], wide: [6, 3]}
    metrics: [val/nmse, features/residual_1]
    limits: {seconds: 600}

In place of the grid, a list of points, all with the same keys:

    points:
      - {model.width: 16, trainer.max_steps: 4000}
      - {model.width: 64, trainer.max_steps: 1000}

It leaves, in <run.root>/<run.name>/: sweep.md (the table), sweep.csv (a row for each run: swept
keys, status, every final metric), sweep.png (the metrics against the keys), sweep.yaml (all
settings), commands.txt (the runs, one by one), base/, runs/, logs/.

    bfc sweep -c FILE              run what is missing, then table and figure
    bfc sweep --list -c FILE       print one command for each run, and run nothing: for the array
                                   jobs of a cluster, each of which runs one line
    bfc sweep --report -c FILE     table and figure of what is there, and run nothing

Exit status: 0 every run finished, diverged or came to a limit, 1 a run failed, 2 a mistake in the
input, 130 and 143 stopped by a signal.
"""


def sweep_command(words: Sequence[str]) -> int:
    """Runs `bfc sweep`.

    Args:
        words: its arguments.

    Returns:
        The exit status.
    """

    def run() -> int:
        with parsing():
            sweep, request = parse_sweep(words)
        if request.list:
            _print_lines(sweep, request.configs)
            return 0
        return _sweep(sweep, request, command=f"bfc sweep {shlex.join(words)}")

    return ended(run)


@dataclass(frozen=True)
class Request:
    """What is to be done with a sweep.

    Args:
        configs: the files it was read from, as given.
        list: only print the commands of its runs.
        report: only make table and figure.
    """

    configs: list[str]
    list: bool
    report: bool


def parse_sweep(words: Sequence[str]) -> tuple[Sweep, Request]:
    """Reads a sweep from configs and command line.

    Args:
        words: the arguments of `bfc sweep`.

    Returns:
        The sweep, checked as far as its settings alone allow, and what is to be done with it.
    """
    parser = experiment_parser("sweep", "sweep", DESCRIPTION)
    parser.add_argument(
        "--list", action="store_true", help="Only print one command for each run, in a fixed order."
    )
    parser.add_argument(
        "--report", action="store_true", help="Only make table and figure of what is there."
    )
    parser.add_class_arguments(Sweep)
    parts, configs = parse_experiment(parser, words)
    request = Request(configs=configs, list=parts.pop("list"), report=parts.pop("report"))
    sweep = Sweep(**parts)
    check_sweep(sweep)
    _check_request(sweep, request)
    return sweep, request


def _check_request(sweep: Sweep, request: Request) -> None:
    """Refuses flags that contradict each other.

    Raises:
        RunError: if some do.
    """
    if request.list and request.report:
        raise RunError("one of --list and --report must be given, got both.")
    if request.report and sweep.run.overwrite:
        raise RunError("run.overwrite must be false with --report, which deletes nothing.")


def _print_lines(sweep: Sweep, configs: Sequence[str]) -> None:
    """Reads and writes no file: any number of processes may do it at once."""
    from bfc_lightning.experiments.sweeps.commands import command_lines
    from bfc_lightning.experiments.sweeps.folder import find_sweep

    lines = command_lines(sweep, find_sweep(sweep, configs))
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # whoever reads has read enough; nor may the end of the process write
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sweep(sweep: Sweep, request: Request, *, command: str) -> int:
    """Does it, once the words are understood; only here are torch and lightning imported.

    Raises:
        RunError: if there is nothing to report on.
    """
    from bfc_lightning.cli.fit_parser import read_fit
    from bfc_lightning.cli.sweep_settings import check_unchanged, parse_points
    from bfc_lightning.experiments.sweeps.folder import KIND, claimed, find_sweep
    from bfc_lightning.experiments.sweeps.gpus import worker_environments
    from bfc_lightning.experiments.sweeps.running import report_sweep, run_sweep

    folder = find_sweep(sweep, request.configs)
    if request.report and not folder.exists():
        raise RunError(
            f"--report must have a sweep that was begun, got {folder}, which is not there."
        )
    with refusing():
        parsed = parse_points(sweep)
        if not sweep.run.overwrite:
            check_unchanged(sweep, folder, parsed)
    accelerators = {settings.accelerator for settings in parsed.values()}
    absent = absent_folders(folder)
    with claimed(sweep, folder):
        if request.report:
            outcome = report_sweep(sweep, folder, command=command)
        else:
            run = partial(run_one, gigabytes=sweep.limits.gigabytes)
            environments = worker_environments(sweep, accelerators)
            outcome = run_sweep(
                sweep,
                folder,
                run_one=run,
                read_fit=read_fit,
                command=command,
                environments=environments,
            )
            refuse_all(outcome, folder, kind=KIND, absent=absent)
    _show(sweep, folder, outcome)
    return 0 if request.report else exit_status(outcome, command)


def _show(sweep: Sweep, folder: Path, outcome: "Outcome") -> None:
    """Prints the table, and where the files are."""
    from bfc_lightning.experiments.sweeps.folder import KIND
    from bfc_lightning.experiments.sweeps.results import sweep_table

    print(f"{folder}: median [lowest, highest] over the runs that finished")
    show_table(*sweep_table(sweep, outcome.rows), num_names=len(swept_keys(sweep)))
    show_end(outcome, [folder / name for name in KIND.files], sweep.metrics)
