"""Which engine a run uses: compiled steps, eager steps, or Lightning's own loop with autograd."""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.model_helpers import is_overridden

from bfc_lightning.callbacks.checkpoints import versions
from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.cli.console import say
from bfc_lightning.engine import Clipping, average_over_processes
from bfc_lightning.formulas import formula_of
from bfc_lightning.replicas import AnyData
from bfc_lightning.run_module import RunModule
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase, Scheme
from bfc_lightning.sync_points import SyncPoints

_EXACT_PRECISIONS = ("32-true", "64-true")
_GRADIENT_HOOKS = (
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)
_STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end")
# Optimizer steps of one call of the compiled step: the most that divide the intervals of the run,
# so that few are left over. More of them would take longer to compile.
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

    `auto` compiles if that saves more time than it takes. A resumed run keeps its engine. The
    learner clips its gradients, and steps come in chunks that end at a log row, a validation, a
    measurement or a new phase. A user's callback that listens to every step gets every step.
    """
    wanted = config.engine if stored is None else stored
    if config.engine not in ("auto", wanted):
        raise RunError(f"engine must stay {stored} in a resumed run, got {config.engine}.")
    reason = _why_autograd(trainer, model, callbacks)
    if reason is not None or wanted == "autograd":
        _check_autograd(wanted, reason, num_learners=len(model.each))
        return
    for learner in model.each:
        learner.enter_phase(phases[0])
    every = [int(trainer.log_every_n_steps)]  # type: ignore[attr-defined]
    every += [trainer.val_check_interval] if isinstance(trainer.val_check_interval, int) else []
    every += [scheme.check_steps] if scheme.check_steps is not None else []
    listens = any(is_overridden(hook, each) for hook in _STEP_HOOKS for each in callbacks)
    if listens and len(model.each) == 1:
        data.parts[0].reads_blocks = True  # single batches, with the samples of chunks
    else:
        starts = {phase.start for phase in phases}
        steps = {*measure_steps(phases, config.num_measures), *starts, *scheme.freeze.values()}
        data.sync_points = SyncPoints([1] if listens else every, [*steps, trainer.max_steps])
    by_value = trainer.gradient_clip_algorithm == GradClipAlgorithmType.VALUE
    clipping = Clipping(trainer.gradient_clip_val, "value" if by_value else "norm")
    trainer.gradient_clip_val = trainer.gradient_clip_algorithm = None
    graphs = scheme.num_graphs(model.each[0].network.depth, len(phases))
    reason = "a callback listens to every step" if listens else _why_eager(trainer, graphs)
    interval = math.gcd(*every)
    length = next(n for n in _STEPS_PER_CALL if interval % n == 0 and n <= data.block_length)
    mark = _mark(model, data, clipping, length)
    saved = _seconds_saved(model, data) * phases[-1].stop / graphs
    cost = _WARM + (0.0 if mark.exists() else _COLD / config.run.alike)
    if reason is None and (wanted == "compiled" or (wanted == "auto" and saved > cost)):
        if not mark.exists():
            say("compiling the training step, which takes some 15 seconds ...")
        reason = _compile(model, data, clipping, length)
        if reason is None:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            data.steps_per_call = length
            return
    if wanted == "compiled":
        raise RunError(f"engine must be eager or autograd here, got compiled: {reason}.")
    has_ddp = isinstance(trainer.strategy, DDPStrategy)
    model.use_engine(clipping, share=average_over_processes if has_ddp else None)


def _check_autograd(wanted: str, reason: str | None, *, num_learners: int) -> None:
    because = "" if reason is None else f": {reason}"
    if num_learners > 1:
        raise RunError(f"model.num_replicas must be 1 with autograd{because}.")
    if wanted not in ("auto", "autograd"):
        raise RunError(f"engine must be autograd here, got {wanted}{because}.")
    if wanted == "auto":
        say(f"autograd engine{because}.")


def _compile(model: RunModule, data: AnyData, clipping: Clipping, length: int) -> str | None:
    """Compiles the step of the first phase; returns why that is impossible."""
    model.use_engine(clipping, steps_per_call=length)
    assert model.engine is not None
    first = model.each[0]
    optimizer = first.make_optimizer([p for p in first.parameters() if p.requires_grad])
    torch.compiler.reset()  # graphs of earlier runs of this process count, too
    try:
        sizes = first.network.input_dim, first.network.output_shape
        model.engine.compile(optimizer, data.batch_size, *sizes)
    except Exception as error:  # whatever the compiler raises
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        say(f"the training step cannot be compiled: {reason}")
        return reason
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


def _why_eager(trainer: Trainer, num_graphs: int) -> str | None:
    """Why steps cannot be compiled, or None."""
    if isinstance(trainer.strategy, DDPStrategy):
        return "several processes share gradients after every step"
    if num_graphs > _MOST_GRAPHS:
        return f"there are more than {_MOST_GRAPHS} phases or stages"
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        return "there is no C++ compiler"
    return None


def _why_autograd(trainer: Trainer, model: RunModule, callbacks: Sequence[Callback]) -> str | None:
    """What the other engines cannot do, or None."""
    if isinstance(trainer.strategy, DDPStrategy):
        if len(model.each) > 1:
            return "several processes share one learner"
        if trainer.strategy._ddp_comm_hook or trainer.strategy._model_averaging_period:
            return "this DDPStrategy shares gradients in its own way"
    if trainer.accumulate_grad_batches != 1:
        return "trainer.accumulate_grad_batches accumulates gradients"
    if trainer.precision not in _EXACT_PRECISIONS:
        return f"trainer.precision {trainer.precision} mixes precisions"
    if trainer._detect_anomaly:
        return "trainer.detect_anomaly needs autograd"
    optimizer = model.each[0].make_optimizer(list(model.parameters()))
    try:
        formula_of(optimizer)
    except ValueError as error:
        return str(error)
    return _why_autograd_for(callbacks)


def _why_autograd_for(callbacks: Sequence[Callback]) -> str | None:
    """What the user's callbacks need that only autograd has, or None."""
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
            return "ModelCheckpoint saves at times"
        hooks = [hook for hook in _GRADIENT_HOOKS if is_overridden(hook, callback)]
        if hooks:
            return f"{type(callback).__name__} uses {hooks[0]}"
    return None
