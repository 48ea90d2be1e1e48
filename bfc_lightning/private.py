"""Every private attribute of Lightning and jsonargparse that the package uses."""

from typing import Any

from jsonargparse import _typehints
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


def forget_init_args_of_another_class() -> None:
    """Lets a class that replaces another start from its own defaults.

    jsonargparse passes the arguments of the earlier class on if the names are the same.
    """
    _typehints.discard_init_args_on_class_path_change = _discard_all


def _discard_all(parser: object, earlier: Any, value: Any) -> None:  # noqa: ANN401
    if earlier and "init_args" in earlier and earlier["class_path"] != value["class_path"]:
        earlier["init_args"] = type(earlier)()


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
