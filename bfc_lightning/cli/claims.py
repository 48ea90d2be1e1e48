"""`bfc claims`: sentences about hierarchical learning, each run to a verdict."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.callbacks.run_files import git_revision, versions
from bfc_lightning.cli.console import command_line, say, to_continue
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.experiments import parsed, plan_runs, say_failures, say_submitted
from bfc_lightning.cli.options import CONFIG_OPTIONS
from bfc_lightning.experiments.claims import report
from bfc_lightning.experiments.claims.claim import Claim, check_claim, find_claims, read_claim
from bfc_lightning.experiments.claims.verdicts import judge_all
from bfc_lightning.experiments.execute import removed_if_refused, run_experiment
from bfc_lightning.experiments.reading import own_folder
from bfc_lightning.experiments.record import Record
from bfc_lightning.experiments.spec import Cluster, Experiment, ExperimentOptions, RunSpec
from bfc_lightning.experiments.tables import unlogged
from bfc_lightning.runs.folder import RunError, read_summary
from bfc_lightning.runs.settings import did_you_mean, shipped_configs

Planned = tuple[list[Claim], Experiment, list[RunSpec]]

HELP = """\
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


def claims_command(argv: Sequence[str]) -> int:
    """Tests claims; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    with usage_errors():
        given = parsed(claims_parser(), ["--configs" if w in CONFIG_OPTIONS else w for w in argv])
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
    return _run(planned, folder, given, to_continue("claims", argv))


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
