"""The settings of a sweep's runs: parsed before anything is run, and compared with what was run."""

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.fit_parser import FitParser
from bfc_lightning.experiments.plan import Point
from bfc_lightning.experiments.settings import RUNS
from bfc_lightning.experiments.sweeps.commands import point_words
from bfc_lightning.experiments.sweeps.folder import KIND
from bfc_lightning.experiments.sweeps.sweep import Sweep, sweep_points, sweep_runs, swept_keys
from bfc_lightning.runs.folder import CONFIG, RunError
from bfc_lightning.runs.identity import differences, flatten, run_identity

_LENGTH = "trainer.max_steps"


@dataclass(frozen=True)
class PointSettings:
    """What a point means to `bfc fit`.

    Attributes:
        identity: the settings that decide the numbers, by dotted key.
        accelerator: that its runs ask for.
    """

    identity: Mapping[str, Any]
    accelerator: str


def parse_points(sweep: Sweep) -> dict[Point, PointSettings]:
    """Parses the settings of every point as `bfc fit` will.

    Args:
        sweep: what is swept.

    Returns:
        What they mean.

    Raises:
        RunError: if they are none of `bfc fit`.
    """
    known = FitParser().groups()
    for key in swept_keys(sweep):
        if key.partition(".")[0] not in known:
            raise RunError(f"a swept key must begin with one of {', '.join(known)}, got {key}.")
    bases = [str(path.absolute) for path in sweep.base]
    found = {}
    for point, settings in sweep_points(sweep).items():
        parser = FitParser()
        try:
            parser.check(point_words(settings, bases)[1:])
        except (ArgumentError, RunError) as mistake:
            hint = _near(swept_keys(sweep), bases)
            raise RunError(f"point {point.name}: {one_line(str(mistake))}{hint}") from mistake
        content = parser.settings()
        found[point] = PointSettings(_identity(content), str(content["trainer"]["accelerator"]))
    return found


def check_unchanged(sweep: Sweep, folder: Path, parsed: Mapping[Point, PointSettings]) -> None:
    """Refuses to count runs that were made with other settings, by whomever they were begun.

    Args:
        sweep: what is swept.
        folder: of the sweep, there or not.
        parsed: what each point means now.

    Raises:
        RunError: if a run of the sweep was begun with other settings.
    """
    for run in sweep_runs(sweep):
        path = folder / RUNS / run.name / CONFIG
        if not path.is_file():
            continue
        before = _identity(yaml.safe_load(path.read_text(encoding="utf-8")))
        now = {**parsed[run.point].identity, "seed_everything": run.seed}
        # what a later version has made a setting is absent there
        changes = differences(before, {key: now[key] for key in before if key in now})
        if changes:
            raise RunError(
                f"settings have changed since {run.name} was begun: {'; '.join(changes[:3])}; "
                f"{KIND.way_out}"
            )


def _identity(content: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's numbers; its length only where the scheme has none of its own."""
    identity = run_identity(content)
    if not str(identity["scheme.class_path"]).endswith(".Joint"):
        del identity[_LENGTH]
    return identity


def _near(keys: Sequence[str], bases: Sequence[str]) -> str:
    """Known keys that are much like an unknown one, if any."""
    parser = FitParser()
    try:
        parser.check([word for base in bases for word in ("-c", base)])
    except (ArgumentError, RunError):  # the base alone need not be whole
        return ""
    known = list(flatten(parser.settings()))
    near = [
        f"{key}: {', '.join(found)}"
        for key in keys
        if key not in known and (found := get_close_matches(key, known))
    ]
    return f" Keys like {'; like '.join(near)}." if near else ""
