"""What one learner and several replicas have in common: the engine, its steps, divergence."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from lightning import LightningModule
from torch import Tensor

from bfc_lightning.engine import Clipping, Engine
from bfc_lightning.matmul import Product, fusable, matmul, plain_matmul
from bfc_lightning.objectives import learner_loss
from bfc_lightning.private import count_steps
from bfc_lightning.types import StepChunk

if TYPE_CHECKING:
    from bfc_lightning.module import HierarchicalLearner

Row = TypeVar("Row")


class RunModule(LightningModule, ABC):
    """What a run trains: one learner, or several replicas that share all operations.

    Args:
        num_learners: number of learners.

    Attributes:
        engine: takes the optimizer steps, or None if Lightning does, by autograd.
        diverged: the step at which each learner was found to have diverged, or None.
        scores: score and loss of each learner in the last evaluation.
    """

    def __init__(self, num_learners: int = 1) -> None:
        super().__init__()
        self.engine: Engine | None = None
        self.diverged: list[int | None] = [None] * num_learners
        self.scores: list[dict[str, float]] = []

    @property
    @abstractmethod
    def each(self) -> list["HierarchicalLearner"]:
        """The learners."""

    @property
    def score_key(self) -> str:
        """The metric that is monitored: `val/nmse` or `val/error`."""
        return f"val/{self.each[0].objective.score_name}"

    def use_engine(
        self,
        clipping: Clipping,
        *,
        share: Callable[[Tensor], None] | None = None,
        compiles: bool = False,
    ) -> None:
        """Takes several optimizer steps at a time; see `Engine`."""
        self.automatic_optimization = False
        first = self.each[0]
        product: Product = matmul if len(self.each) == 1 else plain_matmul
        if compiles:
            product = fusable(product)
        self.engine = Engine(
            [each.network for each in self.each],
            learner_loss(first.network, first.objective, product=product),
            clipping=clipping,
            share=share,
            compiles=compiles,
        )

    def scales(self, steps: range) -> list[list[float]]:
        """The scale of the loss of every learner after each number of optimizer steps."""
        progress = [self.each[0].progress(step) for step in steps]
        columns = [each.objective.scales(progress) for each in self.each]
        return [list(row) for row in zip(*columns, strict=True)]

    def mark_diverged(self, values: Sequence[float], step: int) -> bool:
        """Marks learners whose value is not finite; returns whether all have diverged."""
        for number, value in enumerate(values):
            if self.diverged[number] is None and not math.isfinite(value):
                self.diverged[number] = step
        return all(step is not None for step in self.diverged)

    def without_diverged(self, rows: Sequence[Row]) -> list[Row]:
        """The entries of the learners that have not diverged."""
        return [row for row, step in zip(rows, self.diverged, strict=True) if step is None]


def as_run(module: LightningModule) -> RunModule:
    """The module of a Trainer, which is always one of ours."""
    assert isinstance(module, RunModule)
    return module


def take_steps(module: RunModule, engine: Engine, chunks: Iterable[StepChunk]) -> Tensor:
    """Takes the optimizer steps of some chunks, as `training_step`; returns the losses."""
    step = module.trainer.global_step
    optimizers = module.trainer.optimizers
    schedules = [each.scheduler for each in module.trainer.lr_scheduler_configs]
    losses: list[Tensor] = []
    phase, data = module.each[0].phase, module.trainer.datamodule  # type: ignore[attr-defined]
    for chunk in chunks:
        if phase is not None and phase.taught is not None:
            labels = data.truncate_labels(*chunk, phase.taught)
            chunk = chunk._replace(labels=labels)
        steps = range(step, step + len(chunk.labels))
        losses.append(engine.run(chunk, optimizers, schedules, module.scales(steps)))
        step = steps.stop
    taken = torch.cat(losses)
    count_steps(module.trainer, len(taken))
    return taken
