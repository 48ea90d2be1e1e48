"""Every private attribute of Lightning and jsonargparse that the package uses."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, get_args

from jsonargparse import ArgumentParser, _typehints
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


def forget_init_args_of_another_class() -> None:
    """Keeps jsonargparse from passing arguments of the same name on to another class."""
    _typehints.discard_init_args_on_class_path_change = _discard_all


def _discard_all(parser: object, earlier: Any, value: Any) -> None:  # noqa: ANN401
    if earlier and "init_args" in earlier and earlier["class_path"] != value["class_path"]:
        earlier["init_args"] = type(earlier)()


def keys_without_null(parser: ArgumentParser) -> list[str]:
    """The keys that must have a value; jsonargparse takes null for one of any type."""
    hints = {each.dest: getattr(each, "_typehint", None) for each in parser._actions}
    return [key for key, hint in hints.items() if hint and type(None) not in get_args(hint)]


def add_hyperparameters(
    writer: SummaryWriter, settings: dict[str, Any], metrics: Sequence[str]
) -> None:
    """Fills TensorBoard's HParams tab; its public method would begin another folder."""
    for summary in hparams(settings, dict.fromkeys(metrics, 0.0)):  # type: ignore[no-untyped-call]
        writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def leave_signals_alone(trainer: Trainer) -> None:
    """Keeps Lightning from handling signals, and from a broadcast at every batch for them."""
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False  # saves in the middle of a step


def _nothing() -> None:
    """Replaces a handler."""


def stops_early_next(trainer: Trainer) -> bool:
    """Whether the loop is about to end, which runs a validation first."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def log_interval(trainer: Trainer) -> int:
    """`trainer.log_every_n_steps`, which Lightning sets without declaring it."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def detects_anomalies(trainer: Trainer) -> bool:
    """`trainer.detect_anomaly`."""
    return trainer._detect_anomaly


def shares_gradients_differently(strategy: Strategy) -> bool:
    """Whether processes do not just average their gradients after every step."""
    if not isinstance(strategy, DDPStrategy):
        return False
    return bool(strategy._ddp_comm_hook or strategy._model_averaging_period)


def saves_at_times(callback: ModelCheckpoint) -> bool:
    """Whether `train_time_interval` is set."""
    return callback._train_time_interval is not None


def count_steps(trainer: Trainer, steps: int) -> None:
    """Counts optimizer steps taken within one training step, as steps and as batches.

    `global_step` and intervals therefore have the same meaning with every engine. Lightning's loop
    counts one batch by itself.
    """
    loop = trainer.fit_loop.epoch_loop
    taken = [
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ]
    for progress in taken:
        for counter in (progress.total, progress.current):
            counter.ready += steps
            counter.completed += steps
    for counter in (loop.batch_progress.total, loop.batch_progress.current):
        for stage in ("ready", "started", "processed", "completed"):
            setattr(counter, stage, getattr(counter, stage) + steps - 1)
    loop._batches_that_stepped += steps - 1


def count_stored_steps(checkpoint: dict[str, Any]) -> None:
    """Copies the step count of a checkpoint to the counter that manual optimization reads.

    Callbacks read `global_step` before Lightning restores the counters.
    """
    if "loops" in checkpoint:
        counters = checkpoint["loops"]["fit_loop"]
        taken = counters["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        counters["epoch_loop.manual_optimization.optim_step_progress"]["total"] = dict(
            taken["total"]
        )


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, whose children run the same bfc command.

    Lightning's own runs `sys.argv`, which is another program if `main` is called from Python.
    """

    argv: Sequence[str] = ()

    def _call_children_scripts(self) -> None:
        """Starts the other processes; their variables do not stay in this one."""
        environment = {
            **os.environ,
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
        }
        command = [sys.executable, "-m", "bfc_lightning", *self.argv]
        self.procs = [
            subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)})
            for rank in range(1, self.num_processes)
        ]


def use_launcher(trainer: Trainer, argv: Sequence[str]) -> None:
    """Replaces Lightning's launcher, if there is one, by ours."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = Launcher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )
        trainer.strategy._launcher.argv = argv
