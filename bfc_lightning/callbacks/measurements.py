"""Measures on a fixed sample, at steps that are evenly spaced on a logarithmic axis."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from bfc_lightning.callbacks.loggers import log_rows
from bfc_lightning.data import HierarchicalData
from bfc_lightning.learners import Learner
from bfc_lightning.measures.battery import Measure
from bfc_lightning.milestones import Milestones, WeightMarks
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.run_module import as_run
from bfc_lightning.schemes import Phase

_Measure = Callable[[Any], Mapping[str, float]]

NUM_SAMPLES = 2**14
NUM_POINTS = 30
_POINTS_OF_PHASE = 9


def measure_steps(phases: Sequence[Phase], num_points: int = NUM_POINTS) -> set[int]:
    """Both ends of every phase, and steps evenly spaced in log from its start.

    Several phases have half their steps in log and half evenly spaced: a layer that has just joined
    changes fast, and its effect on lower ones takes the whole phase.
    """
    if num_points == 0:
        return set()
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
    """Takes every measure of the learner at some steps, and logs them in one call.

    The cost is about that of a forward pass of 2^14 points; it is not part of a training step.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        measures: Sequence[Measure] = (),
        num_points: int = NUM_POINTS,
    ) -> None:
        self.seconds = 0.0
        self._measures = list(measures)
        self._phases = phases
        self._steps = measure_steps(phases, num_points)
        self._measured_step = -1
        self._untrained: list[Learner] = []
        self._milestones = [Milestones(phases)]
        self._marks = [WeightMarks()]
        self._samples: list[Any] = []
        self._references: list[dict[str, float]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the untrained learners, before a checkpoint is loaded into them."""
        self._untrained = [copy.deepcopy(each.network) for each in as_run(pl_module).each]
        self._milestones = [Milestones(self._phases) for _ in self._untrained]
        self._marks = [WeightMarks() for _ in self._untrained]

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples; measures at step 0."""
        if not trainer.is_global_zero or not self._steps:
            return
        started = time.perf_counter()
        device = next(pl_module.parameters()).device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        problems, learners = trainer.datamodule.parts, as_run(pl_module).each  # type: ignore[attr-defined]
        self._samples = [
            _measure_sample(data, learner, network, device)
            for data, learner, network in zip(problems, learners, self._untrained, strict=True)
        ]
        self._references = [
            learner.battery.references(sample)
            for learner, sample in zip(learners, self._samples, strict=True)
        ]
        self.seconds += time.perf_counter() - started
        log_rows(trainer, self._references, step=0)  # again if resumed, maybe in another folder
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Marks weights if a layer may have joined within the phase."""
        if self._phases[0].is_open:
            self._mark(pl_module, as_run(pl_module).each[0].network.active_depth)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Marks weights at the end of a phase; measures at the steps that are due."""
        for phase in self._phases:
            if phase.start == trainer.global_step:
                self._mark(pl_module, phase.depth)
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures at the last step, also if the run ends early."""
        self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The time spent, and the values that later ones are compared with."""
        return {
            "seconds": self.seconds,
            "milestones": [each.kept for each in self._milestones],
            "marks": [each.kept for each in self._marks],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.seconds = state_dict["seconds"]
        for each, kept in zip(self._milestones, state_dict["milestones"], strict=True):
            each.kept = dict(kept)
        for marks, weights in zip(self._marks, state_dict["marks"], strict=True):
            marks.kept = dict(weights)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes and logs the measures of this step, unless it has been measured."""
        step = trainer.global_step
        if not self._samples or step == self._measured_step:
            return
        started = time.perf_counter()
        self._measured_step = step
        rows = []
        for number, learner in enumerate(as_run(pl_module).each):
            row = self._take(learner, self._samples[number])
            if row:  # the learner has not diverged
                row |= self._marks[number].compare(learner.network, self._untrained[number])
            compared = {**self._references[number], **row}
            rows.append({**row, **self._milestones[number].compare(step, compared)})
        log_rows(trainer, rows)
        self.seconds += time.perf_counter() - started

    def _mark(self, module: LightningModule, depth: int) -> None:
        for learner, marks in zip(as_run(module).each, self._marks, strict=True):
            marks.update(learner.network, depth)

    def _take(self, learner: HierarchicalLearner, sample: object) -> dict[str, float]:
        """All measures of one learner; none if it has diverged."""
        named: dict[str, float] = {}
        if not all(bool(parameter.isfinite().all()) for parameter in learner.parameters()):
            return named
        snapshot = learner.battery.take_snapshot(learner.network, sample)
        measures: list[_Measure] = [*learner.battery.measures, *self._measures]
        for measure in measures:
            taken = measure(snapshot)
            if not named.keys().isdisjoint(taken):
                name = type(measure).__name__
                raise ValueError(f"{name} must use names of its own, got {sorted(taken)}.")
            named.update(taken)
        return named


def _measure_sample(
    data: HierarchicalData, learner: HierarchicalLearner, untrained: Learner, device: torch.device
) -> object:
    stream = data.make_sample_stream("cpu", torch.float64)
    inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
    return learner.battery.take_sample(
        inputs.to(device), stream.target.to(device), stream.labels.to(device), untrained
    )
