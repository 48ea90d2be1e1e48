"""The Trainer's flags: our defaults, and those that mean nothing here."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.optim import LBFGS

from bfc_lightning.cli.peers import Peers
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase, Scheme

T = TypeVar("T")
Interval = int | float | str | timedelta | dict[str, int]

# The target itself would be computed in half precision, and the score taken against that.
_LOW_PRECISIONS = ("16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")
# On a CPU Lightning would take bf16-mixed for them.
_HALVES = ("16", "16-mixed")

_STRATEGIES = (
    *("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"),
    *("lightning.pytorch.strategies.DDPStrategy", "pytorch_lightning.strategies.DDPStrategy"),
    "lightning.pytorch.strategies.SingleDeviceStrategy",
)

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 4000,
    "max_epochs": -1,  # the stream has no epochs
    "val_check_interval": 0.05,
    "num_sanity_val_steps": 0,
    # So low that nearly every gradient is scaled to this norm: high powers of Gaussians make single
    # batches wild, and Adam would remember them. logs/README.md has the comparison.
    "gradient_clip_val": 0.02,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the shards are shared out by the data module
}


def check_trainer_flags(flags: Namespace) -> None:
    """Refuses flags that mean nothing for a stream without epochs.

    Args:
        flags: the group `trainer`.

    Raises:
        RunError: if such a flag is set, or the length of the run is missing.
    """
    for name in ("max_steps", "accumulate_grad_batches", "log_every_n_steps"):
        value = flags[name]
        if value is not None and value < 1:
            raise RunError(f"trainer.{name} must be at least 1, got {value}.")
    if str(flags.devices) == "0":
        raise RunError(f"trainer.devices must be at least 1, got {flags.devices}.")
    if str(flags.precision) in _LOW_PRECISIONS:
        raise RunError(
            f"trainer.precision must leave the samples exact, got {flags.precision}: take "
            "bf16-mixed, 32-true or 64-true."
        )
    if str(flags.precision) in _HALVES and _is_on_cpu(flags.accelerator):
        raise RunError(
            f"trainer.precision must be one that a CPU has, got {flags.precision}: take "
            "bf16-mixed, 32-true or 64-true."
        )
    meaningless = {
        "max_epochs": (None, -1),
        "min_epochs": (None,),
        "check_val_every_n_epoch": (None, 1),
        "overfit_batches": (0, 0.0),
        "reload_dataloaders_every_n_epochs": (0,),
        "limit_train_batches": (None, 1.0),
        "limit_val_batches": (None, 1.0),
    }
    for name, allowed in meaningless.items():
        if flags[name] not in allowed:
            raise RunError(
                f"trainer.{name} must be left out, got {flags[name]}: the stream has no epochs; "
                "trainer.max_steps is the length of a run, data.num_train_samples and "
                "data.num_val_samples are the sizes of its sets."
            )
    interval = flags.val_check_interval
    if isinstance(interval, int | float) and interval <= 0:
        raise RunError(f"trainer.val_check_interval must be positive, got {interval}.")
    accumulate = flags.accumulate_grad_batches
    if isinstance(interval, int) and interval % accumulate:
        raise RunError(
            "trainer.val_check_interval counts batches and must be a multiple of "
            f"trainer.accumulate_grad_batches = {accumulate}, got {interval}: a checkpoint belongs "
            "between two optimizer steps."
        )


def _is_on_cpu(accelerator: object) -> bool:
    """Whether the Trainer will take the CPU, as far as the flag tells."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def check_strategy(strategy: object) -> None:
    """Refuses strategies that share out more than samples.

    Args:
        strategy: as the user gave it, a name or a class with its arguments.

    Raises:
        RunError: if it is none of those that train one whole learner in each process.
    """
    name = strategy.get("class_path") if isinstance(strategy, Namespace) else strategy
    if name not in _STRATEGIES:
        raise RunError(
            f"trainer.strategy must be auto or ddp, got {name}: every process needs the whole "
            "learner, and its share of the samples."
        )


def share_out(flags: dict[str, Any], peers: Peers) -> None:
    """Makes the Trainer's flags agree with the processes that torchrun or srun have started.

    Args:
        flags: the group `trainer`, instantiated; changed in place where they were left open.
        peers: the processes.

    Raises:
        RunError: if they do not agree.
    """
    if peers.size == 1:
        if flags["num_nodes"] != 1:
            raise RunError(
                f"trainer.num_nodes must be 1 without torchrun or srun, got {flags['num_nodes']}."
            )
        return
    started = {"devices": peers.size // peers.num_nodes, "num_nodes": peers.num_nodes}
    left_open = {"devices": ("auto", "-1"), "num_nodes": ("1",)}
    for name, number in started.items():
        if str(flags[name]) not in (*left_open[name], str(number)):
            raise RunError(
                f"trainer.{name} must be {number}, as {peers.launcher} has started the processes, "
                f"got {flags[name]}."
            )
    flags.update(started)
    if flags["strategy"] == "auto":
        flags["strategy"] = "ddp"


def validation_interval(
    interval: Interval | None, *, max_steps: int, accumulate: int
) -> Interval | None:
    """Batches between validations: a fraction means a fraction of the run.

    Args:
        interval: as the user gave it: batches, a fraction, or a time.
        max_steps: optimizer steps of the run.
        accumulate: batches of an optimizer step.

    Returns:
        Batches, or the time unchanged.
    """
    if isinstance(interval, float):
        return max(1, round(interval * max_steps)) * accumulate
    return interval


def check_interval(interval: Interval | None, world_size: int) -> None:
    """Refuses validations by the clock where several processes would each go by its own.

    Args:
        interval: as the Trainer takes it.
        world_size: processes of the run.

    Raises:
        RunError: if it is a time.
    """
    if world_size > 1 and not isinstance(interval, int | None):
        raise RunError(
            "trainer.val_check_interval must be batches or a fraction of the run where it has "
            f"several processes, got {interval}."
        )


def as_list(value: T | list[T] | None) -> list[T]:
    """One value, several or none, as a list.

    Args:
        value: as the Trainer takes callbacks and loggers.

    Returns:
        A new list.
    """
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def check_monitors(callbacks: Sequence[Callback], known: Sequence[str]) -> None:
    """Refuses Lightning's callbacks that wait for a metric that never comes.

    Args:
        callbacks: the user's.
        known: metrics that validation gives.

    Raises:
        RunError: if one monitors another metric.
    """
    for callback in callbacks:
        if not isinstance(callback, EarlyStopping | ModelCheckpoint):
            continue
        if callback.monitor not in (None, *known):
            raise RunError(
                f"trainer.callbacks: monitor must be {' or '.join(known)}, "
                f"got {callback.monitor!r}."
            )


def check_control(model: HierarchicalLearner, scheme: Scheme, phases: Sequence[Phase]) -> None:
    """Refuses a control of the scheme that would mean nothing.

    Args:
        model: the learner.
        scheme: of the training.
        phases: of the scheme.

    Raises:
        RunError: if the learner is a classifier or linearized, or levels are to be cut off of a
            target that has only one.
    """
    if scheme.control is None:
        return
    if not isinstance(model.objective, RegressionObjective):
        raise RunError("scheme.control needs regression, got labels that are classes.")
    if model.network.is_linearized:
        raise RunError("scheme.control needs features that move, got model.linearized: true.")
    levels = len(model.objective.target.level_scales)
    if levels < 2 and any(phase.taught is not None for phase in phases):
        raise RunError(f"scheme.control needs a target of at least 2 levels, got {levels}.")


def check_optimizer(model: HierarchicalLearner, scheme: Scheme, phase: Phase) -> None:
    """Lets optimizer and schedule refuse their arguments.

    Args:
        model: the learner.
        scheme: of the training.
        phase: the first one of it.

    Raises:
        RunError: if one of them does, or the optimizer can't leave frozen layers alone.
    """
    try:
        built = model.build_optimizer(phase.length)
    except (ValueError, TypeError) as refused:
        raise RunError(f"model.optimizer and model.lr_scheduler: {refused}") from refused
    optimizer = built["optimizer"] if isinstance(built, dict) else built
    if scheme.freeze and isinstance(optimizer, LBFGS):
        raise RunError(
            "scheme.freeze must be left out with LBFGS, whose memory moves all layers together, "
            f"got {scheme.freeze}."
        )
