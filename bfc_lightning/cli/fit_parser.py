"""What `bfc fit` makes of its words, without a run."""

from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from bfc_lightning.cli.application import Application
from bfc_lightning.cli.baseline import add_baseline
from bfc_lightning.cli.trainer_flags import check_trainer_flags
from bfc_lightning.runs.folder import RunError

# Groups of `bfc fit` that belong to the comparison or sweep and to no learner.
_NOT_FOR_LEARNERS = ("config", "run", "resume", "seed_everything", "replica_overrides")


class FitParser(Application):
    """The parser of `bfc fit` or `bfc baseline`, without a run. It serves for one `check` only.

    Args:
        has_baseline: whether it is that of `bfc baseline`.
    """

    def __init__(self, *, has_baseline: bool = False) -> None:
        self.has_baseline = has_baseline
        super().__init__([], 0.0)

    def add_arguments_of_command(self, parser: LightningArgumentParser, subcommand: str) -> None:
        """Adds what a baseline is fitted with, or the checkpoint that `bfc fit` starts from."""
        if subcommand == "fit" and self.has_baseline:
            add_baseline(parser)
        else:
            super().add_arguments_of_command(parser, subcommand)

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
        """The first-level keys of a config that a learner may change."""
        known = vars(self._parser("fit").get_defaults())
        return [key for key in known if key not in _NOT_FOR_LEARNERS]

    def check(self, words: list[str]) -> None:
        """Parses the words after `bfc fit`.

        Args:
            words: configs and settings.

        Raises:
            RunError: if a run would have several learners.
        """
        super().parse_arguments(self.parser, ["fit", *words])
        check_trainer_flags(self.config.fit.trainer)
        if self.config.fit.model.num_replicas != 1:
            raise RunError(
                "model.num_replicas must be 1 in a comparison or a sweep, which have seeds of "
                f"their own, got {self.config.fit.model.num_replicas}."
            )
        if self.config.fit.replica_overrides:
            raise RunError(
                "replica_overrides must be empty in a comparison or a sweep, got "
                f"{self.config.fit.replica_overrides}."
            )

    def settings(self) -> dict[str, Any]:
        """Everything that the checked words mean, as a run's `config.yaml` has it."""
        text = self._parser("fit").dump(self.config.fit, skip_unset=False)
        content: dict[str, Any] = yaml.safe_load(text)
        return content


def read_fit(words: Sequence[str]) -> dict[str, Any] | None:
    """Parses the words after `bfc fit`.

    Args:
        words: configs and settings.

    Returns:
        Everything that they mean, or None where they are refused.
    """
    parser = FitParser()
    try:
        parser.check(list(words))
    except (ArgumentError, RunError):
        return None
    return parser.settings()
