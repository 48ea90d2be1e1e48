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


def count_steps(trainer: Trainer, steps: int) -> None:
    """Updates Lightning's counters for optimizer steps taken within one training step.

    `global_step` counts optimizer steps with every engine, and the batches of the loop are
    optimizer steps. Intervals therefore have the same meaning with every engine.

    Args:
        trainer: the Trainer, within `training_step`. Its loop counts one batch by itself.
        steps: number of steps taken.
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

    Automatic optimization uses one counter, `count_steps` updates both. Lightning restores the
    counters only later, but callbacks read `global_step` before the first batch.
    """
    if "loops" in checkpoint:
        counters = checkpoint["loops"]["fit_loop"]
        taken = counters["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        counters["epoch_loop.manual_optimization.optim_step_progress"]["total"] = dict(
            taken["total"]
        )
