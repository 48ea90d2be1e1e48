"""What the objects of a run allow: whether its settings fit together, and which engine trains it.

The engines are compiled steps, eager steps, and Lightning's own loop with autograd.
"""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import LBFGS

from bfc_lightning import private
from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.cli.console import say
from bfc_lightning.engine import Clipping, average_over_processes
from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.replicas import AnyData
from bfc_lightning.run_module import RunModule
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase, Scheme
from bfc_lightning.sync_points import SyncPoints

_GRADIENT_HOOKS = (
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)
_STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end")
# Seconds, for two and three layers on two Zen 5 cores. A Xeon takes about twice as long.
_COMPILING, _LOADING = 9.0, 0.1
_SAVED_PER_LAYER, _SAVED_PER_FEATURE = 6e-5, 2e-9
_SAVED_PER_TRANSFORMED_LAYER = 5e-4  # of replicas, or gradients by `torch.func`; on a Xeon


def as_list(value: object) -> list[Any]:
    """One value, several or none, as a new list."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def check_distillation(is_distilled: bool, scheme: Scheme) -> None:
    """Refuses a scheme that does not belong to the learner, before it is asked for its phases."""
    name = type(scheme).__name__
    if is_distilled and not scheme.distills:
        raise RunError(f"scheme must be Distillation with model.distillation, got {name}.")
    if scheme.distills and not is_distilled:
        raise RunError("scheme Distillation requires model.distillation, got null.")


def check_objects(objects: Namespace, model: RunModule, phases: Sequence[Phase]) -> None:
    """Refuses settings that exclude each other, and callbacks that would not work."""
    learner, scheme, measures = model.each[0], objects.scheme, as_list(objects.measures)
    network, count, levels = learner.network, len(model.each), len(objects.data.target.level_scales)
    pulls = any(phase.pull for phase in phases)
    teaches = any(phase.taught is not None for phase in phases)
    changes = pulls or teaches or any(phase.cut != "none" for phase in phases)
    error = _first([
        (
            measures and (network.is_distilled or network.output_shape),
            "measures must be empty unless the learner is a DenseNet, got "
            f"{', '.join(type(each).__name__ for each in measures)}.",
        ),
        (
            scheme.check_steps is not None and count > 1,
            "scheme.thresholds requires model.num_replicas 1, since replicas share their phases, "
            f"got {count}. Set scheme.steps instead.",
        ),
        (
            scheme.freeze and isinstance(learner.make_optimizer([*learner.parameters()]), LBFGS),
            "scheme.freeze cannot be used with LBFGS, which updates all layers together, got "
            f"{scheme.freeze}.",
        ),
        (
            changes and network.output_shape,
            "scheme.pull and scheme.control need a DenseNet, got model.relu_network.",
        ),
        (
            (pulls or scheme.control) and network.is_linearized,
            "scheme.pull and scheme.control need features that move, got model.linearized: true.",
        ),
        (
            scheme.control and not isinstance(learner.objective, RegressionObjective),
            "scheme.control needs regression, got labels that are classes.",
        ),
        (
            scheme.control and teaches and levels < 2,
            f"scheme.control needs a target of at least 2 levels, got {levels}.",
        ),
    ])
    if error:
        raise RunError(error)
    metrics = (model.score_key, "val/loss")
    for callback in as_list(objects.trainer.callbacks):
        name, monitor = type(callback).__name__, getattr(callback, "monitor", None)
        if isinstance(callback, OnExceptionCheckpoint | GradientAccumulationScheduler):
            raise RunError(f"trainer.callbacks: {name} cannot be used, since it resumes wrongly.")
        waits = isinstance(callback, EarlyStopping | ModelCheckpoint)
        if waits and monitor not in (None, *metrics):
            names = " or ".join(metrics)
            raise RunError(f"trainer.callbacks: monitor must be {names}, got {monitor!r}.")


def resolve_engine(
    config: Namespace,
    stored: str | None,
    trainer: Trainer,
    *,
    model: RunModule,
    data: AnyData,
    callbacks: Sequence[Callback],
    phases: Sequence[Phase],
    scheme: Scheme,
) -> None:
    """Makes learner, data and Trainer use an engine.

    The learner clips its gradients, and steps come in chunks that end at a log row, a validation, a
    measurement or a new phase. A user's callback that listens to every step gets every step.
    """
    for learner in model.each:
        learner.enter_phase(phases[0])
    intervals = private.log_interval(trainer), trainer.val_check_interval, scheme.check_steps
    every = [int(interval) for interval in intervals if interval is not None]
    listens = any(is_overridden(hook, each) for hook in _STEP_HOOKS for each in callbacks)
    clipping = Clipping(config.trainer.gradient_clip_val, config.trainer.gradient_clip_algorithm)
    lacks = _why_autograd(trainer, model, callbacks, phases[0].length)
    if len(model.each) > 1 and (lacks or config.engine == "autograd"):
        because = f": {lacks}" if lacks else ""
        raise RunError(f"model.num_replicas must be 1 with autograd{because}.")
    why_not = {"compiled": lacks or _why_eager(trainer, listens), "eager": lacks}
    why_not["autograd"] = "it trains one learner" if len(model.each) > 1 else None
    if why_not["compiled"] is None:
        graphs = scheme.num_graphs(model.each[0].network.depth, len(phases))
        saved = {"compiled": math.inf, "auto": _seconds_saved(model, data) * phases[-1].stop}
        saves = saved.get(stored or config.engine, 0.0) / graphs
        why_not["compiled"] = _compile(
            trainer, model, data, clipping=clipping, saves=saves, alike=config.run.alike
        )
    engine = _choose(config.engine, stored, why_not)
    if engine == "autograd":
        return
    trainer.gradient_clip_val = trainer.gradient_clip_algorithm = None
    if listens and len(model.each) == 1:
        data.parts[0].reads_blocks = True  # single batches, with the samples of chunks
    else:
        steps = measure_steps(phases, config.num_measures) | {phase.start for phase in phases}
        single = {*steps, *scheme.freeze.values(), trainer.max_steps}
        data.sync_points = SyncPoints([1] if listens else every, single)
    if engine == "eager":
        has_ddp = isinstance(trainer.strategy, DDPStrategy)
        model.use_engine(clipping, share=average_over_processes if has_ddp else None)


def _choose(asked: str, stored: str | None, why_not: Mapping[str, str | None]) -> str:
    """The first possible engine for `auto`; a resumed run keeps its own unless it is impossible."""
    possible = [name for name, reason in why_not.items() if reason is None]
    if stored in possible and asked not in ("auto", stored):
        raise RunError(f"engine must stay {stored} in a resumed run, got {asked}.")
    wanted = stored if stored and asked == "auto" else asked
    if wanted == "auto":
        if possible == ["autograd"]:
            say(f"autograd engine: {why_not['eager']}.")
        return possible[0]
    if wanted not in possible:
        advice = f"; for results equal to rounding, add --engine {possible[0]}" if stored else ""
        allowed, reason = " or ".join(possible), why_not[wanted]
        raise RunError(f"engine must be {allowed} here, got {wanted}: {reason}{advice}.")
    return wanted


def _compile(
    trainer: Trainer,
    model: RunModule,
    data: AnyData,
    *,
    clipping: Clipping,
    saves: float,
    alike: int,
) -> str | None:
    """Compiles the step of the first phase if that saves time; returns why not."""
    slow = "compiling takes more time than it saves"
    if saves < _LOADING:
        return slow
    first, reason = model.each[0], None
    optimizer = first.make_optimizer([p for p in first.parameters() if p.requires_grad])
    model.use_engine(clipping, compiles=True)
    assert model.engine is not None
    model.to(trainer.strategy.root_device)  # for which it is compiled
    try:
        step = model.engine.trace(optimizer, data.batch_size)
        if step.is_cached or saves >= _LOADING + _COMPILING / alike:
            if not step.is_cached:
                say("compiling the training step, which takes 10 to 30 seconds ...")
            step.load()
            return None
        reason = slow
    except Exception as error:  # whatever the compiler raises
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        say(f"the training step cannot be compiled: {reason}")
    model.engine, model.automatic_optimization = None, True
    return reason


def _seconds_saved(model: RunModule, data: AnyData) -> float:
    """Time that a compiled step saves, from times measured for two and three layers."""
    network, replicas = model.each[0].network, len(model.each)
    is_transformed = replicas > 1 or network.uses_autodiff
    per_layer = _SAVED_PER_TRANSFORMED_LAYER if is_transformed else _SAVED_PER_LAYER
    features = data.batch_size * sum(len(each) for each in network.neuron_weights().values())
    return network.depth * per_layer + replicas * features * _SAVED_PER_FEATURE


def _why_eager(trainer: Trainer, listens: bool) -> str | None:
    """Why steps cannot be compiled, or None."""
    has_ddp = isinstance(trainer.strategy, DDPStrategy)
    device = trainer.strategy.root_device.type
    has_compiler = any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++")))
    return _first([
        (listens, "a callback listens to every step"),
        (device not in ("cpu", "cuda"), f"the device is {device}"),
        (has_ddp, "several processes share gradients after every step"),
        (not has_compiler, "there is no C++ compiler"),
    ])


def _why_autograd(
    trainer: Trainer, model: RunModule, callbacks: Sequence[Callback], num_steps: int
) -> str | None:
    """What the other engines cannot do, or None."""
    shares = private.shares_gradients_differently(trainer.strategy)
    accumulates, precision = trainer.accumulate_grad_batches != 1, trainer.precision
    savers = [each for each in callbacks if isinstance(each, ModelCheckpoint)]
    hooked = [
        (is_overridden(hook, each), f"{type(each).__name__} uses {hook}")
        for each in callbacks
        for hook in _GRADIENT_HOOKS
    ]
    reason = _first([
        (shares, "this DDPStrategy shares gradients in its own way"),
        (accumulates, "trainer.accumulate_grad_batches accumulates gradients"),
        ("mixed" in precision, f"trainer.precision {precision} mixes precisions"),
        (private.detects_anomalies(trainer), "trainer.detect_anomaly needs autograd"),
        (any(map(private.saves_at_times, savers)), "ModelCheckpoint saves at times"),
        *hooked,
    ])
    return reason or model.each[0].why_autograd(num_steps)


def _first(reasons: Sequence[tuple[object, str]]) -> str | None:
    return next((reason for applies, reason in reasons if applies), None)
