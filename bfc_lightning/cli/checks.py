"""Settings that only the built objects can show to be wrong, before anything is written."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import callbacks
from torch.optim import LBFGS

from bfc_lightning.learners import Learner
from bfc_lightning.measures.battery import Measure
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase, Scheme

_RESUMES_WRONGLY = callbacks.OnExceptionCheckpoint | callbacks.GradientAccumulationScheduler


def as_list(value: object) -> list[Any]:
    """One value, several or none, as a new list."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def check_callbacks(users: Sequence[callbacks.Callback], metrics: Sequence[str]) -> None:
    """Refuses callbacks that wait for an unknown metric, or that resume without --resume."""
    for callback in users:
        if isinstance(callback, _RESUMES_WRONGLY):
            name = type(callback).__name__
            raise RunError(f"trainer.callbacks: {name} cannot be used, since it resumes wrongly.")
        if isinstance(callback, callbacks.EarlyStopping | callbacks.ModelCheckpoint):
            names, monitor = " or ".join(metrics), callback.monitor
            if monitor not in (None, *metrics):
                raise RunError(f"trainer.callbacks: monitor must be {names}, got {monitor!r}.")


def check_distillation(network: Learner, scheme: Scheme, measures: Sequence[Measure]) -> None:
    """Refuses a scheme or measures that do not belong to the learner."""
    if network.is_distilled and not scheme.distills:
        name = type(scheme).__name__
        raise RunError(f"scheme must be Distillation with model.distillation, got {name}.")
    if scheme.distills and not network.is_distilled:
        raise RunError("scheme Distillation requires model.distillation, got null.")
    if (network.is_distilled or network.output_shape) and measures:
        names = ", ".join(type(each).__name__ for each in measures)
        raise RunError(f"measures must be empty unless the learner is a DenseNet, got {names}.")


def check_scheme(
    model: HierarchicalLearner, scheme: Scheme, phases: Sequence[Phase], *, num_replicas: int
) -> None:
    """Refuses what learner, optimizer or target cannot have."""
    if scheme.check_steps is not None and num_replicas > 1:
        raise RunError(
            "scheme.thresholds requires model.num_replicas 1, since replicas share their phases, "
            f"got {num_replicas}. Set scheme.steps instead."
        )
    if scheme.freeze and isinstance(model.make_optimizer(list(model.parameters())), LBFGS):
        raise RunError(
            "scheme.freeze cannot be used with LBFGS, which updates all layers together, got "
            f"{scheme.freeze}."
        )
    is_changed = any(p.pull or p.taught is not None or p.cut != "none" for p in phases)
    if model.network.output_shape and is_changed:
        raise RunError("scheme.pull and scheme.control need a DenseNet, got model.relu_network.")
    if any(phase.pull for phase in phases) and model.network.is_linearized:
        raise RunError("scheme.pull needs features that move, got model.linearized: true.")
    if scheme.control is None:
        return
    if not isinstance(model.objective, RegressionObjective):
        raise RunError("scheme.control needs regression, got labels that are classes.")
    if model.network.is_linearized:
        raise RunError("scheme.control needs features that move, got model.linearized: true.")
    levels = len(model.objective.target.level_scales)
    if levels < 2 and any(phase.taught is not None for phase in phases):
        raise RunError(f"scheme.control needs a target of at least 2 levels, got {levels}.")
