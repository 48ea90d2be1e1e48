"""`bfc fit`, `validate`, `test` and `predict`: LightningCLI over our run folders."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from bfc_lightning.cli.config_files import check_config_files, check_groups
from bfc_lightning.cli.console import only_the_first_prints
from bfc_lightning.cli.evaluation import Evaluation
from bfc_lightning.cli.fitting import Fitting
from bfc_lightning.cli.peers import Peers
from bfc_lightning.cli.processes import rank
from bfc_lightning.cli.refusals import parsing, refusing
from bfc_lightning.cli.together import run_together
from bfc_lightning.cli.trainer_flags import (
    TRAINER_DEFAULTS,
    check_strategy,
    check_trainer_flags,
    share_out,
)
from bfc_lightning.data import HierarchicalData
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.runs.assembly import add_problem_arguments, add_study_arguments, fill_seeds
from bfc_lightning.runs.folder import RunError, RunOptions
from bfc_lightning.runs.replication import build_replicas, check_memory, describe_replicas

_MOST_MEASURES = 100_000  # the steps between them are listed before the run


class Application(LightningCLI):
    """Parses a command, builds its objects, and leaves the run to `Fitting` or `Evaluation`."""

    def __init__(self, args: list[str], started: float, peers: Peers | None = None) -> None:
        self.started = started
        self.given_words = args
        self.peers = Peers() if peers is None else peers
        self.command = args[0] if args else "fit"
        # Lightning would believe any variable that has a rank.
        rank_zero_only.rank = rank()  # type: ignore[attr-defined]
        plain = {"prog": "bfc", "exit_on_error": False}
        super().__init__(
            HierarchicalLearner,
            HierarchicalData,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={**plain, **{name: dict(plain) for name in self.subcommands()}},
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command, and the arguments of the Trainer's method that are not the user's.

        The others are left out: a parser for each of the four would take most of a second.
        """
        ours = {"model", "datamodule", "dataloaders", "ckpt_path", "weights_only", "verbose"}
        hidden = {
            "fit": {*ours - {"dataloaders", "verbose"}, "train_dataloaders", "val_dataloaders"},
            "validate": ours,
            "test": ours,
            "predict": {*ours - {"verbose"}, "return_predictions"},
        }
        return {self.command: hidden[self.command]}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: object
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.add_arguments_of_command(parser, subcommand)
        return parser

    def add_arguments_of_command(self, parser: LightningArgumentParser, subcommand: str) -> None:
        """Adds what only one command takes: which checkpoint it starts from.

        Args:
            parser: of the command.
            subcommand: its name.
        """
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                help="`auto` goes on from the run's last checkpoint, if there is one; or the PATH "
                "of a checkpoint or run folder.",
            )
        else:
            parser.add_argument(
                "--ckpt_path",
                type=str,
                default="best",
                help="Which checkpoint: `best` or `last` of the run, or a PATH.",
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="The seed of the run. Inputs, target, start and samples get theirs from it.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the problem, the training scheme and the run folder."""
        add_problem_arguments(parser)
        add_study_arguments(parser)
        parser.add_class_arguments(RunOptions, "run")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the words given to `main`, whatever the process was started with.

        Raises:
            RunError: if a number is out of range, or a config file is no YAML mapping.
        """
        assert isinstance(args, list)
        with parsing(), only_the_first_prints():
            check_config_files(args)
            self.config = self._parse_without_inheritance(args)
            mine = self.config[self.config.subcommand]
            check_groups(mine, ("model", "data", "trainer", "run"))
        if not 0 <= mine.seed_everything < 2**32:
            raise RunError(f"seed_everything must lie in [0, 2^32), got {mine.seed_everything}.")
        if mine.num_measures > _MOST_MEASURES:
            raise RunError(
                f"num_measures must be at most {_MOST_MEASURES:,}, got {mine.num_measures}."
            )

    def _parse_without_inheritance(self, args: list[str]) -> Namespace:
        """Parses so that another optimizer or schedule starts from its own defaults.

        jsonargparse hands the arguments of the default class on to another one that has arguments
        of the same name. Where the class differs from the default, the words are parsed again
        without a default class.
        """
        config = self.parser.parse_args(args)
        parser = self._parser(config.subcommand)
        for key in ("model.optimizer", "model.lr_scheduler"):
            chosen = config[config.subcommand].get(f"{key}.class_path")
            default = parser.get_default(key)
            if chosen is not None and chosen != _class_path(default):
                parser.set_defaults({key: None})
                config = self.parser.parse_args(args)
        return config

    def _parse_ckpt_path(self) -> None:
        """Lets no checkpoint change the settings silently; `Fitting` and `Evaluation` compare."""

    def before_instantiate_classes(self) -> None:
        """Checks what needs no objects, and gives every part its seed."""
        mine = self.config[self.subcommand]
        with refusing():
            check_trainer_flags(mine.trainer)
            check_strategy(mine.trainer.strategy)
            _set_threads(mine.run.threads)
            self.resolved = self.config.clone()
            fill_seeds(self.resolved[self.subcommand], mine.seed_everything)
            self.prepare(mine)

    def prepare(self, mine: Namespace) -> None:
        """Settles what there is to do, once the seeds are filled in.

        Args:
            mine: the settings of this command, as they were given.
        """
        parser = self._parser(self.subcommand)
        self.job: Fitting | Evaluation
        parts = {
            "parser": parser,
            "config": mine,
            "resolved": self.resolved[self.subcommand],
            "words": self.given_words,
            "peers": self.peers,
        }
        if self.subcommand == "fit":
            self.job = Fitting(started=self.started, **parts)
        else:
            self.job = Evaluation(command=str(self.subcommand), **parts)

    def instantiate_classes(self) -> None:
        """Builds the objects from the resolved settings; a refusal of theirs is the user's."""
        mine = self.config[self.subcommand]
        with refusing():
            self.config_init = self.parser.instantiate(self.resolved)
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
            is_measured = self.subcommand == "fit" and mine.num_measures > 0
            count = mine.model.num_replicas
            check_memory(self.model, self.datamodule, count, is_measured=is_measured)
            replicas = describe_replicas(mine)
            if len(replicas) > 1:
                parser = self._parser(self.subcommand)
                self.model, self.datamodule = build_replicas(parser, mine, replicas)
                self.job.take_replicas(replicas)
            self.trainer = self.instantiate_trainer()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        share_out(config, self.peers)
        if isinstance(self.job, Fitting):
            self.job.scheme = self._get(self.config_init, "scheme")
            self.job.measures = self._get(self.config_init, "measures")
        return self.job.make_trainer(config, model=self.model, data=self.datamodule)

    def _run_subcommand(self, subcommand: str) -> None:
        self.job.run(self.trainer, model=self.model, data=self.datamodule)


def _class_path(default: object) -> str | None:
    """The class that a default names, as jsonargparse writes it."""
    if isinstance(default, type):
        return f"{default.__module__}.{default.__qualname__}"
    return default.get("class_path") if isinstance(default, Namespace | dict) else None


def run_command(args: Sequence[str], started: float) -> int:
    """Runs `fit`, `validate`, `test` or `predict`.

    Args:
        args: the command and its arguments.
        started: `time.time()` when the command began.

    Returns:
        The exit status.
    """
    quieten()

    def run(peers: Peers) -> int:
        Application(list(args), started, peers)
        return 0

    return run_together(run)


def _set_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise RunError(f"run.threads must be at least 1, got {threads}.")
    if threads is not None:
        torch.set_num_threads(threads)


def quieten() -> None:
    """Leaves out what Lightning says of itself; warnings and errors stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The loaders hold numbers of batches, not data: workers would have nothing to do.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 asks PyTorch's trees a question that PyTorch 2.13 wants put otherwise.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    # On the fast path a checkpoint belongs after the optimizer step, as on the plain one.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization.*")
