"""The settings of a comparison's learners, parsed before anything is run."""

import os
import tempfile
from argparse import ArgumentError
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from bfc_lightning.cli.application import Application
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.trainer_flags import check_trainer_flags
from bfc_lightning.experiments.comparison import (
    Comparison,
    Point,
    files_of,
    points,
    settings_files,
)
from bfc_lightning.runs.folder import RunError

# Groups of `bfc fit` that belong to the comparison and to no learner.
_NOT_FOR_LEARNERS = ("config", "run", "resume", "seed_everything")


class FitParser(Application):
    """The parser of `bfc fit`, without a run. It serves for one `check` only."""

    def __init__(self) -> None:
        super().__init__([], 0.0)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses nothing yet."""
        nothing = {"subcommand": "fit", "fit.seed_everything": False}
        self.config = Namespace(**nothing)  # type: ignore[no-untyped-call]

    def before_instantiate_classes(self) -> None:
        """Nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""

    def groups(self) -> list[str]:
        """The first-level keys of a config."""
        return list(vars(self._parser("fit").get_defaults()))

    def check(self, words: list[str]) -> None:
        """Parses the words after `bfc fit`.

        Args:
            words: configs and settings.
        """
        super().parse_arguments(self.parser, ["fit", *words])
        check_trainer_flags(self.config.fit.trainer)


def check_learners(comparison: Comparison) -> None:
    """Parses the settings of every learner at every point of the grid.

    Args:
        comparison: what is compared.

    Raises:
        RunError: if they are none of `bfc fit`.
    """
    _check_first_level(comparison)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, text in settings_files(comparison).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        for point in points(comparison):
            configs = [str(folder / name) for name in files_of(comparison, point)]
            try:
                FitParser().check([word for config in configs for word in ("-c", config)])
            except (ArgumentError, RunError) as mistake:
                text = one_line(str(mistake)).replace(f"{folder}{os.sep}", "")
                raise RunError(f"learner {_in_words(point)}: {text}") from mistake


def _check_first_level(comparison: Comparison) -> None:
    """Refuses groups that `bfc fit` does not have, or that are not for a learner to change.

    Raises:
        RunError: if there is one; it lists the known ones.
    """
    known = [key for key in FitParser().groups() if key not in _NOT_FOR_LEARNERS]
    given = [(f"learners.{name}", set(block)) for name, block in comparison.learners.items()]
    given += [
        (f"grid.{name}.key", {axis.key.split(".")[0]}) for name, axis in comparison.grid.items()
    ]
    for name, keys in given:
        strange = sorted(str(key) for key in keys if key not in known)
        if strange:
            raise RunError(f"{name} must begin with one of {', '.join(known)}, got {strange[0]}.")


def _in_words(point: Point) -> str:
    return ", ".join([point.learner, *(f"{axis} = {label}" for axis, label in point.labels)])
