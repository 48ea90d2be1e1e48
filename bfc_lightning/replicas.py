"""Many seeds in one process: learners of one shape, trained as one batched program."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn

from bfc_lightning.data import BatchRequest, BatchRequests, HierarchicalData, in_chunks
from bfc_lightning.fast_path import Clipping, FastPath, InTurn, path_of
from bfc_lightning.medians import median_of
from bfc_lightning.module import PHASE_KEY, HierarchicalLearner, take_steps
from bfc_lightning.networks import DenseNet
from bfc_lightning.row_optimizers import why_not_in_rows
from bfc_lightning.schemes import Phase
from bfc_lightning.sync_points import SyncPoints
from bfc_lightning.types import Batch, StepChunk

T = TypeVar("T")


class ReplicatedData(LightningDataModule):
    """The samples of several problems, each of its own target and stream, side by side.

    Args:
        parts: one a replica; all of one size.
    """

    def __init__(self, parts: Sequence[HierarchicalData]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.sync_points: SyncPoints | None = None
        self.batch_size = parts[0].batch_size

    def check_processes(self, world_size: int) -> None:
        """Refuses several processes.

        Args:
            world_size: the number of processes.

        Raises:
            ValueError: if there is more than one.
        """
        if world_size > 1:
            raise ValueError(
                f"trainer.devices must be 1 with model.num_replicas, got {world_size} processes."
            )

    def train_dataloader(self) -> BatchRequests:
        """Requests without end."""
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
        """Draws what was asked for, of every replica.

        Args:
            batch: the request.
            dataloader_idx: Lightning's; there is one loader.

        Returns:
            A chunk with an axis of replicas, or a batch for each.
        """
        trainer = self.trainer
        assert trainer is not None
        module = trainer.lightning_module
        for part in self.parts:
            part.place_stream(module.device, next(module.parameters()).dtype)
        shards = range(self.parts[0].num_shards)
        if batch.position is not None:
            return [part.draw_batch(batch, shards) for part in self.parts]
        assert self.sync_points is not None
        most = self.sync_points.steps_until_next(trainer.global_step)
        return in_chunks(lambda steps: self._draw_chunk(steps, shards), most)

    def _draw_chunk(self, most: int, shards: range) -> StepChunk:
        chunks = [part.draw_chunk(most, shards) for part in self.parts]
        return StepChunk(*(torch.stack(column, dim=1) for column in zip(*chunks, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Where the streams stand, and the tensors of all problems."""
        states = [part.state_dict() for part in self.parts]
        problem = {
            f"{number}.{name}": tensor
            for number, state in enumerate(states)
            for name, tensor in state["problem"].items()
        }
        return {"position": states[0]["position"], "problem": problem}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a checkpoint stood.

        Args:
            state_dict: from `state_dict`.
        """
        for number, part in enumerate(self.parts):
            part.load_state_dict(_part_of(state_dict, number))


class ReplicatedLearner(LightningModule):
    """Several learners, trained at once on samples of their own, on the fast path only.

    Each gets the numbers that it would get alone, to rounding. One that diverges is marked and
    harms no other: nothing is shared between rows. Metrics are medians over those that did not.

    Args:
        learners: one a replica; all of one shape, optimizer class and schedule of phases.

    Attributes:
        diverged: for each replica the step at which it was seen to have diverged, or None.

    Raises:
        ValueError: if they cannot be trained together.
    """

    def __init__(self, learners: Sequence[HierarchicalLearner]) -> None:
        super().__init__()
        self.learners = nn.ModuleList(learners)
        self.automatic_optimization = False
        self.diverged: list[int | None] = [None] * len(learners)
        self.fast_path: FastPath | InTurn | None = None
        self._batch: tuple[Clipping, int] | None = None
        self._losses: list[list[float]] = []
        reason = learners[0].why_not_fast()
        if reason is not None:
            raise ValueError(f"model.num_replicas must be 1 here, got {len(learners)}: {reason}.")
        reason = why_not_in_rows([
            learner.make_optimizer(list(learner.parameters())) for learner in learners
        ])
        if reason is not None:
            raise ValueError(
                "model.optimizer must be SGD, Adam or AdamW, in a form that many networks can "
                f"share, with model.num_replicas, got {reason}."
            )

    @property
    def score_key(self) -> str:
        """As of one learner."""
        return self.each[0].score_key

    @property
    def each(self) -> list[HierarchicalLearner]:
        """The learners, typed."""
        return [part for part in self.learners if isinstance(part, HierarchicalLearner)]

    def use_fast_path(self, clipping: Clipping, batch_size: int) -> None:
        """Says of what the fast path is to be made when training starts.

        Args:
            clipping: of the gradients of each learner.
            batch_size: samples of a batch of each.
        """
        self._batch = clipping, batch_size

    def on_train_start(self) -> None:
        """Chooses how they share operations: that depends on their device and dtype."""
        assert self._batch is not None
        clipping, batch_size = self._batch
        networks = [each.network for each in self.each]
        self.fast_path = path_of(
            [network for network in networks if isinstance(network, DenseNet)],
            [each.objective for each in self.each],
            regularization=[each.regularization for each in self.each],
            clipping=clipping,
            batch_size=batch_size,
        )

    def configure_optimizers(self) -> Any:  # noqa: ANN401, Lightning's union of unions
        """One optimizer and one schedule for each learner."""
        phase = self.each[0].phase
        length = phase.length if phase else self.trainer.max_steps
        return [as_config(each.build_optimizer(length)) for each in self.each]

    def enter_phase(self, phase: Phase) -> None:
        """All learners enter a phase.

        Args:
            phase: of the training scheme.
        """
        for each in self.each:
            each.enter_phase(phase)

    def training_step(self, batch: Iterator[StepChunk], batch_index: int) -> dict[str, Any]:
        """Takes the steps of a chunk."""
        assert self.fast_path is not None
        return {"loss": take_steps(self, self.fast_path, batch, self.progress)}

    def progress(self, step: int) -> float:
        """The part of the phase, or of the run, that is done after `step` optimizer steps."""
        phase = self.each[0].phase
        return phase.progress(step) if phase else step / self.trainer.max_steps

    def mark_diverged(self, values: Sequence[float], step: int) -> bool:
        """Marks the replicas whose value is not finite.

        Args:
            values: one a replica.
            step: optimizer steps taken so far.

        Returns:
            Whether all have diverged by now.
        """
        for number, value in enumerate(values):
            if self.diverged[number] is None and not math.isfinite(value):
                self.diverged[number] = step
        return all(step is not None for step in self.diverged)

    def without_diverged(self, rows: Sequence[T]) -> list[T]:
        """What belongs to the replicas that have not diverged.

        Args:
            rows: one a replica.

        Returns:
            Those of the others.
        """
        return [row for row, step in zip(rows, self.diverged, strict=True) if step is None]

    def validation_step(self, batch: list[Batch], batch_index: int) -> None:
        """Adds a batch to every replica's score."""
        self._score(batch)

    def test_step(self, batch: list[Batch], batch_index: int) -> None:
        """Adds a batch to every replica's score."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Makes medians known to Lightning, for what is monitored."""
        self._publish("val")

    def on_test_epoch_end(self) -> None:
        """The same for the test samples."""
        self._publish("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the phase and who has diverged.

        Args:
            checkpoint: changed in place.
        """
        phase = self.each[0].phase
        checkpoint[PHASE_KEY] = None if phase is None else asdict(phase)
        checkpoint["diverged"] = list(self.diverged)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes back to them.

        Args:
            checkpoint: what `on_save_checkpoint` has seen.
        """
        for each in self.each:
            each.on_load_checkpoint(checkpoint)
        self.diverged = list(checkpoint["diverged"])

    def _score(self, batches: list[Batch]) -> None:
        losses = []
        for each, batch in zip(self.each, batches, strict=True):
            loss, prediction = each.shared_step(batch)
            each.score.update(each.objective.score(prediction, batch), weight=len(batch.labels))
            losses.append(float(loss))
        self._losses.append(losses)

    def _publish(self, split: str) -> None:
        name = f"{split}/{self.each[0].objective.score_name}"
        losses = torch.tensor(self._losses, dtype=torch.float64).mean(dim=0).tolist()
        self.scores: list[dict[str, float]] = []
        for each, loss in zip(self.each, losses, strict=True):
            self.scores.append({name: float(each.score.compute()), f"{split}/loss": loss})
            each.score.reset()
        self._losses = []
        values = [
            row[name] if math.isfinite(largest_weight(each)) else math.nan  # a class is never NaN
            for each, row in zip(self.each, self.scores, strict=True)
        ]
        self.mark_diverged(values, self.trainer.global_step)
        kept = self.without_diverged(self.scores)
        for key in (name, f"{split}/loss"):
            self.log(key, median_of([row[key] for row in kept]), logger=False)


def content_of_replica(content: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A checkpoint of several learners as that of one of them.

    Args:
        content: of the checkpoint.
        number: of the replica, from 0.

    Returns:
        What a run of this replica alone would have saved, as far as learner and problem go.
    """
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


AnyLearner = HierarchicalLearner | ReplicatedLearner
AnyData = HierarchicalData | ReplicatedData


def as_config(built: Any) -> dict[str, Any]:  # noqa: ANN401, Lightning's union of unions
    """What `build_optimizer` returns, always as a dictionary.

    Args:
        built: an optimizer, or a dictionary with a schedule.

    Returns:
        The dictionary.
    """
    return built if isinstance(built, dict) else {"optimizer": built}


def largest_weight(module: nn.Module) -> float:
    """The largest absolute value of a parameter; not finite where one of them is not.

    Args:
        module: whose parameters are looked at.

    Returns:
        The value.
    """
    largest = [torch.linalg.vector_norm(p.detach(), ord=math.inf) for p in module.parameters()]
    return float(torch.stack(largest).max())


def learners_of(module: LightningModule) -> list[HierarchicalLearner]:
    """The learners of a run: one, or one a replica.

    Args:
        module: that is trained.

    Returns:
        At least one.
    """
    if isinstance(module, ReplicatedLearner):
        return module.each
    assert isinstance(module, HierarchicalLearner)
    return [module]


def problems_of(data: LightningDataModule) -> list[HierarchicalData]:
    """The problems of a run, one a learner.

    Args:
        data: that it is trained on.

    Returns:
        At least one.
    """
    if isinstance(data, ReplicatedData):
        return data.parts
    assert isinstance(data, HierarchicalData)
    return [data]
