"""`bfc compare` and `bfc sweep`: two names of one command."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.cli.console import command_line, say, show_table
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.names import CONFIG_OPTIONS, Names
from bfc_lightning.cli.options import normalized, with_configs
from bfc_lightning.runs.config import flatten
from bfc_lightning.runs.folder import RunError, check_name, expanded, locked
from bfc_lightning.runs.yaml_files import did_you_mean

if TYPE_CHECKING:
    from bfc_lightning.experiments.execute import Outcome
    from bfc_lightning.experiments.spec import Experiment, Place

HELP = """\
usage: bfc {command} -c CONFIG [-c CONFIG ...] [--list | --report] [--KEY VALUE ...]

Trains learners with several seeds at every point of a grid, each as a run of `bfc fit` in a process
of its own: one table, one figure. The same command continues it. `compare` and `sweep` are two
names of one command; an experiment without `learners` has one, the base.

    base: [depth3]                        # configs of bfc fit that all runs share
    seeds: [0, 1, 2]
    learners:                             # optional: settings in which a learner differs
      joint: {{}}
      wide: {{model: {{width: 256}}, tune: {{model.optimizer.init_args.lr: [3.e-3, 7.e-3]}}}}
      kernel: {{baseline: {{class_path: KernelRidge}}}}
    grid:                                 # or points: [{{model.width: 16}}, ...]
      model.width: [16, 64]               # key: values, or key: {{label: value}}
      ratio: {{key: target.init_args.level_scales, values: [0.1, 0.3]}}
    metrics: [val/nmse]                   # of table and figure
    tuning: {{seeds: [100], trials: 2, metric: val/nmse}}
    limits: {{seconds: 600, gigabytes: 8}}  # for each run
    scaling: {{dimension: d, samples: n, error: 0.05}}   # axes of the grid
    test: true                            # score the best checkpoints on test samples

options:
  -c CONFIG              A file, or the name of a shipped config, e.g. sweep/gap.
  --list                 Print one command for each run, and run nothing.
  --report               Write tables and figures of the runs so far, and run nothing.
  --figures FORMATS      Formats of the figures: [png] (default), pdf, svg.
  --seeds SEEDS          Seeds in place of the config's, e.g. [0,1].
  --workers N            Runs at a time: cores / threads, or GPUs, by default.
  --run.name NAME        Name of the folder; the config's by default.
  --run.root FOLDER      Folder that it is put in, logs by default.
  --run.overwrite        Delete the experiment of this name first.
  --run.threads N        CPU threads of each run, 1 by default.
  --KEY VALUE            Any other key, e.g. --limits.seconds 60.

Files in ROOT/NAME/: compare.csv, compare.md, compare.tex, compare.png, trials.csv (tuning),
scaling.csv and scaling.png, compare.yaml, configs/, runs/, logs/.

exit codes: 0 every run finished, diverged or reached a limit, 1 a run failed, 2 usage error,
130 and 143 stopped by a signal.
"""
_OWN = ("list", "report", "figures", "config")


def experiment_command(command: str, argv: Sequence[str]) -> int:
    """Runs an experiment, or what is missing of it; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(HELP.format(command=command), end="")
        return 0
    with usage_errors():
        given = parse_experiment(with_configs(argv))
        experiment, place, is_new = plan(given, command_line([command, *argv]))
        if given.list:
            return _list(experiment, place)
        if given.report and is_new:
            raise RunError(f"--report needs an experiment that was begun, {place.folder} is not.")
    runs = not given.report
    outcome = run_locked(experiment, place, is_new=is_new, formats=given.figures, runs=runs)
    _show(experiment, place, outcome)
    again = command_line([command, *(word for word in argv if "overwrite" not in word)])
    return exit_code(outcome, again) if runs else 0


def options_parser() -> ArgumentParser:
    """A parser of the keys of an experiment and of the options beside them."""
    from bfc_lightning.experiments.reading import experiment_parser

    parser = experiment_parser()
    for name in ("list", "report"):
        parser.add_argument(f"--{name}", type=bool, default=False)
    parser.add_argument("--figures", type=list[Literal["png", "pdf", "svg"]], default=["png"])
    parser.add_argument("-c", "--config", action="append", type=str)
    return parser


def parse_experiment(argv: Sequence[str]) -> Namespace:
    """Files, then options over them."""
    from bfc_lightning.experiments.reading import read_files

    parser = options_parser()
    names = Names(flatten(parser.get_defaults().as_dict()), argv)
    names.check()
    configs = [Path(argv[n + 1]) for n, word in enumerate(argv[:-1]) if word in CONFIG_OPTIONS]
    if not configs:
        raise RunError("a config must be given; try: bfc compare -c compare/schemes")
    content = read_files(configs)
    with names.explained():
        read = parser.parse_object(content)
        flags = ("list", "report", "test", "run.overwrite")
        given = parser.parse_args(normalized(argv, flags), namespace=read)
    given.config = configs
    return given


def plan(given: Namespace, command: str) -> "tuple[Experiment, Place, bool]":
    """Makes the experiment and finds its folder; says whether that is new."""
    from bfc_lightning.experiments.execute import MARK, clear
    from bfc_lightning.experiments.reading import make_experiment
    from bfc_lightning.experiments.spec import Place

    configs = given.config
    given = given.clone()
    for key in _OWN:
        given.pop(key, None)
    experiment, options = make_experiment(given)
    first, name = configs[0], options.name
    if first.name == MARK and name in (None, first.absolute().parent.name, _stored_name(first)):
        folder = first.parent
    else:
        name = first.stem if name is None else name
        check_name(name)
        folder = expanded(options.root) / name
    if options.overwrite:
        clear(folder)
    is_new = not folder.exists() or not any(folder.iterdir())
    if not is_new and not (folder / MARK).is_file() and not (folder / "configs").is_dir():
        raise RunError(f"{folder} is not an experiment: choose another run.name.")
    return experiment, Place(folder, command), is_new


def _stored_name(config: Path) -> object:
    return (yaml.safe_load(config.read_text(encoding="utf-8")).get("run") or {}).get("name")


def run_locked(
    experiment: "Experiment",
    place: "Place",
    *,
    is_new: bool,
    formats: Sequence[str] = ("png",),
    runs: bool = True,
) -> "Outcome":
    """Runs an experiment in its folder, which no other process may use meanwhile."""
    from bfc_lightning.experiments.execute import run_experiment, tidy

    with removed_if_refused(place.folder, is_new=is_new):
        place.folder.mkdir(parents=True, exist_ok=True)
        with locked(place.folder):
            tidy(place.folder)
            outcome = run_experiment(experiment, place, formats=formats, runs=runs)
            if runs and outcome.num_refused and outcome.num_refused == len(outcome.results):
                raise RunError(f"every run refused its settings: {outcome.reasons[0]}")
            return outcome


@contextmanager
def removed_if_refused(folder: Path, *, is_new: bool) -> Iterator[None]:
    """Removes a new folder, and those above that were made for it, if the block refuses to run."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except RunError:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def _list(experiment: "Experiment", place: "Place") -> int:
    """Prints the commands of every run, one line each; those of the tuning first."""
    from bfc_lightning.experiments.execute import all_runs, commands, write_plan

    runs = all_runs(experiment, place)
    write_plan(experiment, place, runs)
    for run in runs:
        parts = commands(experiment, run, place.folder)
        sys.stdout.write(" && ".join(f"bfc {shlex.join(part)}" for part in parts) + "\n")
    return 0


def _show(experiment: "Experiment", place: "Place", outcome: "Outcome") -> None:
    """Prints the table, where the files are, and what should not be overlooked."""
    from bfc_lightning.experiments.scaling_report import about_scaling, scaling_table
    from bfc_lightning.experiments.tables import summary_table
    from bfc_lightning.experiments.tuning import edge_warnings

    table = summary_table(experiment, outcome.results, outcome.chosen)
    print(f"{place.folder}: median [lowest, highest] over the runs that finished")
    names = len(experiment.axes) + ("learner" in table)
    show_table(list(table.columns), table.to_numpy().tolist(), num_names=names)
    if experiment.scaling is not None:
        print(about_scaling(experiment))
        scaling = scaling_table(experiment, outcome.results)
        show_table(list(scaling.columns), scaling.to_numpy().tolist())
    print("files:", *sorted(str(path) for path in place.folder.glob("*.*") if path.is_file()))
    absent = [metric for metric in experiment.metrics if metric not in outcome.results]
    if absent and (outcome.results["status"] == "finished").any():
        known = list(outcome.results.columns)
        say(f"warning: no run logged {absent[0]!r}.{did_you_mean(absent[0], known)}")
    if outcome.trials is not None:
        for line in edge_warnings(experiment, outcome.chosen, outcome.trials):
            say(f"warning: {line}")


def exit_code(outcome: "Outcome", again: str) -> int:
    """0 if every run is over, 1 if one failed, 128 + N if signal N stopped the experiment."""
    left = num_left(outcome)
    if outcome.signum:
        say(f"stopped with {left} runs to go; to continue: {again}")
        return 128 + outcome.signum
    if left:
        say(f"{left} of {len(outcome.results)} runs failed; to run them again: {again}")
    return 1 if left else 0


def num_left(outcome: "Outcome") -> int:
    """How many runs are not over."""
    from bfc_lightning.experiments.spec import DONE

    return int((~outcome.results["status"].isin(DONE)).sum())
