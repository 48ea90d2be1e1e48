"""Measures on a fixed sample, at steps that are evenly spaced on a logarithmic axis."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from bfc_lightning.callbacks.run_files import log_rows
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


@dataclass
class _Measured:
    """A learner, and what its measures are compared with."""

    learner: HierarchicalLearner
    untrained: Learner
    milestones: Milestones
    marks: WeightMarks
    sample: object = None
    references: dict[str, float] = field(default_factory=dict)

    def draw_sample(self, data: HierarchicalData, device: torch.device) -> None:
        stream = data.make_sample_stream("cpu", torch.float64)
        inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
        problem = inputs.to(device), stream.target.to(device), stream.labels.to(device)
        self.sample = self.learner.battery.take_sample(*problem, self.untrained)
        self.references = self.learner.battery.references(self.sample)


class Measurements(Callback):
    """Takes every measure of the learner at some steps, and logs them in one call.

    The cost is about that of a forward pass of 2^14 points; it is not part of a training step.
    """

    def __init__(
        self, phases: Sequence[Phase], measures: Sequence[Measure], num_points: int
    ) -> None:
        self.seconds = 0.0
        self._measures: list[_Measure] = list(measures)
        self._phases = phases
        self._steps = measure_steps(phases, num_points)
        self._measured_step = -1
        self._each: list[_Measured] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the untrained learners, before a checkpoint is loaded into them."""
        self._each = [
            _Measured(each, copy.deepcopy(each.network), Milestones(self._phases), WeightMarks())
            for each in as_run(pl_module).each
        ]

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples; measures at step 0."""
        if not trainer.is_global_zero or not self._steps:
            return
        started = time.perf_counter()
        device = next(pl_module.parameters()).device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        for each, data in zip(self._each, trainer.datamodule.parts, strict=True):  # type: ignore[attr-defined]
            each.draw_sample(data, device)
        self.seconds += time.perf_counter() - started
        references = [each.references for each in self._each]
        log_rows(trainer, references, step=0)  # again if resumed, maybe in another folder
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Marks weights if a layer may have joined within the phase."""
        if self._phases[0].is_open:
            self._mark(as_run(pl_module).each[0].network.active_depth)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Marks weights at the end of a phase; measures at the steps that are due."""
        for phase in self._phases:
            if phase.start == trainer.global_step:
                self._mark(phase.depth)
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures at the last step, also if the run ends early."""
        self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The time spent, and the values that later ones are compared with."""
        return {
            "seconds": self.seconds,
            "milestones": [each.milestones.kept for each in self._each],
            "marks": [each.marks.kept for each in self._each],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.seconds = state_dict["seconds"]
        kept = zip(self._each, state_dict["milestones"], state_dict["marks"], strict=True)
        for each, milestones, marks in kept:
            each.milestones.kept, each.marks.kept = dict(milestones), dict(marks)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes and logs the measures of this step, unless it has been measured."""
        step = trainer.global_step
        if self._each[0].sample is None or step == self._measured_step:
            return
        started = time.perf_counter()
        self._measured_step = step
        rows = []
        for each in self._each:
            row = self._take(each.learner, each.sample)
            if row:  # the learner has not diverged
                row |= each.marks.compare(each.learner.network, each.untrained)
            rows.append({**row, **each.milestones.compare(step, {**each.references, **row})})
        log_rows(trainer, rows)
        self.seconds += time.perf_counter() - started

    def _mark(self, depth: int) -> None:
        for each in self._each:
            each.marks.update(each.learner.network, depth)

    def _take(self, learner: HierarchicalLearner, sample: object) -> dict[str, float]:
        """All measures of one learner; none if it has diverged."""
        named: dict[str, float] = {}
        if not all(bool(parameter.isfinite().all()) for parameter in learner.parameters()):
            return named
        snapshot = learner.battery.take_snapshot(learner.network, sample)
        for measure in (*learner.battery.measures, *self._measures):
            taken = measure(snapshot)
            if not named.keys().isdisjoint(taken):
                name = type(measure).__name__
                raise ValueError(f"{name} must use names of its own, got {sorted(taken)}.")
            named.update(taken)
        return named
