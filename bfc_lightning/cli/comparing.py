"""`bfc compare`: several learners on the same target, samples and seeds."""

import resource
import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from bfc_lightning.cli.config_files import check_config_files
from bfc_lightning.cli.console import rich_table, say
from bfc_lightning.cli.ends import ended
from bfc_lightning.experiments.checks import check_comparison
from bfc_lightning.experiments.comparison import Axis, Comparison, Scaling, Tuning
from bfc_lightning.experiments.plan import ExperimentOptions, Limits

if TYPE_CHECKING:
    from bfc_lightning.experiments.execution import Outcome

DESCRIPTION = """\
Trains several learners on the same target, samples and seeds: one table, one figure.

A learner is a block of settings that is laid over the base. Every learner is trained with every
seed, at every point of the grid where there is one, as an ordinary run of `bfc fit`; the runs are
spread over processes. The same command goes on where it was stopped; learners, seeds and values of
the grid may be added. A learner with `baseline` is run by `bfc baseline`. One with `tune` is first
tried on other seeds, with every combination of the values; the best one makes its runs. Start from
configs/compare/schemes.yaml:

    base: [../depth3.yaml]
    seeds: [0, 1, 2]
    learners:
      joint: {}
      wide: {model: {width: 256}, tune: {model.optimizer.init_args.lr: [3.e-3, 7.e-3]}}
      kernel: {baseline: {class_path: KernelRidge}, tune: {baseline.init_args.ridge: [1e-6, 1e-4]}}
    tuning: {seeds: [100]}
    limits: {seconds: 600}
    grid:
      ratio: {key: target.init_args.level_scales, values: [0.1, 0.3]}
      depth: {key: target.init_args.widths, values: {2: [8, 3], 3: [8, 3, 2]}}
    metrics: [val/nmse]

It leaves, in <run.root>/<run.name>/: compare.md (the table), compare.csv (a row for each run),
compare.png (the metrics), features.png (features over time, where there is no grid), trials.csv
(what was tried), compare.yaml (all settings), commands.txt (the runs, one by one), runs/, logs/.
With `scaling: {dimension: d, samples: n, error: 0.05}`, where d and n are axes of the grid, also
scaling.csv and scaling.png: the samples that each learner needs for that error, and the power of d
that they grow with.
Exit status: 0 every run finished, diverged or came to a limit, 1 a run failed, 2 a mistake in the
input, 130 and 143 stopped by a signal.
"""


class PlainHelp(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""


def compare_command(words: Sequence[str]) -> int:
    """Runs `bfc compare`.

    Args:
        words: its arguments.

    Returns:
        The exit status.
    """

    def run() -> int:
        comparison, configs = parse_comparison(words)
        return _compare(comparison, configs, command=f"bfc compare {shlex.join(words)}")

    return ended(run)


def parse_comparison(words: Sequence[str]) -> tuple[Comparison, list[str]]:
    """Reads a comparison from configs and command line.

    Args:
        words: the arguments of `bfc compare`.

    Returns:
        The comparison, checked as far as its settings alone allow; and the configs, as given.
    """
    parser = ArgumentParser(
        prog="bfc compare", exit_on_error=False, description=DESCRIPTION, formatter_class=PlainHelp
    )
    parser.add_argument(
        "-c", "--config", action="config", help="A comparison; a later one overrides an earlier."
    )
    parser.add_class_arguments(Comparison)
    words = list(words)
    check_config_files(words)
    parsed = parser.parse_args(words)
    configs = [str(file) for file in parsed.pop("config") or []]
    parts = vars(parsed)
    parts["grid"] = {name: Axis(axis["key"], axis["values"]) for name, axis in parsed.grid.items()}
    parts["run"] = ExperimentOptions(**vars(parsed.run))
    parts["tuning"] = Tuning(**vars(parsed.tuning))
    parts["limits"] = Limits(**vars(parsed.limits))
    if parsed.scaling is not None:
        parts["scaling"] = Scaling(**vars(parsed.scaling))
    comparison = Comparison(**parts)
    check_comparison(comparison)
    return comparison, configs


def _compare(comparison: Comparison, configs: Sequence[str], *, command: str) -> int:
    """Does it, once the words are understood; only here are torch and lightning imported."""
    from bfc_lightning.cli.learner_settings import check_learners
    from bfc_lightning.experiments.folder import find_comparison

    folder = find_comparison(comparison, configs)
    check_learners(comparison)
    outcome = run_in_folder(comparison, folder, command=command)
    _show(comparison, folder, outcome)
    return _status(outcome, command)


def run_in_folder(comparison: Comparison, folder: Path, *, command: str) -> "Outcome":
    """Runs what is missing of a comparison, while no other process may work in its folder.

    Args:
        comparison: what is compared, its learners checked.
        folder: of the comparison.
        command: that makes it, for its report.

    Returns:
        What became of it.
    """
    from bfc_lightning.experiments.execution import run_comparison
    from bfc_lightning.experiments.folder import claimed

    with claimed(comparison, folder):
        run = partial(run_one, gigabytes=comparison.limits.gigabytes)
        return run_comparison(comparison, folder, run_one=run, command=command)


def run_one(words: Sequence[str], gigabytes: float | None = None) -> int:
    """Runs commands in a worker, as if they had been typed.

    Args:
        words: after `bfc`; with `&&` between one command and the next.
        gigabytes: of memory that each may take; any if not given.

    Returns:
        The exit status of the first one that fails, or 0.
    """
    import_module("lightning.pytorch")  # what is mapped before the limit does not count

    from bfc_lightning.cli import main

    status, rest = 0, list(words)
    while rest and not status:
        end = rest.index("&&") if "&&" in rest else len(rest)
        command, rest = rest[:end], rest[end + 1 :]
        print(f"$ bfc {shlex.join(command)}", flush=True)
        sys.argv[1:] = command  # Lightning starts further processes with these
        with _memory_limit(gigabytes):
            status = main(command)
    return status


@contextmanager
def _memory_limit(gigabytes: float | None) -> Iterator[None]:
    """Lets this process map so much more than now, where the system can tell how much that is."""
    mapped = Path("/proc/self/statm")
    if gigabytes is None or not mapped.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(mapped.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 2**30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _show(comparison: Comparison, folder: Path, outcome: "Outcome") -> None:
    """Prints the table, where the files are, and what must not be overlooked."""
    from rich.console import Console
    from rich.measure import Measurement

    from bfc_lightning.experiments.folder import KIND
    from bfc_lightning.experiments.results import metric_names, table
    from bfc_lightning.experiments.scaling_report import about_scaling, scaling_table
    from bfc_lightning.experiments.tuning import edge_warnings

    print(f"{folder}: median [lowest, highest] over the runs that finished")
    chosen = {point: choice.trial for point, choice in outcome.choices.items()}
    titles, lines = table(comparison, outcome.rows, chosen)
    num_names = 1 + len(comparison.grid)
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # no lines are broken in a file
    shown = rich_table(titles, lines, num_names)
    if Measurement.get(console, console.options, shown).maximum >= console.width:
        long = [[*ln[:num_names], *pair] for ln in lines for pair in _pairs(titles, ln, num_names)]
        shown = rich_table([*titles[:num_names], "result", "value"], long, num_names + 1)
    console.print(shown)
    if comparison.scaling is not None:
        print(about_scaling(comparison))
        console.print(rich_table(*scaling_table(comparison, outcome.rows), num_names=1))
    print(
        "files:", *(folder / name for name in KIND.files if (folder / name).is_file()), flush=True
    )
    known = metric_names(outcome.rows)
    absent = [metric for metric in comparison.metrics if metric not in known]
    if known and absent:
        say(f"warning: no run logged {', '.join(absent)}; known: {', '.join(known)}.")
    for line in edge_warnings(outcome.choices, comparison):
        say(f"warning: {line}")


def _pairs(titles: Sequence[str], line: Sequence[str], num_names: int) -> list[tuple[str, str]]:
    """Each result of a line beside its title, for terminals that are too narrow for columns."""
    return list(zip(titles[num_names:], line[num_names:], strict=True))


def _status(outcome: "Outcome", command: str) -> int:
    """Says what is left to do, if anything; the exit status."""
    statuses = [row.status for row in outcome.rows]
    num_left = sum(status in ("interrupted", "missing") for status in statuses)
    num_failed = statuses.count("failed")
    if outcome.signum:
        num_left += num_failed + outcome.num_trials_left
        say(f"stopped with {num_left} runs to go; go on: {command}")
        return 128 + outcome.signum
    if outcome.num_refused == len(statuses):
        say("error: every run was refused.")
        return 2
    if num_failed or num_left:
        say(f"{num_failed + num_left} of {len(statuses)} runs failed; again: {command}")
        return 1
    return 0
