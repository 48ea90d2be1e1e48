"""`bfc claims`: sentences about hierarchical learning, run to a verdict."""

import re
import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.cli.comparing import parse_comparison, run_in_folder
from bfc_lightning.cli.config_files import check_config_files, check_groups
from bfc_lightning.cli.console import say
from bfc_lightning.cli.ends import ended
from bfc_lightning.cli.many_runs import PlainHelp
from bfc_lightning.cli.refusals import parsing, refusing
from bfc_lightning.experiments.claims.claim import (
    PROFILES,
    Claim,
    check_claim,
    find_claims,
    read_claim,
)
from bfc_lightning.files import finished
from bfc_lightning.runs.folder import RunError, check_name

if TYPE_CHECKING:
    from bfc_lightning.experiments.claims.running import Evidence
    from bfc_lightning.experiments.claims.verdicts import Judgment
    from bfc_lightning.experiments.execution import Outcome

DESCRIPTION = """\
Runs what claims need, and says of each whether it holds, does not hold, or is undecided.

A claim is a file of configs/claims: a sentence, its source, a comparison for each profile, and what
must hold of medians over seeds. Claims with the same comparison share its runs. The same command
goes on where it was stopped.

    bfc claims                         all of them, quick: small targets, five seeds
    bfc claims layerwise gap           two of them
    bfc claims --list true             what there is
    bfc claims --profile full          as large as the results in the documents; takes hours

It leaves, in <run.root>/<run.name>/, by default logs/claims-PROFILE, with the names of the claims
and the seeds where they are given: claims.html (a page with pictures, opens by itself),
claims.json, claims.md, runs/ (a folder of `bfc compare` for each comparison).
Exit status: 0 every run came to an end, whatever the verdicts, 1 a run failed, 2 a mistake in the
input, 4 out of memory, 130 and 143 stopped by a signal.
"""


def claims_command(words: Sequence[str]) -> int:
    """Runs `bfc claims`.

    Args:
        words: its arguments.

    Returns:
        The exit status.
    """

    def run() -> int:
        with parsing():
            given = _parser().parse_args(list(words))
            check_groups(given, ("run",))
            claims = _read(given)
        if given.list:
            for claim in claims:
                print(f"{claim.name}: {claim.sentence}")
            return 0
        return _run(claims, given, command=f"bfc claims {shlex.join(words)}".rstrip())

    return ended(run)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bfc claims", exit_on_error=False, description=DESCRIPTION, formatter_class=PlainHelp
    )
    parser.add_argument("names", nargs="*", default=[], help="Which claims; all if not given.")
    parser.add_argument(
        "--profile", type=Literal[PROFILES], default="quick", help="How large the runs are."
    )
    parser.add_argument("--list", type=bool, default=False, help="Only print names and sentences.")
    parser.add_argument("--configs", default="configs/claims", help="The folder of the claims.")
    parser.add_argument(
        "--seeds", type=list[int] | None, default=None, help="In place of each comparison's own."
    )
    parser.add_argument("--workers", type=int | None, default=None, help="Runs at a time.")
    parser.add_argument("--run.name", type=str | None, default=None, help="Of the folder.")
    parser.add_argument("--run.root", default="logs", help="The folder that it is put in.")
    parser.add_argument(
        "--run.overwrite", type=bool, default=False, help="Delete the runs of this name first."
    )
    return parser


def _read(given: Namespace) -> list[Claim]:
    """The claims that are asked for.

    Raises:
        RunError: if one is unknown.
    """
    known = find_claims(Path(given.configs))
    for path in known.values():
        check_config_files(["-c", str(path)])
    for name in given.names:
        if name not in known:
            raise RunError(f"a claim must be one of {', '.join(known)}, got {name!r}.")
    return [read_claim(known[name]) for name in dict.fromkeys(given.names or known)]


def _run(claims: Sequence[Claim], given: Namespace, *, command: str) -> int:
    """Does it, once the words are understood."""
    from bfc_lightning.experiments.claims.running import RUNS, Record, run_claims
    from bfc_lightning.experiments.folder import check_unchanged, find_comparison
    from bfc_lightning.experiments.own_folder import locked

    with refusing():
        folder = _folder(given)
        evidence = _evidence(claims, given, folder)
    with locked(folder):
        if given.run.overwrite:
            shutil.rmtree(folder / RUNS, ignore_errors=True)
        for part in evidence:
            check_unchanged(part.comparison, find_comparison(part.comparison, []))
        record = Record(folder, given.profile, command, [claim.name for claim in claims])
        num_lost: list[int] = []
        run = partial(_run_comparison, total=len(evidence), num_lost=num_lost)
        signum = run_claims(evidence, record, run=run, say=_show)
    if signum:
        again = re.sub(r" --run\.overwrite[ =]\S+", "", command)
        say(f"stopped; go on: {again}")
        return 128 + signum
    _show_end(folder, sum(num_lost))
    return 1 if any(num_lost) else 0


def _folder(given: Namespace) -> Path:
    """Where the page is put: a folder of its own for every choice of claims and seeds.

    Raises:
        RunError: if the name is no plain folder name, or something else lies there.
    """
    from bfc_lightning.experiments.claims.running import RESULT

    seeds = [] if given.seeds is None else [f"seeds{'+'.join(map(str, given.seeds))}"]
    name = "-".join(["claims", given.profile, *given.names, *seeds])
    if given.run.name is not None:
        name = given.run.name
    check_name(name)
    folder = Path(given.run.root) / name
    names = {finished(path).name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {RESULT} and not (folder / RESULT).is_file():
        raise RunError(
            f"run.name must be free in {folder.parent} or name claims, got {name!r}, which is "
            "something else: choose another."
        )
    return folder


def _evidence(claims: Sequence[Claim], given: Namespace, folder: Path) -> "list[Evidence]":
    """Each comparison with the claims that are judged by it; all are checked before any is run.

    Raises:
        RunError: if a claim or a comparison can't be run, or two of them would share a folder.
    """
    from bfc_lightning.cli.learner_settings import check_learners
    from bfc_lightning.experiments.claims.running import RUNS, Evidence

    by_file: dict[Path, list[Claim]] = {}
    for claim in claims:
        by_file.setdefault(claim.runs[given.profile].resolve(), []).append(claim)
    evidence: list[Evidence] = []
    for file, judged in by_file.items():
        if any(file.stem == part.name for part in evidence):
            raise RunError(f"comparisons must have different names, got {file.name} twice.")
        words = ["-c", str(file), "--run.root", str(folder / RUNS), "--run.name", file.stem]
        words += [] if given.workers is None else ["--workers", str(given.workers)]
        words += [] if given.seeds is None else ["--seeds", str(given.seeds)]
        comparison, _ = parse_comparison(words)
        for claim in judged:
            check_claim(claim, comparison)
        check_learners(comparison)
        evidence.append(Evidence(file.stem, comparison, judged))
    return evidence


def _run_comparison(part: "Evidence", *, total: int, num_lost: list[int]) -> "Outcome":
    """Runs what is missing of a comparison, and counts what did not come to an end."""
    from bfc_lightning.experiments.claims.running import unknown_metrics
    from bfc_lightning.experiments.folder import find_comparison
    from bfc_lightning.experiments.results import DONE, metric_names
    from bfc_lightning.experiments.tuning import edge_warnings

    say(f"comparison {len(num_lost) + 1} of {total}: {part.name}")
    comparison = part.comparison
    folder = find_comparison(comparison, [])
    command = f"bfc compare -c {folder}/compare.yaml"
    outcome = run_in_folder(comparison, folder, command=command)
    num_lost.append(sum(row.status not in DONE for row in outcome.rows))
    for line in edge_warnings(outcome.choices, comparison):
        say(f"warning: {line}")
    for metric in unknown_metrics(part, outcome):
        known = ", ".join(metric_names(outcome.rows))
        say(f"warning: no run of {part.name} logged {metric}; known: {known}.")
    return outcome


def _show(judgment: "Judgment") -> None:
    """Prints a verdict, and the effects behind it."""
    from bfc_lightning.experiments.claims.results import (
        as_json,
        bound_in_words,
        interval_in_words,
    )

    claim = judgment.claim
    print(f"\n{judgment.verdict.upper()}  {claim.name}: {claim.sentence}")
    for condition in as_json(judgment, runs="")["conditions"]:
        asked, found = bound_in_words(condition), interval_in_words(condition)
        print(f"  {condition['verdict']}: {condition['what']}")
        print(f"    {condition['effect']}: {found}, asked {asked}", flush=True)


def _show_end(folder: Path, num_lost: int) -> None:
    import json

    from bfc_lightning.experiments.claims.results import tally
    from bfc_lightning.experiments.claims.running import PAGE, RESULT, TEXT

    content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    counts = tally(content["claims"])
    print(f"\n{', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    print("files:", *(folder / name for name in (PAGE, RESULT, TEXT)), flush=True)
    if num_lost:
        say(f"runs that failed: {num_lost}; what they printed is in {folder}/runs/*/logs.")
