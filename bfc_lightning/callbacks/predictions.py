"""`predictions.npz`: inputs, noise-free targets and predictions, for numpy."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT

from bfc_lightning.files import replacing


class PredictionsFile(Callback):
    """Collects what `predict` computes and writes it at the end.

    Args:
        path: of the `.npz` file; arrays `inputs` (n, d), `targets` (n,), `predictions` (n,).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: list[dict[str, torch.Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch."""
        assert isinstance(outputs, Mapping)
        self._parts.append({name: value.cpu() for name, value in outputs.items()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, beside its place and renamed."""
        columns = {
            name: torch.cat([part[name] for part in self._parts]).numpy() for name in self._parts[0]
        }
        with replacing(self.path) as beside, beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)
