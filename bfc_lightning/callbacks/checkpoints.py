"""`last.ckpt`, `previous.ckpt` and `best.ckpt`: written whole, after every validation."""

import io
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from bfc_lightning.callbacks.environment import environment
from bfc_lightning.callbacks.metrics_file import FileLogger
from bfc_lightning.callbacks.stops import Diverged
from bfc_lightning.callbacks.training_log import stop_if_diverged
from bfc_lightning.files import replacing, sync_to_disk
from bfc_lightning.replicas import largest_weight, learners_of

FORMAT_VERSION = 3
RECORD_KEY = "bfc_lightning"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# Waiting for a disk takes 5 ms, as long as ten short steps.
_SYNC_SECONDS = 5.0


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint, ours or that of a callback of the user, beside its place and renames it.

    Lightning's own takes a detour over the folder for temporary files, where a killed process
    leaves its part, and which may be full.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes a file.

        Args:
            checkpoint: the content.
            path: of the file; one that ends in `.tmp` is renamed by whoever asks for it.
            storage_options: not used.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tmp":
            write_checkpoint(checkpoint, path)
            return
        with replacing(path, sync=False) as beside:
            write_checkpoint(checkpoint, beside)


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Writes a file of which every part has a checksum.

    A file that cannot be written to its end raises `OSError`, which PyTorch's own way to write does
    not.

    Args:
        content: of the checkpoint.
        path: of the file; its folder exists.
    """
    whole = io.BytesIO()
    torch.save(content, whole)
    path.write_bytes(whole.getbuffer())


class Checkpoints(Checkpoint):
    """Saves the state of the run after every validation, and keeps the best one.

    A checkpoint is written beside its place and renamed, so that a run that is killed leaves the
    one before. Every few seconds it is made sure that the disk has it, with the rows of the metrics
    that belong to it; that one stays as `previous.ckpt` when the next replaces it, for the case
    that `last.ckpt` is damaged. A run whose score is not finite is stopped before it can overwrite
    a good one.

    Args:
        folder: where the checkpoints live.
        monitor: the metric of which the smallest value is best.
        record: what else belongs to the run, kept in every checkpoint: plain data only.
    """

    def __init__(self, folder: Path, *, monitor: str, record: dict[str, Any]) -> None:
        self.folder = folder
        self.monitor = monitor
        self.record = record
        self.best_score = math.inf
        self.saved_step = -1
        self._is_on_disk = self._is_best_on_disk = False
        self._synced_at = -math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets the Trainer write files as we do."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks which checkpoint the run goes on from: others may be of later steps than it."""
        self._is_on_disk = self._starts_from(trainer, LAST)
        is_kept = self._is_on_disk or self._starts_from(trainer, PREVIOUS)
        if trainer.is_global_zero and not is_kept:
            (self.folder / PREVIOUS).unlink(missing_ok=True)

    def is_latest(self, trainer: Trainer) -> bool:
        """Whether a run that is starting has no checkpoint later than its start.

        Args:
            trainer: the trainer.
        """
        return trainer.ckpt_path is None or self._starts_from(trainer, LAST)

    def _starts_from(self, trainer: Trainer, name: str) -> bool:
        start = trainer.ckpt_path
        return start is not None and Path(start).resolve() == (self.folder / name).resolve()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the state, also as `best.ckpt` where the score is the best so far.

        Raises:
            Diverged: if the score is not finite.
        """
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(score):
            raise Diverged(trainer.global_step, self.monitor)
        is_best = score < self.best_score
        self.best_score = min(score, self.best_score)
        is_end = trainer.should_stop or trainer.global_step >= trainer.max_steps
        is_due = time.monotonic() - self._synced_at >= _SYNC_SECONDS
        self.save(trainer, is_best=is_best, sync=is_end or is_due)

    def save(self, trainer: Trainer, *, is_best: bool = False, sync: bool = True) -> None:
        """Saves the state as it is now; every process must call it.

        A weight that is not finite ends the run instead: a classifier of NaN has a finite error.

        Args:
            trainer: the trainer.
            is_best: whether `best.ckpt` becomes a copy.
            sync: whether to wait until the disk has it.
        """
        largest = [largest_weight(each) for each in learners_of(trainer.lightning_module)]
        stop_if_diverged(
            trainer.lightning_module, largest, step=trainer.global_step, what="a weight"
        )
        for logger in trainer.loggers:
            logger.save()
        beside = self.folder / f".{LAST}.tmp"  # of one name in all processes
        try:
            trainer.save_checkpoint(beside)
            if trainer.is_global_zero:
                self._put_in_place(trainer, beside, is_best=is_best, sync=sync)
        except BaseException:
            if trainer.is_global_zero:  # who may be putting it in place when another one fails
                beside.unlink(missing_ok=True)
            raise
        self.saved_step = trainer.global_step

    def _put_in_place(self, trainer: Trainer, beside: Path, *, is_best: bool, sync: bool) -> None:
        if sync:
            for logger in trainer.loggers:
                if isinstance(logger, FileLogger) and logger.path.exists():
                    sync_to_disk(logger.path)
            sync_to_disk(beside)
            self._synced_at = time.monotonic()
        if is_best:
            with replacing(self.folder / BEST, sync=sync) as copy:
                shutil.copyfile(beside, copy)
            self._is_best_on_disk = sync
        elif sync and not self._is_best_on_disk and (self.folder / BEST).exists():
            sync_to_disk(self.folder / BEST)
            self._is_best_on_disk = True
        if self._is_on_disk:
            self._keep_last()
        os.replace(beside, self.folder / LAST)
        self._is_on_disk = sync

    def _keep_last(self) -> None:
        """Gives `last.ckpt` a second name, at no moment without the first one."""
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        previous.unlink(missing_ok=True)
        try:
            os.link(last, previous)
        except OSError:  # not every file system has hard links
            with replacing(previous) as copy:
                shutil.copyfile(last, copy)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the record of the run."""
        checkpoint[RECORD_KEY] = {
            "format": FORMAT_VERSION,
            "environment": environment(trainer, pl_module),
            **self.record,
        }

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score.

        Args:
            state_dict: from `state_dict`.
        """
        self.best_score = state_dict["best_score"]
