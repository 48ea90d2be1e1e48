"""Measures on a fixed sample, at steps that are evenly spaced on a logarithmic axis."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from bfc_lightning.callbacks.metrics_file import MetricsFile
from bfc_lightning.callbacks.milestones import Milestones
from bfc_lightning.callbacks.training_log import log_metrics
from bfc_lightning.data import HierarchicalData
from bfc_lightning.measures.battery import (
    MEASURES,
    Measure,
    MeasureSample,
    Moment,
    look,
    reference_levels,
    take_sample,
)
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.networks import DenseNet
from bfc_lightning.schemes import Phase

NUM_SAMPLES = 2**14
NUM_POINTS = 30
_POINTS_OF_PHASE = 9


def measure_steps(phases: Sequence[Phase], num_points: int = NUM_POINTS) -> set[int]:
    """Both ends of every phase, and steps evenly spaced in log from its start between.

    Where there are several phases, each has half its steps in log and half evenly spaced: a layer
    that has just joined changes fast, and what it does to the lower ones takes the whole phase.

    Args:
        phases: of the run.
        num_points: about how many in all, before those that round to the same step are joined; at
            least 18 a phase where there are several.

    Returns:
        Optimiser steps after which to measure.
    """
    if len(phases) == 1:
        return {phases[0].start + offset for offset in _log_spaced(phases[0].length, num_points)}
    points = max(_POINTS_OF_PHASE, num_points // (2 * len(phases)))
    steps = set()
    for phase in phases:
        even = [round(phase.length * number / points) for number in range(points + 1)]
        steps |= {phase.start + offset for offset in (*even, *_log_spaced(phase.length, points))}
    return steps


def _log_spaced(last: int, num_points: int) -> set[int]:
    exponents = torch.linspace(0, 1, num_points, dtype=torch.float64).tolist()
    return {0, *(round(last**exponent) for exponent in exponents)}


class Measurements(Callback):
    """Takes every measure of the learner at the steps above, and logs them in one call.

    What costs is a forward pass of 2^14 points in float64; it is not part of a training step.

    Args:
        phases: of the run.
        measures: of the user's own, beside ours.
        num_points: about how many steps; 0 for none at all.

    Attributes:
        seconds: time spent so far.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        measures: Sequence[Measure] = (),
        num_points: int = NUM_POINTS,
    ) -> None:
        self.seconds = 0.0
        self._measures: list[Callable[[Moment], Mapping[str, float]]] = [*MEASURES, *measures]
        self._steps = measure_steps(phases, num_points) if num_points else set()
        self._milestones = Milestones(phases)
        self._measured_step = -1
        self._untrained: DenseNet | None = None
        self._sample: MeasureSample | None = None
        self._references: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the untrained learner, before a checkpoint is loaded into it.

        Args:
            trainer: the trainer.
            pl_module: the learner.
            stage: Lightning's word for what comes.
        """
        assert isinstance(pl_module, HierarchicalLearner)
        self._untrained = copy.deepcopy(pl_module.network)

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sample; measures at step 0."""
        if not trainer.is_global_zero or not self._steps:
            return
        started = time.perf_counter()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, HierarchicalData)
        assert self._untrained is not None
        device = next(pl_module.parameters()).device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        stream = data.make_sample_stream("cpu", torch.float64)
        inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
        self._sample = take_sample(
            inputs.to(device), stream.target.to(device), stream.labels.to(device), self._untrained
        )
        self._references = reference_levels(self._sample)
        self.seconds += time.perf_counter() - started
        if not self._has_references(trainer):
            log_metrics(trainer, self._references)
            self._measured_step = -1  # the files of this folder have no measures yet
        if trainer.global_step in self._steps:
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
        """The time spent, and what later measures are compared with."""
        return {
            "seconds": self.seconds,
            "measured_step": self._measured_step,
            "milestones": self._milestones.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them.

        Args:
            state_dict: from `state_dict`.
        """
        self.seconds = state_dict["seconds"]
        self._measured_step = state_dict["measured_step"]
        self._milestones.load_state_dict(state_dict.get("milestones", {}))  # format 1 has none

    def _has_references(self, trainer: Trainer) -> bool:
        """Whether the run's own file knows the marks: a resumed run may have a new folder."""
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        return any(self._references.keys() <= file.latest.keys() for file in files)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if self._sample is None or step == self._measured_step:
            return
        started = time.perf_counter()
        self._measured_step = step
        assert isinstance(pl_module, HierarchicalLearner)
        moment = look(pl_module.network, self._sample)
        named: dict[str, float] = {}
        for measure in self._measures:
            taken = measure(moment)
            if not named.keys().isdisjoint(taken):
                name = type(measure).__name__
                raise ValueError(f"{name} must give names of its own, got {sorted(taken)}.")
            named.update(taken)
        named.update(self._milestones.compare(step, {**self._references, **named}))
        log_metrics(trainer, named)
        self.seconds += time.perf_counter() - started
