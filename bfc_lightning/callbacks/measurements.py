"""Measures on a fixed sample, at steps that are evenly spaced on a logarithmic axis."""

import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from bfc_lightning.callbacks.training_log import log_metrics
from bfc_lightning.data import HierarchicalData
from bfc_lightning.labels import Classification
from bfc_lightning.measures import level_residuals, level_shares, truncation_errors

NUM_SAMPLES = 2**14
NUM_POINTS = 30


def log_spaced_steps(max_steps: int, num_points: int = NUM_POINTS) -> set[int]:
    """Step 0, the last step, and about `num_points` evenly spaced in log between.

    Args:
        max_steps: the last step.
        num_points: how many, before those that round to the same step are joined.

    Returns:
        The steps.
    """
    exponents = torch.linspace(0, 1, num_points, dtype=torch.float64)
    return {0, *(round(float(max_steps**exponent)) for exponent in exponents)}


class Measurements(Callback):
    """Logs how much of each level is missing, and what a learner without the last level scores.

    A classifier is only right about the sign of its score, so its levels have no residuals.

    Attributes:
        seconds: time spent so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inputs = torch.empty(0)
        self._levels = torch.empty(0)
        self._steps: set[int] = set()
        self._measured_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sample; measures at step 0."""
        started = time.perf_counter()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, HierarchicalData)
        self._steps = log_spaced_steps(trainer.max_steps)
        stream = data.make_sample_stream("cpu", torch.float64)
        inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
        self._levels = data.labels.level_signals(data.target, inputs)
        parameter = next(pl_module.parameters())
        self._inputs = inputs.to(device=parameter.device, dtype=parameter.dtype)
        self.seconds += time.perf_counter() - started
        if trainer.global_step == 0:
            log_metrics(trainer, self._references(data))
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Measures where a step is due."""
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures where the run ends, also where it ends early."""
        self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The time spent."""
        return {"seconds": self.seconds, "measured_step": self._measured_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the time spent.

        Args:
            state_dict: from `state_dict`.
        """
        self.seconds = state_dict["seconds"]
        self._measured_step = state_dict["measured_step"]

    def _references(self, data: HierarchicalData) -> dict[str, float]:
        """What a learner scores that has every level but the last."""
        if isinstance(data.labels, Classification):
            return {"reference/without_last_level": float(truncation_errors(self._levels)[-2])}
        return {"reference/without_last_level": float(level_shares(self._levels[:, 1:])[-1])}

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        is_due = trainer.is_global_zero and trainer.global_step != self._measured_step
        if not is_due or isinstance(data.labels, Classification):
            return
        started = time.perf_counter()
        self._measured_step = trainer.global_step
        prediction: Tensor = pl_module(self._inputs).to(device="cpu", dtype=torch.float64)
        residuals = level_residuals(prediction, self._levels[:, 1:])
        named = {f"levels/residual_{level}": float(r) for level, r in enumerate(residuals, start=1)}
        log_metrics(trainer, named)
        self.seconds += time.perf_counter() - started
