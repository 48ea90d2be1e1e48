"""Measures on a fixed sample, at steps that are evenly spaced on a logarithmic axis."""

import copy
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from bfc_lightning.callbacks.loggers import log_rows
from bfc_lightning.data import HierarchicalData
from bfc_lightning.measures import weight_correlation
from bfc_lightning.measures.battery import (
    MEASURES,
    Measure,
    MeasureSample,
    Snapshot,
    reference_levels,
    take_sample,
    take_snapshot,
)
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.networks import DenseNet
from bfc_lightning.run_module import RunModule
from bfc_lightning.schemes import Phase

NUM_SAMPLES = 2**14
NUM_POINTS = 30
_POINTS_OF_PHASE = 9
_LOW_ERROR = 1e-3


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
        self._measures: list[Callable[[Snapshot], Mapping[str, float]]] = [*MEASURES, *measures]
        self._phases = phases
        self._steps = measure_steps(phases, num_points)
        self._measured_step = -1
        self._untrained: list[DenseNet] = []
        self._milestones = [Milestones(phases)]
        self._marks: list[WeightMarks] = []
        self._samples: list[MeasureSample] = []
        self._references: list[dict[str, float]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keeps the untrained learners, before a checkpoint is loaded into them."""
        self._untrained = [copy.deepcopy(each.network) for each in _learners(pl_module)]
        self._milestones = [Milestones(self._phases) for _ in self._untrained]
        self._marks = [WeightMarks(self._phases, each) for each in self._untrained]

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the samples; measures at step 0."""
        if not trainer.is_global_zero or not self._steps:
            return
        started = time.perf_counter()
        device = next(pl_module.parameters()).device
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        problems = trainer.datamodule.parts  # type: ignore[attr-defined]
        self._samples = [
            _measure_sample(data, network, device)
            for data, network in zip(problems, self._untrained, strict=True)
        ]
        self._references = [reference_levels(sample) for sample in self._samples]
        self.seconds += time.perf_counter() - started
        log_rows(trainer, self._references, step=0)  # again if resumed, maybe in another folder
        if trainer.global_step in self._steps:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Measures at the steps that are due."""
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
            "weights": [each.kept for each in self._marks],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.seconds = state_dict["seconds"]
        for each, kept in zip(self._milestones, state_dict["milestones"], strict=True):
            each.kept = dict(kept)
        for marks, weights in zip(self._marks, state_dict["weights"], strict=True):
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
        for number, learner in enumerate(_learners(pl_module)):
            row = self._take(learner.network, self._samples[number])
            if row:
                row |= self._marks[number].compare(step, learner.network)
            compared = {**self._references[number], **row}
            rows.append({**row, **self._milestones[number].compare(step, compared)})
        log_rows(trainer, rows)
        self.seconds += time.perf_counter() - started

    def _take(self, network: DenseNet, sample: MeasureSample) -> dict[str, float]:
        """All measures of one learner; none if it has diverged."""
        named: dict[str, float] = {}
        if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
            return named
        snapshot = take_snapshot(network, sample)
        for measure in self._measures:
            taken = measure(snapshot)
            if not named.keys().isdisjoint(taken):
                name = type(measure).__name__
                raise ValueError(f"{name} must use names of its own, got {sorted(taken)}.")
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


class Milestones:
    """Compares a measurement with earlier ones of the same run.

    - `features/correction_l`: `residual_l` just before the first update of the phase in which layer
      l + 1 joins, divided by `residual_l` now, if layer l continues to train.
    - `features/halved_step_l`: the first measured step at which `residual_l` is at most half the
      untrained learner's; `levels/halved_step_l`: at which `levels/residual_l` is at most 1/2.
    - `features/consumed_leakage_1_fall`: the consumed leakage when `levels/nmse` was first at most
      1e-3, divided by that now.
    """

    def __init__(self, phases: Iterable[Phase]) -> None:
        self.kept: dict[str, float] = {}
        self._joins = {
            after.start: before.depth
            for before, after in pairwise(phases)
            if after.depth > before.depth and before.depth in after.trained
        }

    def compare(self, step: int, named: Mapping[str, float]) -> dict[str, float]:
        """The numbers that follow from measures and references, by name, and from earlier ones."""
        if step in self._joins:
            key = f"features/residual_{self._joins[step]}"
            if key in named:
                self.kept[key] = named[key]
        corrections = {
            key.replace("residual", "correction"): _ratio(value, named[key])
            for key, value in self.kept.items()
            if key.startswith("features/residual_") and key in named
        }
        return {**corrections, **self._halved(step, named), **self._fall(named)}

    def _halved(self, step: int, named: Mapping[str, float]) -> dict[str, float]:
        reached = {}
        for key, value in named.items():
            if re.fullmatch(r"(features|levels)/residual_\d+", key):
                mark = key.replace("residual", "halved_step")
                whole = 1.0 if key.startswith("levels") else named.get(f"{key}_untrained", 0.0)
                if value <= whole / 2:
                    self.kept.setdefault(mark, step)
                if mark in self.kept:
                    reached[mark] = self.kept[mark]
        return reached

    def _fall(self, named: Mapping[str, float]) -> dict[str, float]:
        key = "features/consumed_leakage_1"
        if key in named and named.get("levels/nmse", math.inf) <= _LOW_ERROR:
            self.kept.setdefault(key, named[key])
        has_both = key in named and key in self.kept
        return {f"{key}_fall": _ratio(self.kept[key], named[key])} if has_both else {}


class WeightMarks:
    """Compares the weights of lower layers with those before the first layer above joined.

    `features/weight_correlation_l` is the correlation with the weights at the end of the last phase
    before a layer above l joined, and `features/weight_correlation_initial_l` that with the
    initialization. Both exist after that phase.
    """

    def __init__(self, phases: Sequence[Phase], untrained: DenseNet) -> None:
        self.kept: dict[int, Tensor] = {}
        self._untrained = untrained
        self._starts: dict[int, int] = {}
        for before, after in pairwise(phases):
            if after.depth > before.depth and not untrained.is_linearized:
                for level in range(1, before.depth + 1):
                    self._starts.setdefault(level, after.start)

    def compare(self, step: int, network: DenseNet) -> dict[str, float]:
        """The correlations after a number of steps, by name; keeps the weights that are due."""
        named = {}
        for level, start in self._starts.items():
            now, initial = (
                each.dense_layers()[level - 1].weight.detach().to("cpu", torch.float64)
                for each in (network, self._untrained)
            )
            if step == start:
                self.kept.setdefault(level, now.clone())
            if step > start and level in self.kept:
                key = "features/weight_correlation"
                named[f"{key}_{level}"] = float(weight_correlation(now, self.kept[level]))
                named[f"{key}_initial_{level}"] = float(weight_correlation(now, initial))
        return named


def _learners(module: LightningModule) -> list[HierarchicalLearner]:
    assert isinstance(module, RunModule)
    return module.each


def _ratio(before: float, now: float) -> float:
    return before / now if now else math.inf
