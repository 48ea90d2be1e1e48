"""`last.ckpt` and `best.ckpt`: the state after a validation, written aside and renamed."""

import copy
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from bfc_lightning.callbacks.exceptions import Diverged, RunError
from bfc_lightning.callbacks.run_files import KeepsState, Summary, environment, stop_if_diverged
from bfc_lightning.files import replacing
from bfc_lightning.replicas import largest_weight
from bfc_lightning.run_module import as_run

RECORD_KEY = "bfc_lightning"
LAST, BEST = "last.ckpt", "best.ckpt"
SECONDS_BETWEEN_WRITES = 1.0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside and renames it, so that a full disk or a kill loses nothing.

    If `storage_options` is a dict, a copy is kept there, by file name, and nothing is written.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes a file; PyTorch's own writer does not report a full disk."""
        path = Path(path)
        if isinstance(storage_options, dict):
            storage_options[path.name] = _copied(checkpoint)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            aside.write_bytes(content.getbuffer())


def _copied(state: Any) -> Any:  # noqa: ANN401, whatever a checkpoint holds
    """A copy of a state, with its tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [*map(_copied, state)] if isinstance(state, list) else copy.deepcopy(state)


def check_readable(checkpoint: Mapping[str, Any]) -> None:
    """Refuses a state that cannot be read without running code, such as NumPy's numbers."""
    others = {f"model.{key}": checkpoint[f"{key}s"] for key in ("lr_scheduler", "optimizer_state")}
    for name, state in {**checkpoint["callbacks"], **others}.items():
        content = io.BytesIO()
        torch.save(state, content)
        content.seek(0)
        if unsafe := get_unsafe_globals_in_checkpoint(content):
            raise RunError(
                f"the state of {name} must be tensors, numbers, text, lists and dicts, so that it "
                f"is read without running code, got {', '.join(unsafe)}."
            )


class Checkpoints(KeepsState, Checkpoint):
    """Keeps the state after the last validation, and after the best one.

    Files are written at most once a second, and at the end of the run, however it ends. A run whose
    score or weights are not finite ends before it replaces a good checkpoint.
    """

    kept = ("best_score",)

    def __init__(
        self, folder: Path, *, monitor: str, identity: Mapping[str, Any], summary: Summary
    ) -> None:
        self.folder = folder
        self.monitor = monitor
        self.identity = dict(identity)
        self.summary = summary
        self.best_score = math.inf
        self.saved_step = -1
        self._held: dict[str, dict[str, Any]] = {}  # states that wait to be written, by file name
        self._written_at = -math.inf

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the state, also as `best.ckpt` if the score is the best so far."""
        score = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(score):
            raise Diverged(trainer.global_step, self.monitor)
        is_best = score < self.best_score
        self.best_score = min(score, self.best_score)
        self.save(trainer)
        if is_best and trainer.is_global_zero:
            self._held[BEST] = self._held[LAST]
        if time.monotonic() >= self._written_at + SECONDS_BETWEEN_WRITES:
            self.summary.write(trainer, "running")
            self._write(trainer)

    def save(self, trainer: Trainer) -> None:
        """Saves the state as it is, in memory; every process must call it."""
        module = as_run(trainer.lightning_module)
        largest = [largest_weight(each) for each in module.each]
        stop_if_diverged(module, largest, step=trainer.global_step, quantity="a weight")
        trainer.save_checkpoint(self.folder / LAST, weights_only=False, storage_options=self._held)
        self.saved_step = trainer.global_step

    def on_train_end(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None
    ) -> None:
        """Writes the last states that were saved."""
        self._write(trainer)

    on_exception = on_train_end

    def _write(self, trainer: Trainer) -> None:
        """Writes the states that wait in memory, after what was logged before them."""
        held, self._held = self._held, {}
        if held:
            for logger in trainer.loggers:
                logger.save()
        for name, state in sorted(held.items()):  # last.ckpt last: a run killed before repeats it
            trainer.strategy.checkpoint_io.save_checkpoint(state, self.folder / name)
        self._written_at = time.monotonic()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds settings and environment of the run; what is saved first must be readable."""
        if self.saved_step < 0:
            check_readable(checkpoint)
        checkpoint[RECORD_KEY] = {
            "identity": self.identity,
            "environment": environment(trainer, pl_module),
        }
