"""Which engine a run uses: compiled steps, eager steps, or Lightning's own loop with autograd."""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.model_helpers import is_overridden

from bfc_lightning import private
from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.callbacks.run_files import versions
from bfc_lightning.cli.console import say
from bfc_lightning.engine import Clipping, average_over_processes
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
# Steps of a compiled call: the most that divide all intervals. More would compile longer.
_STEPS_PER_CALL = (8, 5, 4, 2, 1)
_MOST_GRAPHS = 8  # PyTorch compiles a function at most so often
# Seconds, measured on two Zen 5 cores for two and three layers.
_COLD, _WARM = 16.0, 3.0
_SAVED_PER_LAYER, _SAVED_PER_FEATURE = 6e-5, 2e-9


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
    every = [private.log_interval(trainer)]
    every += [trainer.val_check_interval] if isinstance(trainer.val_check_interval, int) else []
    every += [scheme.check_steps] if scheme.check_steps is not None else []
    listens = any(is_overridden(hook, each) for hook in _STEP_HOOKS for each in callbacks)
    by_value = trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
    clipping = Clipping(trainer.gradient_clip_val, "value" if by_value else "norm")
    lacks = _why_autograd(trainer, model, callbacks, phases[0].length)
    graphs = scheme.num_graphs(model.each[0].network.depth, len(phases))
    interval = math.gcd(*every)
    length = next(n for n in _STEPS_PER_CALL if interval % n == 0 and n <= data.block_length)
    step = model, data, clipping, length
    saved = _seconds_saved(model, data) * phases[-1].stop / graphs
    cost = _WARM + (0.0 if _mark(*step).exists() else _COLD / config.run.alike)
    wanted = config.engine if stored is None else stored
    is_worth_it = wanted == "compiled" or (wanted == "auto" and saved > cost)
    costly = None if is_worth_it else "compiling takes more time than it saves"
    why_not = {
        "compiled": lacks or _why_eager(trainer, graphs, listens) or costly or _compile(*step),
        "eager": lacks,
        "autograd": "it trains one learner" if len(model.each) > 1 else None,
    }
    engine = _choose(config.engine, stored, why_not)
    if engine == "autograd":
        return
    trainer.gradient_clip_val = trainer.gradient_clip_algorithm = None
    if listens and len(model.each) == 1:
        data.parts[0].reads_blocks = True  # single batches, with the samples of chunks
    else:
        starts = {phase.start for phase in phases}
        steps = {*measure_steps(phases, config.num_measures), *starts, *scheme.freeze.values()}
        data.sync_points = SyncPoints([1] if listens else every, [*steps, trainer.max_steps])
    if engine == "compiled":
        data.steps_per_call = length
    else:
        has_ddp = isinstance(trainer.strategy, DDPStrategy)
        model.use_engine(clipping, share=average_over_processes if has_ddp else None)


def _choose(asked: str, stored: str | None, why_not: Mapping[str, str | None]) -> str:
    """The first possible engine for `auto`; a resumed run keeps its own unless it is impossible."""
    possible = [name for name, reason in why_not.items() if reason is None]
    because = "" if why_not["eager"] is None else f": {why_not['eager']}"
    if stored in possible and asked not in ("auto", stored):
        raise RunError(f"engine must stay {stored} in a resumed run, got {asked}.")
    wanted = stored if stored is not None and asked == "auto" else asked
    if wanted not in possible and (wanted == "autograd" or not possible):
        raise RunError(f"model.num_replicas must be 1 with autograd{because}.")
    if wanted == "auto":
        if possible == ["autograd"]:
            say(f"autograd engine{because}.")
        return possible[0]
    if wanted in possible:
        return wanted
    advice = f"; for results equal to rounding, add --engine {possible[0]}" if stored else ""
    allowed, reason = " or ".join(possible), why_not[wanted]
    raise RunError(f"engine must be {allowed} here, got {wanted}: {reason}{advice}.")


def _compile(model: RunModule, data: AnyData, clipping: Clipping, length: int) -> str | None:
    """Compiles the step of the first phase; returns why that is impossible."""
    mark = _mark(model, data, clipping, length)
    if not mark.exists():
        say("compiling the training step, which takes some 15 seconds ...")
    model.use_engine(clipping, steps_per_call=length)
    assert model.engine is not None
    first = model.each[0]
    optimizer = first.make_optimizer([p for p in first.parameters() if p.requires_grad])
    torch.compiler.reset()  # graphs of earlier runs of this process count, too
    try:
        model.engine.compile(optimizer, data.batch_size)
    except Exception as error:  # whatever the compiler raises
        model.engine, model.automatic_optimization = None, True
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        say(f"the training step cannot be compiled: {reason}")
        return reason
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return None


def _mark(model: RunModule, data: AnyData, clipping: Clipping, length: int) -> Path:
    """A file beside PyTorch's cache that exists if the cache holds this step."""
    learner = model.each[0]
    shapes = [(name, p.shape, p.dtype, p.requires_grad) for name, p in learner.named_parameters()]
    parts = (
        *(versions(), torch.get_num_threads(), len(model.each), data.batch_size, length, clipping),
        *(learner.network, learner.objective.score_name, learner.network.regularization, shapes),
        learner.make_optimizer([torch.nn.Parameter(torch.zeros(1))]),
    )
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
    beside = Path(tempfile.gettempdir()) / f"bfc_lightning_{os.getuid()}"
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", beside)) / digest


def _seconds_saved(model: RunModule, data: AnyData) -> float:
    """Time that a compiled step saves, from times measured for two and three layers."""
    network = model.each[0].network
    features = data.batch_size * sum(len(each) for each in network.neuron_weights().values())
    replicas = min(len(model.each), 4)  # more save no more: the products take the time
    return replicas * network.depth * _SAVED_PER_LAYER + features * _SAVED_PER_FEATURE


def _why_eager(trainer: Trainer, num_graphs: int, listens: bool) -> str | None:
    """Why steps cannot be compiled, or None."""
    if listens:
        return "a callback listens to every step"
    if isinstance(trainer.strategy, DDPStrategy):
        return "several processes share gradients after every step"
    if num_graphs > _MOST_GRAPHS:
        return f"there are more than {_MOST_GRAPHS} phases or stages"
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        return "there is no C++ compiler"
    return None


def _why_autograd(
    trainer: Trainer, model: RunModule, callbacks: Sequence[Callback], num_steps: int
) -> str | None:
    """What the other engines cannot do, or None."""
    if private.shares_gradients_differently(trainer.strategy):
        return "this DDPStrategy shares gradients in its own way"
    if trainer.accumulate_grad_batches != 1:
        return "trainer.accumulate_grad_batches accumulates gradients"
    if "mixed" in trainer.precision:
        return f"trainer.precision {trainer.precision} mixes precisions"
    if private.detects_anomalies(trainer):
        return "trainer.detect_anomaly needs autograd"
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and private.saves_at_times(callback):
            return "ModelCheckpoint saves at times"
        if hooks := [hook for hook in _GRADIENT_HOOKS if is_overridden(hook, callback)]:
            return f"{type(callback).__name__} uses {hooks[0]}"
    return model.each[0].why_autograd(num_steps)
