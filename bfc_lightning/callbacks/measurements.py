"""Measures on a fixed sample, at steps that are evenly spaced on a logarithmic axis."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from bfc_lightning.callbacks.run_files import log_rows
from bfc_lightning.data import HierarchicalData
from bfc_lightning.milestones import Milestones, WeightMarks
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.replicas import largest_weight
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
    has_several, steps = len(phases) > 1, set()
    if has_several:
        num_points = max(_POINTS_OF_PHASE, num_points // (2 * len(phases)))
    for phase in phases:
        exponents = torch.linspace(0, 1, num_points, dtype=torch.float64).tolist()
        offsets = [0, *(round(phase.length**exponent) for exponent in exponents)]
        if has_several:
            offsets += [round(phase.length * n / num_points) for n in range(num_points + 1)]
        steps |= {phase.start + offset for offset in offsets}
    return steps


class _Measured:
    """A learner, and what its measures are compared with."""

    def __init__(self, learner: HierarchicalLearner, phases: Sequence[Phase]) -> None:
        self.learner = learner
        self.untrained = copy.deepcopy(learner.network)
        self.milestones = Milestones(phases)
        self.marks = WeightMarks()
        self.sample: object = None
        self.references: dict[str, float] = {}

    def draw_sample(self, data: HierarchicalData, device: torch.device) -> None:
        stream = data.make_sample_stream("cpu", torch.float64)
        inputs = stream.batch("measure", 0, NUM_SAMPLES - NUM_SAMPLES % data.num_shards).inputs
        problem = inputs.to(device), stream.target.to(device), stream.labels.to(device)
        self.sample = self.learner.battery.take_sample(*problem, self.untrained)
        self.references = self.learner.battery.references(self.sample)

    def measure(self, step: int, users: Sequence[_Measure]) -> dict[str, float]:
        """All measures by name; of a learner that has diverged, only those of earlier steps."""
        network, battery = self.learner.network, self.learner.battery
        named: dict[str, float] = {}
        if math.isfinite(largest_weight(network)):
            snapshot = battery.take_snapshot(network, self.sample)
            for measure in (*battery.measures, *users):
                taken = measure(snapshot)
                if not named.keys().isdisjoint(taken):
                    name = type(measure).__name__
                    raise ValueError(f"{name} must use names of its own, got {sorted(taken)}.")
                named.update(taken)
            named |= self.marks.compare(network, self.untrained)
        return named | self.milestones.compare(step, self.references | named)


class Measurements(Callback):
    """Takes every measure of the learner at some steps, and logs them in one call.

    The cost is about that of a forward pass of 2^14 points; it is not part of a training step.
    """

    def __init__(
        self, phases: Sequence[Phase], measures: Sequence[_Measure], num_points: int
    ) -> None:
        self.seconds = 0.0
        self._measures = measures
        self._phases = phases
        self._steps = measure_steps(phases, num_points)
        self._measured_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the untrained learners, before a checkpoint is loaded into them."""
        self._each = [_Measured(each, self._phases) for each in as_run(pl_module).each]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures at step 0."""
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Marks weights if a layer may have joined within the phase."""
        if self._phases[0].is_open:
            for each in self._each:
                each.marks.update(each.learner.network, each.learner.network.active_depth)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Marks weights at the end of a phase; measures at the steps that are due."""
        for phase in self._phases:
            if phase.start == trainer.global_step:
                for each in self._each:
                    each.marks.update(each.learner.network, phase.depth)
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures at the last step, also if the run ends early."""
        if self._steps:
            self._measure(trainer, pl_module)

    @torch.no_grad()
    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes and logs the measures of this step, unless it has been measured."""
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._measured_step:
            return
        started = time.perf_counter()
        if self._measured_step < 0:
            device = pl_module.device
            if device.type == "mps":  # has no float64
                device = torch.device("cpu")
            for each, data in zip(self._each, trainer.datamodule.parts, strict=True):  # type: ignore[attr-defined]
                each.draw_sample(data, device)
            # Also in a resumed run, which may be in another folder.
            log_rows(trainer, [each.references for each in self._each], step=0)
        log_rows(trainer, [each.measure(step, self._measures) for each in self._each])
        self._measured_step = step
        self.seconds += time.perf_counter() - started

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
        for number, each in enumerate(self._each):
            each.milestones.kept = dict(state_dict["milestones"][number])
            each.marks.kept = dict(state_dict["marks"][number])
