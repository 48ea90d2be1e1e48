"""Settings that only the built objects can show to be wrong, before anything is written."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import callbacks
from torch.optim import LBFGS

from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.run_module import RunModule
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase

_RESUMES_WRONGLY = callbacks.OnExceptionCheckpoint | callbacks.GradientAccumulationScheduler
_WAITS = callbacks.EarlyStopping | callbacks.ModelCheckpoint


def as_list(value: object) -> list[Any]:
    """One value, several or none, as a new list."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def check_objects(objects: Namespace, model: RunModule, phases: Sequence[Phase]) -> None:
    """Refuses settings that exclude each other, and callbacks that would not work."""
    learner, scheme, measures = model.each[0], objects.scheme, as_list(objects.measures)
    network, count, levels = learner.network, len(model.each), len(objects.data.target.level_scales)
    is_dense = not network.is_distilled and not network.output_shape
    is_pulled = any(phase.pull for phase in phases)
    is_taught = any(phase.taught is not None for phase in phases)
    is_changed = is_pulled or is_taught or any(phase.cut != "none" for phase in phases)
    needs_features = is_pulled or scheme.control is not None
    is_regression = isinstance(learner.objective, RegressionObjective)
    optimizer = learner.make_optimizer(list(learner.parameters()))
    errors = [
        (
            network.is_distilled and not scheme.distills,
            f"scheme must be Distillation with model.distillation, got {type(scheme).__name__}.",
        ),
        (
            scheme.distills and not network.is_distilled,
            "scheme Distillation requires model.distillation, got null.",
        ),
        (
            measures and not is_dense,
            "measures must be empty unless the learner is a DenseNet, got "
            f"{', '.join(type(each).__name__ for each in measures)}.",
        ),
        (
            scheme.check_steps is not None and count > 1,
            "scheme.thresholds requires model.num_replicas 1, since replicas share their phases, "
            f"got {count}. Set scheme.steps instead.",
        ),
        (
            scheme.freeze and isinstance(optimizer, LBFGS),
            "scheme.freeze cannot be used with LBFGS, which updates all layers together, got "
            f"{scheme.freeze}.",
        ),
        (
            is_changed and network.output_shape,
            "scheme.pull and scheme.control need a DenseNet, got model.relu_network.",
        ),
        (
            needs_features and network.is_linearized,
            "scheme.pull and scheme.control need features that move, got model.linearized: true.",
        ),
        (
            scheme.control and not is_regression,
            "scheme.control needs regression, got labels that are classes.",
        ),
        (
            scheme.control and is_taught and levels < 2,
            f"scheme.control needs a target of at least 2 levels, got {levels}.",
        ),
    ]
    for is_wrong, message in errors:
        if is_wrong:
            raise RunError(message)
    metrics = (model.score_key, "val/loss")
    for callback in as_list(objects.trainer.callbacks):
        if isinstance(callback, _RESUMES_WRONGLY):
            name = type(callback).__name__
            raise RunError(f"trainer.callbacks: {name} cannot be used, since it resumes wrongly.")
        if isinstance(callback, _WAITS) and callback.monitor not in (None, *metrics):
            names, monitor = " or ".join(metrics), callback.monitor
            raise RunError(f"trainer.callbacks: monitor must be {names}, got {monitor!r}.")
