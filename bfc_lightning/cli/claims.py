"""`bfc claims`: sentences about hierarchical learning, each run to a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.cli.console import command_line, say
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.experiments import (
    num_left,
    parse_experiment,
    plan,
    removed_if_refused,
    run_locked,
)
from bfc_lightning.cli.names import Names
from bfc_lightning.cli.options import normalized
from bfc_lightning.runs.config import flatten
from bfc_lightning.runs.folder import RunError, check_name, expanded
from bfc_lightning.runs.yaml_files import did_you_mean, shipped_configs

if TYPE_CHECKING:
    from bfc_lightning.experiments.claims.claim import Claim
    from bfc_lightning.experiments.execute import Outcome
    from bfc_lightning.experiments.spec import Experiment, Place

HELP = """\
usage: bfc claims [NAME ...] [--profile quick|full] [--list] [--KEY VALUE ...]

Runs the experiments of claims, and says of each claim whether it holds, does not hold, or is
undecided. A claim is a file with a sentence, its source, an experiment for each profile, and bounds
for medians over seeds. The same command continues.

    bfc claims                      all claims, quick: small targets
    bfc claims layerwise gap        two of them
    bfc claims --list               their names and sentences
    bfc claims --profile full       large targets; takes hours

options:
  --profile PROFILE      quick (default) or full.
  --list                 Print names and sentences, and run nothing.
  --configs FOLDER       Folder of the claims; the shipped ones by default.
  --seeds SEEDS          Seeds in place of those of the experiments, e.g. [0,1,2,3,4].
  --workers N            Runs at a time.
  --run.name NAME        Name of the folder, claims-PROFILE by default.
  --run.root FOLDER      Folder that it is put in, logs by default.
  --run.overwrite        Delete the runs of this name first.

Files in ROOT/NAME/: claims.html (a page with figures), claims.json, claims.md, runs/.

exit codes: 0 every run is over, whatever the verdicts, 1 a run failed, 2 usage error, 130 and 143
stopped by a signal.
"""
_RESULT = "claims.json"


def claims_command(argv: Sequence[str]) -> int:
    """Tests claims; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    with usage_errors():
        given = _parse(argv)
        claims = _read(given)
        if given.list:
            for claim in claims:
                print(f"{claim.name}: {claim.sentence}")
            return 0
        folder = _folder(given)
        files = dict.fromkeys(claim.runs[given.profile].resolve() for claim in claims)
        experiments = [_plan(claims, file, folder, given) for file in files]
    command = command_line(["claims", *argv])
    return _run(experiments, claims, folder=folder, profile=given.profile, command=command)


def claims_parser() -> ArgumentParser:
    """A parser of the options."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--profile", type=Literal["quick", "full"], default="quick")
    parser.add_argument("--list", type=bool, default=False)
    parser.add_argument("--configs", type=str, default=str(shipped_configs() / "claims"))
    parser.add_argument("--seeds", type=list[int] | None, default=None)
    parser.add_argument("--workers", type=int | None, default=None)
    parser.add_argument("--run.name", type=str | None, default=None)
    parser.add_argument("--run.root", type=str, default="logs")
    parser.add_argument("--run.overwrite", type=bool, default=False)
    return parser


def _parse(argv: Sequence[str]) -> Namespace:
    parser = claims_parser()
    names = Names(flatten(parser.get_defaults().as_dict()), argv)
    names.check()
    with names.explained():
        return parser.parse_args(normalized(argv, ["list", "run.overwrite"]))


def _read(given: Namespace) -> "list[Claim]":
    """The claims that are asked for."""
    from bfc_lightning.experiments.claims.claim import find_claims, read_claim

    known = find_claims(Path(given.configs))
    for name in given.names:
        if name not in known:
            raise RunError(f"unknown claim {name!r}.{did_you_mean(name, list(known))}")
    return [read_claim(known[name]) for name in dict.fromkeys(given.names or known)]


def _folder(given: Namespace) -> Path:
    """A folder of its own for every choice of claims and seeds."""
    chosen = [] if given.seeds is None else [f"seeds{'+'.join(map(str, given.seeds))}"]
    name = given.run.name or "-".join(["claims", given.profile, *given.names, *chosen])
    check_name(name)
    folder = expanded(given.run.root) / name
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _RESULT).is_file():
        raise RunError(f"{folder} holds something else: choose another run.name.")
    return folder


def _plan(
    claims: "Sequence[Claim]", file: Path, folder: Path, given: Namespace
) -> "tuple[list[Claim], Experiment, Place, bool]":
    """An experiment with the claims that it decides."""
    from bfc_lightning.experiments.claims.claim import check_claim
    from bfc_lightning.experiments.reading import expand

    argv = ["-c", str(file), f"--run.root={folder / 'runs'}", f"--run.name={file.stem}"]
    argv += [] if given.seeds is None else [f"--seeds={given.seeds}"]
    argv += [] if given.workers is None else [f"--workers={given.workers}"]
    argv += [f"--run.overwrite={str(given.run.overwrite).lower()}"]
    command = command_line(["compare", "-c", str(folder / "runs" / file.stem / "compare.yaml")])
    experiment, place, is_new = plan(parse_experiment(argv), command)
    expand(experiment)  # refuses wrong settings before the first experiment runs
    mine = [claim for claim in claims if claim.runs[given.profile].resolve() == file]
    for claim in mine:
        check_claim(claim, experiment)
    return mine, experiment, place, is_new


def _run(
    experiments: "Sequence[tuple[list[Claim], Experiment, Place, bool]]",
    claims: "Sequence[Claim]",
    *,
    folder: Path,
    profile: str,
    command: str,
) -> int:
    """Runs experiment after experiment, and judges and reports after each."""
    from bfc_lightning.experiments.claims import report
    from bfc_lightning.experiments.claims.verdicts import judge_all, unknown_metrics

    entries: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    revisions: set[str] = set()

    def write() -> None:
        known = [entries[claim.name] for claim in claims if claim.name in entries]
        content = report.as_content(
            known,
            is_complete=len(known) == len(claims),
            profile=profile,
            command=command,
            revisions=revisions,
        )
        report.write_report(folder, content, pictures)

    num_failed = 0
    for number, (mine, experiment, place, is_new) in enumerate(experiments, start=1):
        say(f"experiment {number} of {len(experiments)}: {place.folder.name}")
        with removed_if_refused(folder, is_new=not folder.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            write()
            outcome = run_locked(experiment, place, is_new=is_new)
        if outcome.signum:
            say(f"stopped; to continue: {command}")
            return 128 + outcome.signum
        num_failed += num_left(outcome)
        revisions |= _revisions(outcome, place.folder)
        runs = f"runs/{place.folder.name}"
        for entry in judge_all(mine, experiment, outcome.results, runs=runs):
            entries[entry["name"]] = entry
            figure = report.claim_figure(entry, experiment, outcome.results)
            if figure is not None:
                pictures[entry["name"]] = report.encoded(figure)
            _show(entry)
        for metric in unknown_metrics(mine, outcome.results):
            say(f"warning: no run of {place.folder.name} logged {metric}.")
        write()
    print(f"\n{', '.join(f'{n} {v}' for v, n in report.tally(list(entries.values())).items())}")
    print("files:", *(folder / name for name in ("claims.html", _RESULT, "claims.md")))
    return 1 if num_failed else 0


def _revisions(outcome: "Outcome", folder: Path) -> set[str]:
    """The commits that the runs were made with."""
    from bfc_lightning.runs.loading import read_summary

    found = [read_summary(folder / "runs" / name).get("git") for name in outcome.results["run"]]
    return {commit for commit in found if commit}


def _show(entry: dict[str, Any]) -> None:
    """Prints a verdict with its effects."""
    from bfc_lightning.experiments.claims.report import bound_in_words, interval_in_words

    print(f"\n{entry['verdict'].upper()}  {entry['name']}: {entry['sentence']}")
    for condition in entry["conditions"]:
        print(f"  {condition['verdict']}: {condition['what']}")
        found, bound = interval_in_words(condition), bound_in_words(condition)
        print(f"    {condition['effect']}: {found}, required {bound}")
