"""Which training path a run takes: chunks of steps with gradients by hand, or Lightning's own."""

from collections.abc import Sequence
from typing import Literal

from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.model_helpers import is_overridden

from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.cli.console import say
from bfc_lightning.data import HierarchicalData
from bfc_lightning.fast_path import Clipping, average_over_processes
from bfc_lightning.replicas import AnyData, AnyLearner, ReplicatedLearner, learners_of
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase, Scheme
from bfc_lightning.sync_points import make_sync_points

TrainingPath = Literal["auto", "fast", "plain"]

_EXACT_PRECISIONS = ("32-true", "64-true")
_GRADIENT_HOOKS = (
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)
_STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end")


def settle_training_path(
    wanted: TrainingPath,
    trainer: Trainer,
    *,
    model: AnyLearner,
    data: AnyData,
    callbacks: Sequence[Callback],
    phases: Sequence[Phase],
    scheme: Scheme,
    num_measures: int,
) -> None:
    """Makes learner, data and Trainer use the path that is wanted and possible.

    On the fast path the learner clips its gradients, and steps come in chunks that end at a log
    row, a validation, a measurement or a new phase. A user's callback that listens to every step
    gets every step.
    """
    many = isinstance(model, ReplicatedLearner)
    if wanted == "plain":
        if many:
            raise RunError("training_path must be auto or fast with model.num_replicas, got plain.")
        return
    reason = _why_plain(trainer, model, callbacks)
    if any(phase.is_intervened for phase in phases):
        reason = "scheme.control changes labels or gradients, which needs autograd"
    if reason is not None:
        if many:
            raise RunError(f"model.num_replicas must be 1 here: {reason}.")
        if wanted == "fast":
            raise RunError(f"training_path must be auto or plain here, got fast: {reason}.")
        if trainer.is_global_zero:
            say(f"plain training path: {reason}.")
        return
    _take_over_gradients(trainer, model, data.batch_size)
    every = _intervals(trainer)
    if any(is_overridden(hook, each) for hook in _STEP_HOOKS for each in callbacks):
        if isinstance(data, HierarchicalData):
            data.reads_blocks = True  # batches as on the plain path, samples as in chunks
            return
        every = [1]
    starts = {phase.start for phase in phases}
    steps = {*measure_steps(phases, num_measures), *starts, *scheme.freeze.values()}
    data.sync_points = make_sync_points(every, [*steps, trainer.max_steps])


def _intervals(trainer: Trainer) -> list[int]:
    """Intervals at which a chunk must end."""
    every = [int(trainer.log_every_n_steps)]  # type: ignore[attr-defined]
    interval = trainer.val_check_interval
    return [*every, interval] if isinstance(interval, int) else every


def _take_over_gradients(trainer: Trainer, model: AnyLearner, batch_size: int) -> None:
    """Lets the learner clip its gradients and average them over processes."""
    by_value = trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
    clipping = Clipping(trainer.gradient_clip_val, "value" if by_value else "norm")
    trainer.gradient_clip_val = trainer.gradient_clip_algorithm = None
    if isinstance(model, ReplicatedLearner):
        model.use_fast_path(clipping, batch_size)
    elif isinstance(trainer.strategy, DDPStrategy):
        model.use_fast_path(clipping, average_over_processes)
    else:
        model.use_fast_path(clipping)


def _why_plain(trainer: Trainer, model: AnyLearner, callbacks: Sequence[Callback]) -> str | None:
    """What the fast path cannot do, or None."""
    if isinstance(trainer.strategy, DDPStrategy):
        if isinstance(model, ReplicatedLearner):
            return "several processes share one learner"
        if _has_own_sharing(trainer.strategy):
            return "this DDPStrategy shares gradients in its own way"
    if trainer.accumulate_grad_batches != 1:
        return "trainer.accumulate_grad_batches accumulates gradients"
    if trainer.precision not in _EXACT_PRECISIONS:
        return f"trainer.precision {trainer.precision} mixes precisions"
    if trainer._detect_anomaly:
        return "trainer.detect_anomaly needs autograd"
    return _why_plain_for(callbacks) or learners_of(model)[0].why_not_fast()


def _has_own_sharing(strategy: DDPStrategy) -> bool:
    return strategy._ddp_comm_hook is not None or strategy._model_averaging_period is not None


def _why_plain_for(callbacks: Sequence[Callback]) -> str | None:
    """What the user's callbacks need that only the plain path has, or None."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
            return "ModelCheckpoint saves at times"
        hooks = [hook for hook in _GRADIENT_HOOKS if is_overridden(hook, callback)]
        if hooks:
            return f"{type(callback).__name__} uses {hooks[0]}"
    return None
