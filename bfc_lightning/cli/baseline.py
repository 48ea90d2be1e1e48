"""`bfc baseline`: a learner that needs no Trainer, on the problem of a `bfc fit` config."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from bfc_lightning.baselines import Baseline
from bfc_lightning.baselines.fitting import fit_and_score
from bfc_lightning.callbacks.environment import versions
from bfc_lightning.callbacks.summary import git_revision
from bfc_lightning.cli.application import Application, quieten
from bfc_lightning.cli.console import say, show_metrics
from bfc_lightning.cli.ends import ended
from bfc_lightning.cli.refusals import absent_folders, in_words, refusing, remove_empty
from bfc_lightning.files import write_atomically, write_json
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    SUMMARY,
    RunError,
    RunOptions,
    claim_new_folder,
    find_folder,
)
from bfc_lightning.seeds import derive_seed


class BaselineApplication(Application):
    """Parses the settings of `bfc fit` and a baseline beside them, and builds what it needs."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(["fit", *words], time.time())

    def add_arguments_of_command(self, parser: LightningArgumentParser, subcommand: str) -> None:
        """Adds the baseline, in place of a checkpoint: what is fitted in one go is not resumed."""
        if subcommand == "fit":
            add_baseline(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the words; help and complaints call the command by its own name."""
        self._parser("fit").prog = "bfc baseline"
        super().parse_arguments(parser, args)

    def prepare(self, mine: Namespace) -> None:
        """Settles the folder.

        Raises:
            RunError: if the settings ask for several learners.
        """
        if mine.model.num_replicas != 1:
            raise RunError(
                f"model.num_replicas must be 1 for a baseline, got {mine.model.num_replicas}."
            )
        if mine.model.init_scale is None:  # the default is chosen for training
            self.resolved[self.subcommand].model.init_scale = 1.0
        self.options = RunOptions(**vars(mine.run))
        self.folder = find_folder(self.options, [str(file) for file in mine.config or []])

    def instantiate_classes(self) -> None:
        """Builds data, network and baseline, but no Trainer."""
        with refusing():
            self.config_init = self.parser.instantiate(self.resolved)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.baseline = self._get(self.config_init, "baseline")

    def _run_subcommand(self, subcommand: str) -> None:
        """Fits, scores, and only then makes the run folder: a run that is killed leaves none.

        Raises:
            RunError: if the settings make numbers with which it can't be fitted.
        """
        absent = absent_folders(self.folder.parent)
        claim_new_folder(self.folder, self.options).abandon()  # refuses now what it would then
        remove_empty(absent)
        name, config = type(self.baseline).__name__, self.config[subcommand]
        say(f"{name} on {self.datamodule.num_train_samples} samples, seed {config.seed_everything}")
        seed = derive_seed(config.seed_everything, "baseline")
        try:
            metrics, seconds = fit_and_score(
                self.baseline,
                self.datamodule,
                self.model.network,
                seed,
                is_measured=config.num_measures > 0,
            )
        except RunError:
            raise
        except (ValueError, ArithmeticError, LinAlgError) as refused:
            raise RunError(f"{name} cannot be fitted: {in_words(refused)}") from refused
        claim = claim_new_folder(self.folder, self.options)
        (claim.path / CHECKPOINTS).rmdir()
        self._write(claim.path, metrics, seconds)
        claim.keep()
        show_metrics(str(claim.path), metrics)

    def _write(self, folder: Path, metrics: dict[str, float], fit_seconds: float) -> None:
        settings = self.config[self.subcommand].clone()
        settings.pop("config", None)
        settings.run.name, settings.run.overwrite = folder.name, False
        text = self._parser("fit").dump(settings, skip_unset=False)
        command = f"bfc baseline -c {folder / CONFIG} --run.name ANOTHER"
        write_atomically(
            folder / CONFIG, f"# Every setting of the run {folder.name}. Again: {command}\n{text}"
        )
        content = {
            "status": "finished",
            "baseline": type(self.baseline).__name__,
            "samples_seen": self.datamodule.num_train_samples,
            "wall_seconds": round(time.time() - self.started, 3),
            "fit_seconds": round(fit_seconds, 3),
            "versions": versions(),
            "git": git_revision(),
            "threads": torch.get_num_threads(),
            "metrics": metrics,
        }
        write_json(folder / SUMMARY, content)


def add_baseline(parser: LightningArgumentParser) -> None:
    """Adds the key that `bfc baseline` has and `bfc fit` has not.

    Args:
        parser: of a command.
    """
    parser.add_subclass_arguments(
        Baseline, "baseline", help="What is fitted, by class_path.", required=True
    )


def baseline_command(words: Sequence[str]) -> int:
    """Runs `bfc baseline`.

    Args:
        words: its arguments.

    Returns:
        The exit status; 4 where it needs more memory than there is.
    """
    quieten()

    def run() -> int:
        BaselineApplication(list(words))
        return 0

    return ended(run)
