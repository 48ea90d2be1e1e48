"""Several seeds in one process: learners of one shape, trained with batched operations."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from bfc_lightning.data import BatchRequest, BatchRequests, HierarchicalData
from bfc_lightning.medians import median_of
from bfc_lightning.module import PHASE_KEY, HierarchicalLearner
from bfc_lightning.run_module import RunModule, take_steps
from bfc_lightning.sync_points import SyncPoints
from bfc_lightning.types import Batch, StepChunk


class ReplicatedData(LightningDataModule):
    """The samples of several problems, each with its own target and stream.

    Args:
        parts: one data module per replica, all of the same size.
    """

    def __init__(self, parts: Sequence[HierarchicalData]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.sync_points: SyncPoints | None = None
        self.batch_size = parts[0].batch_size

    def check_processes(self, world_size: int) -> None:
        """Checks that there is a single process.

        Raises:
            ValueError: if there is more than one.
        """
        if world_size > 1:
            raise ValueError(
                f"trainer.devices must be 1 with model.num_replicas, got {world_size} processes."
            )

    def train_dataloader(self) -> BatchRequests:
        """Unlimited requests."""
        return self.parts[0].train_dataloader()

    def val_dataloader(self) -> BatchRequests:
        """Requests for the validation sets."""
        return self.parts[0].val_dataloader()

    def test_dataloader(self) -> BatchRequests:
        """Requests for the test sets."""
        return self.parts[0].test_dataloader()

    def on_after_batch_transfer(
        self, batch: BatchRequest, dataloader_idx: int
    ) -> Iterator[StepChunk] | list[Batch]:
        """Draws for every replica: chunks with an axis of replicas, or a list of batches."""
        trainer = self.trainer
        assert trainer is not None
        module = trainer.lightning_module
        for part in self.parts:
            part.place_stream(module.device, next(module.parameters()).dtype)
        shards = range(self.parts[0].num_shards)
        if batch.position is not None:
            return [part.draw_batch(batch, shards) for part in self.parts]
        assert self.sync_points is not None
        draw = functools.partial(self._draw_chunk, shards=shards)
        return self.sync_points.chunks(draw, trainer.global_step)

    def _draw_chunk(self, most: int, *, shards: range) -> StepChunk:
        chunks = [part.draw_chunk(most, shards) for part in self.parts]
        return StepChunk(*(torch.stack(column, dim=1) for column in zip(*chunks, strict=True)))

    def truncate_labels(self, x: Tensor, y: Tensor, level: int) -> Tensor:
        """See `HierarchicalData.truncate_labels`; the second axis is the replica."""
        each = zip(self.parts, x.unbind(1), y.unbind(1), strict=True)
        return torch.stack([part.truncate_labels(x, y, level) for part, x, y in each], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """The position in the streams and the tensors of all problems."""
        states = [part.state_dict() for part in self.parts]
        problem = {
            f"{number}.{name}": tensor
            for number, state in enumerate(states)
            for name, tensor in state["problem"].items()
        }
        return {"position": states[0]["position"], "problem": problem}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position and the tensors."""
        for number, part in enumerate(self.parts):
            part.load_state_dict(_part_of(state_dict, number))


class ReplicatedLearner(RunModule):
    """Several learners, trained jointly, each on its own samples. Requires an engine.

    Each replica gives the same numbers as a separate run, up to rounding. Replicas share no state,
    so a diverged replica does not affect the others. Metrics are medians over the replicas that
    have not diverged.

    Args:
        learners: one per replica, which differ only in their seeds.
    """

    def __init__(self, learners: Sequence[HierarchicalLearner]) -> None:
        super().__init__(len(learners))
        self.learners = nn.ModuleList(learners)
        self._losses: list[list[float]] = []

    @property
    def each(self) -> list[HierarchicalLearner]:
        """The learners, with their type."""
        return [part for part in self.learners if isinstance(part, HierarchicalLearner)]

    def configure_optimizers(self) -> Any:  # noqa: ANN401, Lightning's union of unions
        """One optimizer and one schedule per learner."""
        phase = self.each[0].phase
        length = phase.length if phase else self.trainer.max_steps
        built = [each.build_optimizer(length) for each in self.each]
        return [each if isinstance(each, dict) else {"optimizer": each} for each in built]

    def training_step(self, batch: Iterator[StepChunk], batch_index: int) -> dict[str, Any]:
        """Takes the optimizer steps of the chunks."""
        assert self.engine is not None
        return {"loss": take_steps(self, self.engine, batch)}

    def validation_step(self, batch: list[Batch], batch_index: int) -> None:
        """Adds a batch to the score of every replica."""
        losses = []
        for each, part in zip(self.each, batch, strict=True):
            loss, prediction = each.shared_step(part)
            each.score.update(each.objective.score(prediction, part), weight=len(part.labels))
            losses.append(float(loss))
        self._losses.append(losses)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs the median score and loss, for monitoring."""
        self._publish("val")

    def on_test_epoch_end(self) -> None:
        """Logs the median score and loss on the test samples."""
        self._publish("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the phase and the diverged replicas."""
        phase = self.each[0].phase
        checkpoint[PHASE_KEY] = None if phase is None else asdict(phase)
        checkpoint["diverged"] = list(self.diverged)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the phase and the diverged replicas."""
        for each in self.each:
            each.on_load_checkpoint(checkpoint)
        self.diverged = list(checkpoint["diverged"])

    def _publish(self, split: str) -> None:
        name = f"{split}/{self.each[0].objective.score_name}"
        losses = torch.tensor(self._losses, dtype=torch.float64).mean(dim=0).tolist()
        self.scores = []
        for each, loss in zip(self.each, losses, strict=True):
            self.scores.append({name: float(each.score.compute()), f"{split}/loss": loss})
            each.score.reset()
        self._losses = []
        # The weights are checked because a classification error is never NaN.
        values = [
            row[name] if math.isfinite(largest_weight(each)) else math.nan
            for each, row in zip(self.each, self.scores, strict=True)
        ]
        self.mark_diverged(values, self.trainer.global_step)
        kept = self.without_diverged(self.scores)
        for key in (name, f"{split}/loss"):
            self.log(key, median_of([row[key] for row in kept]), logger=False)


def content_of_replica(content: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A checkpoint of several replicas, with the learner and the problem of one of them only."""
    return {
        **content,
        "state_dict": _below(content["state_dict"], f"learners.{number}."),
        HierarchicalData.__qualname__: _part_of(content[ReplicatedData.__qualname__], number),
    }


def _part_of(state: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {"position": state["position"], "problem": _below(state["problem"], f"{number}.")}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


AnyData = HierarchicalData | ReplicatedData


def largest_weight(module: nn.Module) -> float:
    """The largest absolute value of all parameters, not finite if any parameter is not finite."""
    largest = [torch.linalg.vector_norm(p.detach(), ord=math.inf) for p in module.parameters()]
    return float(torch.stack(largest).max())
