"""`last.ckpt` and `best.ckpt`: written aside and renamed, after every validation."""

import io
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from bfc_lightning.callbacks.exceptions import Diverged
from bfc_lightning.callbacks.loggers import stop_if_diverged
from bfc_lightning.files import link_or_copy, replacing
from bfc_lightning.matmul import LIBRARY
from bfc_lightning.replicas import largest_weight
from bfc_lightning.run_module import as_run

RECORD_KEY = "bfc_lightning"
LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside and renames it, so that a full disk or a kill loses nothing."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes a file; PyTorch's own writer does not report a full disk."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            aside.write_bytes(content.getbuffer())


class Checkpoints(Checkpoint):
    """Saves the state of the run after every validation, and keeps the best one.

    A run whose score or weights are not finite ends before it replaces a good checkpoint.
    """

    def __init__(self, folder: Path, *, monitor: str, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.monitor = monitor
        self.identity = dict(identity)
        self.best_score = math.inf
        self.saved_step = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the state, also as `best.ckpt` if the score is the best so far."""
        score = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(score):
            raise Diverged(trainer.global_step, self.monitor)
        is_best = score < self.best_score
        self.best_score = min(score, self.best_score)
        self.save(trainer, is_best=is_best)

    def save(self, trainer: Trainer, *, is_best: bool = False) -> None:
        """Saves the state as it is; every process must call it."""
        module = as_run(trainer.lightning_module)
        largest = [largest_weight(each) for each in module.each]
        stop_if_diverged(module, largest, step=trainer.global_step, quantity="a weight")
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.folder / (BEST if is_best else LAST), weights_only=False)
        if is_best and trainer.is_global_zero:  # first, so that a kill between repeats it
            with replacing(self.folder / LAST) as aside:
                link_or_copy(self.folder / BEST, aside)
        self.saved_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds settings and surroundings of the run."""
        checkpoint[RECORD_KEY] = {
            "identity": self.identity,
            "environment": environment(trainer, pl_module),
        }

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score."""
        self.best_score = state_dict["best_score"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    packages = ("bfc_lightning", "torch", "lightning", "jsonargparse")
    return {
        "python": platform.python_version(),
        **{name: str(sys.modules[name].__version__) for name in packages},
    }


def engine_name(module: LightningModule) -> str:
    """How steps are taken: `compiled`, `eager` or `autograd`."""
    engine = as_run(module).engine
    if engine is None:
        return "autograd"
    return "compiled" if engine.steps_per_call else "eager"


def environment(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What repetition bit for bit depends on beside the settings."""
    device = trainer.strategy.root_device.type
    return {
        **versions(),
        "machine": platform.node(),
        "device": device,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "engine": engine_name(module),
        "large_products": LIBRARY if device == "cpu" else "default",
    }
