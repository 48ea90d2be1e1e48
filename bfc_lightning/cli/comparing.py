"""`bfc compare`: several learners on the same target, samples and seeds."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bfc_lightning.cli.console import say
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
from bfc_lightning.experiments.checks import check_comparison
from bfc_lightning.experiments.comparison import Axis, Comparison, Scaling, Tuning

if TYPE_CHECKING:
    from bfc_lightning.experiments.execution import Outcome

DESCRIPTION = """\
Trains several learners on the same target, samples and seeds: one table, one figure.

A learner is a block of settings that is laid over the base. Every learner is trained with every
seed, at every point of the grid where there is one, as an ordinary run of `bfc fit`; the runs are
spread over processes. Runs that differ only in seeds, learning rate, weight decay, regularization,
gaps or label noise are trained together, where the fast path can do that: the numbers are those of
`bfc fit` to rounding, and with --together false bit for bit. The same command goes on where it was
stopped; learners, seeds and values of the grid may be added. A learner with `baseline` is run by
`bfc baseline`. One with `tune` is first tried on other seeds, with every combination of the values;
the best one makes its runs. Start from configs/compare/schemes.yaml:

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
compare.png (the metrics), trials.csv (what was tried), compare.yaml (all settings), commands.txt
(the runs, one by one), runs/, logs/.
With `scaling: {dimension: d, samples: n, error: 0.05}`, where d and n are axes of the grid, also
scaling.csv and scaling.png: the samples that each learner needs for that error, and the power of d
that they grow with.
Exit status: 0 every run finished, diverged or came to a limit, 1 a run failed, 2 a mistake in the
input, 130 and 143 stopped by a signal.
"""


def compare_command(words: Sequence[str]) -> int:
    """Runs `bfc compare`.

    Args:
        words: its arguments.

    Returns:
        The exit status.
    """

    def run() -> int:
        with parsing():
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
    parser = experiment_parser("compare", "comparison", DESCRIPTION)
    parser.add_class_arguments(Comparison)
    parts, configs = parse_experiment(parser, words, groups=("run", "limits", "tuning"))
    grid = parts["grid"].items()
    parts["grid"] = {name: Axis(axis["key"], axis["values"]) for name, axis in grid}
    parts["tuning"] = Tuning(**vars(parts["tuning"]))
    if parts["scaling"] is not None:
        parts["scaling"] = Scaling(**vars(parts["scaling"]))
    comparison = Comparison(**parts)
    check_comparison(comparison)
    return comparison, configs


def _compare(comparison: Comparison, configs: Sequence[str], *, command: str) -> int:
    """Does it, once the words are understood; only here are torch and lightning imported."""
    from bfc_lightning.cli.learner_settings import check_learners
    from bfc_lightning.experiments.folder import KIND, claimed, find_comparison

    with refusing():
        folder = find_comparison(comparison, configs)
        check_learners(comparison)
    absent = absent_folders(folder)
    with claimed(comparison, folder):
        outcome = _run(comparison, folder, command=command)
        refuse_all(outcome, folder, kind=KIND, absent=absent)
    _show(comparison, folder, outcome)
    return exit_status(outcome, command)


def run_in_folder(comparison: Comparison, folder: Path, *, command: str) -> "Outcome":
    """Runs what is missing of a comparison, while no other process may work in its folder.

    Args:
        comparison: what is compared, its learners checked.
        folder: of the comparison.
        command: that makes it, for its report.

    Returns:
        What became of it.
    """
    from bfc_lightning.experiments.folder import claimed

    with claimed(comparison, folder):
        return _run(comparison, folder, command=command)


def _run(comparison: Comparison, folder: Path, *, command: str) -> "Outcome":
    """The same in a folder that is claimed."""
    from bfc_lightning.cli.fit_parser import read_fit
    from bfc_lightning.experiments.execution import run_comparison

    run = partial(run_one, gigabytes=comparison.limits.gigabytes)
    return run_comparison(comparison, folder, run_one=run, read_fit=read_fit, command=command)


def _show(comparison: Comparison, folder: Path, outcome: "Outcome") -> None:
    """Prints the table, where the files are, and what must not be overlooked."""
    from bfc_lightning.experiments.folder import KIND
    from bfc_lightning.experiments.results import table
    from bfc_lightning.experiments.scaling_report import about_scaling, scaling_table
    from bfc_lightning.experiments.tuning import edge_warnings

    chosen = {point: choice.trial for point, choice in outcome.choices.items()}
    titles, lines = table(comparison, outcome.rows, chosen)
    print(f"{folder}: median [lowest, highest] over the runs that finished")
    show_table(titles, lines, num_names=1 + len(comparison.grid))
    if comparison.scaling is not None:
        print(about_scaling(comparison))
        show_table(*scaling_table(comparison, outcome.rows), num_names=1)
    show_end(outcome, [folder / name for name in KIND.files], comparison.metrics)
    for line in edge_warnings(outcome.choices, comparison):
        say(f"warning: {line}")
