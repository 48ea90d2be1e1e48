"""`bfc fit`, `validate`, `test` and `predict`: LightningCLI over our run folders."""

import logging
import sys
import time
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from bfc_lightning.callbacks.stops import Diverged, Interrupted
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.evaluation import Evaluation
from bfc_lightning.cli.fitting import Fitting
from bfc_lightning.cli.trainer_flags import TRAINER_DEFAULTS, check_trainer_flags
from bfc_lightning.data import HierarchicalData
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.runs.assembly import add_problem_arguments, fill_seeds
from bfc_lightning.runs.folder import RunError, RunOptions

_STARTED = time.time()


class Application(LightningCLI):
    """Parses a command, builds its objects, and leaves the run to `Fitting` or `Evaluation`."""

    def __init__(self, args: ArgsType) -> None:
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

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and the arguments of the Trainer's methods that are not the user's."""
        ours = {"model", "datamodule", "dataloaders", "ckpt_path", "weights_only", "verbose"}
        return {
            "fit": {*ours - {"dataloaders", "verbose"}, "train_dataloaders", "val_dataloaders"},
            "validate": ours,
            "test": ours,
            "predict": {*ours - {"verbose"}, "return_predictions"},
        }

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: object
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
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
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed."""
        parser.add_argument(
            "--seed_everything",
            type=int,
            default=0,
            help="The seed of the run. Inputs, target, start and samples get theirs from it.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the problem and the run folder."""
        add_problem_arguments(parser)
        parser.add_class_arguments(RunOptions, "run")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the words given to `main`, whatever the process was started with."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Lets no checkpoint change the settings silently; `Fitting` and `Evaluation` compare."""

    def before_instantiate_classes(self) -> None:
        """Checks what needs no objects, and gives every part its seed."""
        mine = self.config[self.subcommand]
        check_trainer_flags(mine.trainer)
        _set_threads(mine.run.threads)
        self.resolved = self.config.clone()
        fill_seeds(self.resolved[self.subcommand], mine.seed_everything)
        parser = self._parser(self.subcommand)
        made = Fitting if self.subcommand == "fit" else Evaluation
        self.job = made(
            parser=parser,
            config=mine,
            resolved=self.resolved[self.subcommand],
            command=str(self.subcommand),
            started=_STARTED,
        )

    def instantiate_classes(self) -> None:
        """Builds the objects from the resolved settings; a refusal of theirs is the user's.

        Raises:
            RunError: if one of them refuses its arguments.
        """
        try:
            self.config_init = self.parser.instantiate(self.resolved)
            self.datamodule = self._get(self.config_init, "data")
            self.model = self._get(self.config_init, "model")
        except (ValueError, TypeError, MisconfigurationException) as refused:
            raise RunError(str(refused)) from refused
        self.trainer = self.instantiate_trainer()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        return self.job.make_trainer(config, model=self.model, data=self.datamodule)

    def _run_subcommand(self, subcommand: str) -> None:
        self.job.run(self.trainer, model=self.model, data=self.datamodule)


def run_command(args: Sequence[str]) -> int:
    """Runs `fit`, `validate`, `test` or `predict`.

    Args:
        args: the command and its arguments.

    Returns:
        The exit status.
    """
    _quieten()
    try:
        Application(list(args))
    except (ArgumentError, RunError) as mistake:
        return _complain(one_line(str(mistake)), 2)
    except (Diverged, Interrupted) as stop:
        return _complain(str(stop), stop.exit_status)
    except KeyboardInterrupt:
        return _complain("stopped at once; what came after the last checkpoint is lost.", 130)
    except SystemExit as done:  # --help, --print_config
        return int(done.code or 0)
    return 0


def _set_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise RunError(f"run.threads must be at least 1, got {threads}.")
    if threads is not None:
        torch.set_num_threads(threads)


def _complain(text: str, status: int) -> int:
    print(f"bfc: {'error: ' if status == 2 else ''}{text}", file=sys.stderr, flush=True)
    return status


def _quieten() -> None:
    """Leaves out what Lightning says of itself; warnings and errors stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The loaders hold numbers of batches, not data: workers would have nothing to do.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 asks PyTorch's trees a question that PyTorch 2.13 wants put otherwise.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
