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
from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile
from bfc_lightning.callbacks.training_log import log_each
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
from bfc_lightning.networks import DenseNet
from bfc_lightning.replicas import learners_of, problems_of
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
        self._phases = phases
        self._steps = measure_steps(phases, num_points) if num_points else set()
        self._measured_step = -1
        self._untrained: list[DenseNet] = []
        self._milestones = [Milestones(phases)]
        self._samples: list[MeasureSample] = []
        self._references: list[dict[str, float]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the untrained learners, before a checkpoint is loaded into them.

        Args:
            trainer: the trainer.
            pl_module: the learner.
            stage: Lightning's word for what comes.
        """
        self._untrained = [copy.deepcopy(each.network) for each in learners_of(pl_module)]
        self._milestones = [Milestones(self._phases) for _ in self._untrained]

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples; measures at step 0."""
        if not trainer.is_global_zero or not self._steps:
            return
        started = time.perf_counter()
        device = next(pl_module.parameters()).device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        problems = problems_of(trainer.datamodule)  # type: ignore[attr-defined]
        self._samples = [
            _measure_sample(data, network, device)
            for data, network in zip(problems, self._untrained, strict=True)
        ]
        self._references = [reference_levels(sample) for sample in self._samples]
        self.seconds += time.perf_counter() - started
        if not self._has_references(trainer):
            log_each(trainer, self._references)
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
            "milestones": [each.state_dict() for each in self._milestones],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them.

        Args:
            state_dict: from `state_dict`.
        """
        self.seconds = state_dict["seconds"]
        self._measured_step = state_dict["measured_step"]
        kept = state_dict.get("milestones", {})  # format 1 has none, format 2 those of one learner
        for each, state in zip(
            self._milestones, kept if isinstance(kept, list) else [kept], strict=True
        ):
            each.load_state_dict(state)

    def _has_references(self, trainer: Trainer) -> bool:
        """Whether the run's own file knows the marks: a resumed run may have a new folder."""
        known: list[Mapping[str, float]] = [
            logger.latest
            for logger in trainer.loggers
            if isinstance(logger, MetricsFile | ReplicaMetricsFile)
        ]
        return any(self._references[0].keys() <= latest.keys() for latest in known)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if not self._samples or step == self._measured_step:
            return
        started = time.perf_counter()
        self._measured_step = step
        rows = [
            self._measure_one(step, number, learner.network)
            for number, learner in enumerate(learners_of(pl_module))
        ]
        log_each(trainer, rows)
        self.seconds += time.perf_counter() - started

    def _measure_one(self, step: int, number: int, network: DenseNet) -> dict[str, float]:
        """All measures of one learner; none where it has diverged, which its scores show.

        Raises:
            ValueError: if two measures give the same name.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
            return {}
        moment = look(network, self._samples[number])
        named: dict[str, float] = {}
        for measure in self._measures:
            taken = measure(moment)
            if not named.keys().isdisjoint(taken):
                name = type(measure).__name__
                raise ValueError(f"{name} must give names of its own, got {sorted(taken)}.")
            named.update(taken)
        compared = {**self._references[number], **named}
        named.update(self._milestones[number].compare(step, compared))
        return named


def _measure_sample(
    data: HierarchicalData, untrained: DenseNet, device: torch.device
) -> MeasureSample:
    stream = data.make_sample_stream("cpu", torch.float64)
    inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
    return take_sample(
        inputs.to(device), stream.target.to(device), stream.labels.to(device), untrained
    )
