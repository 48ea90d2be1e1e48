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
from bfc_lightning.callbacks.signals import Signals
from bfc_lightning.callbacks.training_log import log_each
from bfc_lightning.data import HierarchicalData
from bfc_lightning.measures.battery import (
    MEASURES,
    Measure,
    MeasureSample,
    Snapshot,
    reference_levels,
    take_sample,
    take_snapshot,
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
        Optimizer steps after which to measure.
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

    What costs is a forward pass of 2^14 points in float64; it is not part of a training step. It
    takes minutes for sixty layers: a signal does not wait for it, and the run that goes on from
    there makes up for it. It waits where the run ends, and for several processes between two steps.

    Args:
        phases: of the run.
        measures: of the user's own, beside ours.
        num_points: about how many steps; 0 for none at all.
        signals: that the run receives.

    Attributes:
        seconds: time spent so far.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        measures: Sequence[Measure] = (),
        num_points: int = NUM_POINTS,
        *,
        signals: Signals,
    ) -> None:
        self._signals = signals
        self.seconds = 0.0
        self._measures: list[Callable[[Snapshot], Mapping[str, float]]] = [*MEASURES, *measures]
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
        pairs = list(zip(problems, self._untrained, strict=True))
        samples = self._signals.unless_told(
            lambda: [_measure_sample(data, network, device) for data, network in pairs]
        )
        if samples is None:
            return
        self._samples = samples
        self._references = [reference_levels(sample) for sample in samples]
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
        """Measures where a step is due; several processes may agree to stop only steps later."""
        step = trainer.global_step
        if step in self._steps:
            must_end = trainer.world_size > 1 or step >= trainer.max_steps
            self._measure(trainer, pl_module, must_end=must_end)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures where the run ends, also where it ends early."""
        self._measure(trainer, pl_module, must_end=True)

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
        known: list[Mapping[str, float]] = []
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                known.append(logger.latest)
            elif isinstance(logger, ReplicaMetricsFile):
                known += logger.latest
        return any(self._references[0].keys() <= latest.keys() for latest in known)

    @torch.no_grad()
    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, *, must_end: bool = False
    ) -> None:
        """Takes and logs the measures of this step, if they are not there yet.

        Args:
            trainer: the trainer.
            pl_module: the learner.
            must_end: whether a signal waits.
        """
        step = trainer.global_step
        if not self._samples or step == self._measured_step:
            return
        started = time.perf_counter()
        pairs = list(zip(learners_of(pl_module), self._samples, strict=True))

        def take() -> list[dict[str, float]]:
            return [self._take(learner.network, sample) for learner, sample in pairs]

        rows = take() if must_end else self._signals.unless_told(take)
        if rows is not None:
            self._measured_step = step
            for number, row in enumerate(rows):
                compared = {**self._references[number], **row}
                row.update(self._milestones[number].compare(step, compared))
            log_each(trainer, rows)
        self.seconds += time.perf_counter() - started

    def _take(self, network: DenseNet, sample: MeasureSample) -> dict[str, float]:
        """All measures of one learner; none where it has diverged, which its scores show.

        Raises:
            ValueError: if two measures give the same name.
        """
        named: dict[str, float] = {}
        if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
            return named
        moment = take_snapshot(network, sample)
        for measure in self._measures:
            taken = measure(moment)
            if not named.keys().isdisjoint(taken):
                name = type(measure).__name__
                raise ValueError(f"{name} must give names of its own, got {sorted(taken)}.")
            named.update(taken)
        return named


def _measure_sample(
    data: HierarchicalData, untrained: DenseNet, device: torch.device
) -> MeasureSample:
    stream = data.make_sample_stream("cpu", torch.float64)
    inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
    return take_sample(
        inputs.to(device), stream.target.to(device), stream.labels.to(device), untrained
    )
