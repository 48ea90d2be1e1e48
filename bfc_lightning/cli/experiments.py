"""Commands that run other commands: `bfc compare`, also named `sweep`, and `bfc claims`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.callbacks.run_files import git_revision, versions
from bfc_lightning.cli.console import command_line, say, show_table, to_continue, usage_errors
from bfc_lightning.cli.options import CONFIG_OPTIONS, checked, with_configs
from bfc_lightning.experiments.claims import report
from bfc_lightning.experiments.claims.claim import Claim, check_claim, find_claims, read_claim
from bfc_lightning.experiments.claims.verdicts import judge_all
from bfc_lightning.experiments.execute import removed_if_refused, run_experiment
from bfc_lightning.experiments.reading import expand, make_experiment, own_folder, read_files
from bfc_lightning.experiments.record import LOGS, Record, commands, write_configs, write_plan
from bfc_lightning.experiments.scaling import SamplesNeeded
from bfc_lightning.experiments.spec import (
    MARK,
    Cluster,
    Experiment,
    ExperimentFile,
    ExperimentOptions,
    RunSpec,
)
from bfc_lightning.experiments.tables import edge_warnings, summary_table, unlogged
from bfc_lightning.runs.folder import RunError, read_summary
from bfc_lightning.runs.settings import did_you_mean, shipped_configs

Planned = tuple[list[Claim], Experiment, list[RunSpec]]

HELP = """\
usage: bfc {command} -c CONFIG [-c CONFIG ...] [--list | --report] [--KEY VALUE ...]

Trains learners with several seeds at every point of a grid, each as a run of `bfc fit` in a process
of its own: one table, one figure. Run the same command again to continue. `compare` and `sweep` are
two names of one command; an experiment without `learners` has one, the base.

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
    replicas: true                        # train the seeds of a point in one process
    test: true                            # score the best checkpoints on test samples

options:
  -c CONFIG              A file, or the name of a shipped config, e.g. sweep/gap.
  --list                 Print one command for each run, and run nothing.
  --report               Write tables and figures of the runs so far, and run nothing.
  --figures FORMATS      Formats of the figures: [png] (default), pdf, svg.
  --seeds SEEDS          Seeds in place of the config's, e.g. [0,1].
  --workers N            Runs at a time: cores / threads, or GPUs, by default.
  --cluster slurm        Submit the runs as jobs of SLURM, with --cluster.KEY (docs/clusters.md).
  --run.name NAME        Name of the folder; the config's by default.
  --run.root FOLDER      Folder that it is put in, logs by default.
  --run.overwrite        Delete the experiment of this name first.
  --run.threads N        CPU threads of each run, 1 by default.
  --KEY VALUE            Any other key, e.g. --limits.seconds 60.

Files in ROOT/NAME/: compare.csv, compare.md, compare.tex, compare.png, trials.csv (tuning),
scaling.csv and scaling.png, compare.yaml, base.yaml, configs/, runs/, logs/.

exit codes: 0 every run finished, diverged or reached a limit, 1 a run failed, 2 usage error,
130 and 143 stopped by a signal.
"""
CLAIMS_HELP = """\
usage: bfc claims [NAME ...] [--profile quick|full] [--list] [--KEY VALUE ...]

Runs the experiments of claims, and says of each claim whether it holds, does not hold, or is
undecided. A claim is a file with a sentence, its source, an experiment for each profile, and bounds
for medians over seeds. Run the same command again to continue.

    bfc claims                      all claims, quick: small targets
    bfc claims layerwise gap        two of them

options:
  --profile PROFILE      quick (default), or full: large targets; takes hours.
  --list                 Print names and sentences, and run nothing.
  --report               Judge the runs so far, and run nothing.
  --configs FOLDER       Folder of the claims; the shipped ones by default.
  --seeds SEEDS          Seeds in place of those of the experiments, e.g. [0,1,2,3,4].
  --workers N            Runs at a time.
  --cluster slurm        Submit the runs as jobs of SLURM, with --cluster.KEY (docs/clusters.md).
  --run.name NAME        Name of the folder, claims-PROFILE[-NAME...][-seedsSEEDS] by default.
  --run.root FOLDER      Folder that it is put in, logs by default.
  --run.overwrite        Delete the runs of this name first.

Files in ROOT/NAME/: claims.html (a page with figures), claims.json, claims.md, runs/.

exit codes: 0 every run is done, whatever the verdicts, 1 a run failed, 2 usage error, 130 and 143
stopped by a signal.
"""
_RESULT = "claims.json"


def experiment_command(command: str, argv: Sequence[str]) -> int:
    """Runs an experiment, or what is missing of it; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(HELP.format(command=command), end="")
        return 0
    with usage_errors():
        given, experiment, runs = plan_runs(with_configs(argv), command_line([command, *argv]))
        if given.list:
            listed = Record(experiment, runs).all_runs()
            write_plan(experiment)
            write_configs(experiment, runs)
            for run in listed:
                print(" && ".join(map(command_line, commands(experiment, run))))
            return 0
        if given.report and not (experiment.folder / MARK).is_file():
            where = experiment.folder
            raise RunError(f"--report needs an existing experiment, but {where} does not exist.")
    record = run_experiment(experiment, runs, formats=given.figures, report_only=given.report)
    again = to_continue(command, argv)
    if record.in_jobs and not given.report:
        say_submitted([record], f"{again} --report")
    else:
        _show(record)
    left = 0 if given.report or record.in_jobs else record.num_left
    if left:
        say(f"{left} of {len(record.results)} runs have no result; to continue: {again}")
    return 128 + record.signum if record.signum else int(left > 0)


def plan_runs(argv: Sequence[str], command: str) -> tuple[Namespace, Experiment, list[RunSpec]]:
    """The options, the experiment and its runs; unknown names in them are reported."""
    configs = [Path(path) for option, path in pairwise(argv) if option in CONFIG_OPTIONS]
    if configs:
        read_files(configs)  # reports a config of bfc fit before its keys are unknown
    parser = options_parser()
    given = parsed(parser, argv, lambda: read_files(configs))
    experiment = make_experiment(given, command)
    return given, experiment, checked(parser, argv, lambda _: expand(experiment))


def options_parser() -> ArgumentParser:
    """A parser of the keys of an experiment and of the options beside them."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(ExperimentFile)
    for name in ("list", "report"):
        parser.add_argument(f"--{name}", type=bool, default=False)
    parser.add_argument("--figures", type=list[Literal["png", "pdf", "svg"]], default=["png"])
    parser.add_argument("-c", "--config", action="append", type=str)
    return parser


def parsed(
    parser: ArgumentParser, argv: Sequence[str], read: Callable[[], dict[str, Any]] = dict
) -> Namespace:
    """The content of files and options over it."""
    argv = [re.sub("^--cluster(=|$)", r"--cluster.name\1", each) for each in argv]
    given = checked(
        parser, argv, lambda rest: parser.parse_args(rest, namespace=parser.parse_object(read()))
    )
    for key, default in parser.get_defaults().items(branches=True):
        if default is not None and not isinstance(given.get(key), type(default)):
            kind = type(default).__name__.replace("Namespace", "mapping")
            raise RunError(f"{key} must be a {kind}, got {given.get(key)!r}.")
    built: Namespace = parser.instantiate(given)
    return built


def _show(record: Record) -> None:
    """Prints the table, where the files are, and what should not be overlooked."""
    experiment, results = record.experiment, record.results
    table = summary_table(experiment, results, record.chosen)
    print(f"{experiment.folder}: median [lowest, highest] over the runs that finished")
    names = len(experiment.axes) + ("learner" in table)
    show_table(list(table.columns), table.to_numpy().tolist(), num_names=names)
    if experiment.scaling is not None:
        needed = SamplesNeeded(experiment, results)
        print(needed.about())
        scaling = needed.summary()
        show_table(list(scaling.columns), scaling.to_numpy().tolist())
    print("files:", *sorted(str(path) for path in experiment.folder.glob("*.*") if path.is_file()))
    if text := unlogged(experiment.metrics, results):
        say(f"warning: runs finished{text}")
    for line in edge_warnings(experiment, record.chosen, record.trials):
        say(f"warning: {line}")
    say_failures(record)


def say_failures(record: Record) -> None:
    """Says why runs failed, each reason once."""
    for reason, name in record.failures().items():
        say(f"{name} failed: {reason} (see {record.experiment.folder / LOGS / name}.txt)")


def say_submitted(records: Sequence[Record], report: str) -> None:
    """Says what is in jobs, and how to see the results."""
    jobs = [job.partition("_")[0] for record in records for job in record.in_jobs.values()]
    say(f"{len(jobs)} runs are in jobs ({', '.join(sorted(set(jobs)))}); to report: {report}")


def claims_command(command: str, argv: Sequence[str]) -> int:
    """Tests claims; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(CLAIMS_HELP, end="")
        return 0
    with usage_errors():
        renamed = ["--configs" if each in CONFIG_OPTIONS else each for each in argv]
        given = parsed(claims_parser(), renamed)
        known = find_claims(Path(given.configs))
        for name in given.names:
            if name not in known:
                raise RunError(f"unknown claim {name!r}.{did_you_mean(name, list(known))}")
        claims = [read_claim(known[name]) for name in dict.fromkeys(given.names or known)]
        if given.list:
            for claim in claims:
                print(f"{claim.name}: {claim.sentence}")
            return 0
        seeds = [] if given.seeds is None else [f"seeds{'+'.join(map(str, given.seeds))}"]
        name = given.run.name or "-".join(["claims", given.profile, *given.names, *seeds])
        folder = own_folder(given.run.root, name, _RESULT)
        if given.report and not (folder / _RESULT).is_file():
            raise RunError(f"--report needs existing claims, but {folder} does not exist.")
        by_file: dict[Path, list[Claim]] = {}
        for claim in claims:
            by_file.setdefault(claim.runs[given.profile].resolve(), []).append(claim)
        planned = [_plan(mine, file, folder, given) for file, mine in by_file.items()]
    return _run(planned, folder, given, to_continue(command, argv))


def claims_parser() -> ArgumentParser:
    """A parser of the options."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--profile", type=Literal["quick", "full"], default="quick")
    for name in ("list", "report"):
        parser.add_argument(f"--{name}", type=bool, default=False)
    parser.add_argument("--configs", type=str, default=str(shipped_configs() / "claims"))
    parser.add_argument("--seeds", type=list[int] | None, default=None)
    parser.add_argument("--workers", type=int | None, default=None)
    parser.add_class_arguments(ExperimentOptions, "run", skip={"threads"})
    parser.add_class_arguments(Cluster, "cluster")
    return parser


def _plan(claims: list[Claim], file: Path, folder: Path, given: Namespace) -> Planned:
    """Claims with their experiment and its runs; wrong settings are refused before any runs."""
    argv = ["-c", str(file), f"--run.root={folder / 'runs'}", f"--run.name={file.stem}"]
    argv += [f"--{key}={given[key]}" for key in ("seeds", "workers") if given[key] is not None]
    argv += [f"--run.overwrite={str(given.run.overwrite).lower()}"]
    command = command_line(["compare", "-c", str(folder / "runs" / file.stem / "compare.yaml")])
    _, experiment, runs = plan_runs(argv, command)
    for claim in claims:
        check_claim(claim, experiment)
    return claims, replace(experiment, cluster=given.cluster), runs


def _run(planned: list[Planned], folder: Path, given: Namespace, command: str) -> int:
    """Runs experiment after experiment, and judges and reports after each."""
    content: dict[str, Any] = {
        "status": "running",
        "profile": given.profile,
        "command": command,
        "versions": versions(),
        "git": git_revision(),
        "revisions": [],
        "claims": [],
    }
    pictures: dict[str, str] = {}
    records = []
    for number, (claims, experiment, runs) in enumerate(planned, start=1):
        say(f"experiment {number} of {len(planned)}: {experiment.folder.name}")
        with removed_if_refused(folder):
            report.write_report(folder, content, pictures)
            record = run_experiment(experiment, runs, report_only=given.report)
        if record.signum:
            say(f"stopped; to continue: {command}")
            return 128 + record.signum
        records.append(record)
        if given.report or not record.in_jobs:
            _judge(claims, record, content, pictures)
    in_jobs = any(record.in_jobs for record in records)
    if in_jobs and not given.report:
        say_submitted(records, f"{command} --report")
        return 0
    content["status"] = "running" if in_jobs else "finished"
    report.write_report(folder, content, pictures)
    print(f"\n{', '.join(f'{n} {v}' for v, n in report.tally(content['claims']).items())}")
    print("files:", *(folder / name for name in ("claims.html", _RESULT, "claims.md")))
    return 1 if any(record.num_left for record in records) and not given.report else 0


def _judge(
    claims: list[Claim], record: Record, content: dict[str, Any], pictures: dict[str, str]
) -> None:
    """Adds and prints the verdicts on the claims of an experiment."""
    folder, results = record.experiment.folder, record.results
    for entry in judge_all(claims, record.experiment, results, runs=f"runs/{folder.name}"):
        figure = report.claim_figure(entry, record.experiment, results)
        if figure is not None:
            pictures[entry["name"]] = report.encoded(figure)
        content["claims"].append(entry)
        print(f"\n{entry['verdict'].upper()}  {entry['name']}: {entry['sentence']}")
        for condition in entry["conditions"]:
            found, bound = report.format_interval(condition), report.format_bound(condition)
            print(f"  {condition['verdict']}: {condition['what']}")
            print(f"    {condition['effect']}: {found}, required {bound}")
    terms = [term for claim in claims for condition in claim.conditions for term in condition.terms]
    if text := unlogged([term.metric for term in terms], results):
        say(f"warning: runs of {folder.name} finished{text}")
    say_failures(record)
    commits = {read_summary(folder / "runs" / run).get("git") for run in results["run"]}
    content["revisions"] = sorted({*content["revisions"], *commits} - {None})
    content["claims"].sort(key=itemgetter("name"))
