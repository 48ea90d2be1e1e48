"""The data module: passes batches of the sample stream to Lightning and tracks the position."""

import copy
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from bfc_lightning.labels import Labels
from bfc_lightning.stream import FiniteStream, SampleStream, Split, check_batch_size
from bfc_lightning.sync_points import SyncPoints
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch, StepChunk, as_integer

_ENDLESS = 2**31 - 1
BLOCK_ROWS = 8192
_BLOCK_BATCHES = 64
_KEPT_BYTES = 2**24
_TENSOR_TOLERANCE = 1e-5


class BatchRequest(NamedTuple):
    """A request for one batch of a split. Position None requests the next batch of training."""

    split: Split
    position: int | None


class BatchRequests:
    """A data loader that yields requests. The samples are drawn on the device.

    The data module tracks the position. The loader has a state only to tell Lightning that a run
    can be resumed in the middle of an epoch.

    Args:
        split: the split.
        count: the number of batches. By default, it is unlimited and training stops at `max_steps`.
    """

    def __init__(self, split: Split, count: int = _ENDLESS) -> None:
        self.split: Split = split
        self.count = count

    def __len__(self) -> int:
        """The number of batches."""
        return self.count

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yields the requests."""
        for index in range(self.count):
            yield BatchRequest(self.split, None if self.split == "train" else index)

    def state_dict(self) -> dict[str, Any]:
        """An empty state: the data module tracks the position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class HierarchicalData(LightningDataModule):
    """Samples of a hierarchical target, fresh at every step or from a fixed training set.

    Args:
        target: G.
        labels: how G becomes labels.
        batch_size: size of the global batch over all devices, a multiple of `num_shards`.
        num_shards: number of equal parts of a global batch, each drawn from its own generator. A
            multiple of the number of processes. The stream depends on it.
        num_train_samples: size of a fixed training set. By default, every step draws fresh samples.
        num_val_samples: number of validation samples, rounded up to whole batches.
        num_test_samples: number of test samples, rounded up to whole batches.
        num_predict_samples: number of samples that `predict` writes, rounded up to whole batches.
        eval_batch_size: size of the global batch outside training, a multiple of `num_shards`.
        seed: seed of the sample stream. The command line derives it from the run's seed. Defaults
            to 0.

    Attributes:
        position: number of training batches drawn so far.
        sync_points: if given, training receives the batches of several optimizer steps at once, up
            to the next sync point. Otherwise it receives one batch per step.
        reads_blocks: whether single training batches are slices of the same blocks as chunks, which
            makes both bit-identical.

    Raises:
        ValueError: if a size is below 1, or a batch size is not a multiple of `num_shards`.
    """

    def __init__(
        self,
        target: Target,
        labels: Labels,
        batch_size: int = 512,
        num_shards: int = 4,
        num_train_samples: int | None = None,
        num_val_samples: int = 2**14,
        num_test_samples: int = 2**15,
        num_predict_samples: int = 2**14,
        eval_batch_size: int = 4096,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        as_integer(num_shards, "num_shards", least=1)
        check_batch_size(batch_size, num_shards)
        check_batch_size(eval_batch_size, num_shards, name="eval_batch_size")
        counts = {"val": num_val_samples, "test": num_test_samples, "predict": num_predict_samples}
        for split, count in {"train": num_train_samples, **counts}.items():
            if count is not None:
                as_integer(count, f"num_{split}_samples", least=1)
        self.target = target
        self.labels = labels
        self.batch_size = batch_size
        self.num_shards = num_shards
        self.num_train_samples = num_train_samples
        self.eval_batch_size = eval_batch_size
        self.seed = 0 if seed is None else seed
        self.position = 0
        self.sync_points: SyncPoints | None = None
        self.reads_blocks = False
        self._counts = counts
        self._stream: SampleStream | FiniteStream | None = None
        self._block: tuple[int, Batch] | None = None
        self._validation: dict[int, Batch] = {}

    @property
    def parts(self) -> list["HierarchicalData"]:
        """The data of each learner: this one."""
        return [self]

    @property
    def block_length(self) -> int:
        """The most batches that are drawn at once."""
        return max(1, min(_BLOCK_BATCHES, BLOCK_ROWS // self.batch_size))

    def setup(self, stage: str) -> None:
        """Broadcasts the target of rank 0 and checks the number of processes."""
        if self.trainer is None:
            return
        self.check_processes(self.trainer.world_size)
        if self.trainer.world_size > 1:
            state = self._problem.state_dict()
            self._problem.load_state_dict(self.trainer.strategy.broadcast(state))

    def check_processes(self, world_size: int) -> None:
        """Checks that the shards can be distributed evenly among the processes.

        Raises:
            ValueError: if the number of processes does not divide the number of shards.
        """
        if self.num_shards % world_size:
            raise ValueError(
                "data.num_shards must be a multiple of the number of processes, "
                f"{world_size}, got {self.num_shards}."
            )

    def make_stream(
        self, device: torch.device | str, dtype: torch.dtype
    ) -> SampleStream | FiniteStream:
        """The sample stream of this problem, over a copy of the target and the labels."""
        stream = self.make_sample_stream(device, dtype)
        if self.num_train_samples is None:
            return stream
        return FiniteStream(stream, self.num_train_samples)

    def make_sample_stream(self, device: torch.device | str, dtype: torch.dtype) -> SampleStream:
        """`make_stream` with fresh samples in every split, even if the training set is fixed."""
        problem = copy.deepcopy(self._problem).to(device=device, dtype=dtype)
        target, labels = problem[0], problem[1]
        assert isinstance(target, Target)
        assert isinstance(labels, Labels)
        return SampleStream(target, labels, seed=self.seed, num_shards=self.num_shards)

    def fixed_sample(
        self, num_samples: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Inputs and labels: the first of a fixed training set, or others that are not trained on.

        There are `num_samples`, or as many as a fixed set has.
        """
        stream = self.make_stream(device, dtype)
        if isinstance(stream, FiniteStream):
            batch = stream.train_set
        else:
            batch = stream.batch("train_set", 0, num_samples + -num_samples % self.num_shards)
        return batch.inputs[:num_samples], batch.labels[:num_samples]

    def train_dataloader(self) -> BatchRequests:
        """Unlimited requests. The Trainer stops at `max_steps`."""
        return BatchRequests("train")

    def val_dataloader(self) -> BatchRequests:
        """Requests for the validation set, which is the same every time."""
        return self._eval_requests("val")

    def test_dataloader(self) -> BatchRequests:
        """Requests for the test set."""
        return self._eval_requests("test")

    def predict_dataloader(self) -> BatchRequests:
        """Requests for the samples that `predict` writes."""
        return self._eval_requests("predict")

    def on_after_batch_transfer(
        self, batch: BatchRequest, dataloader_idx: int
    ) -> Batch | Iterator[StepChunk]:
        """Draws the shards of this process for a request, on the device.

        The chunks of several steps are drawn lazily.
        """
        trainer = self.trainer
        assert trainer is not None
        module = trainer.lightning_module
        self.place_stream(module.device, next(module.parameters()).dtype)
        shards = range(trainer.global_rank, self.num_shards, trainer.world_size)
        if batch.position is None and self.sync_points is not None:
            draw = functools.partial(self.draw_chunk, shards=shards)
            return self.sync_points.chunks(draw, trainer.global_step)
        return self.draw_batch(batch, shards)

    def place_stream(self, device: torch.device, dtype: torch.dtype) -> None:
        """Creates the stream on the device and in the dtype of the learner, once."""
        if self._stream is None:
            self._stream = self.make_stream(device, dtype)

    def draw_batch(self, request: BatchRequest, shards: range) -> Batch:
        """Draws the shards of this process of the requested batch."""
        assert self._stream is not None
        split, position = request
        if position is not None:
            if position in self._validation and split == "val":
                return self._validation[position]
            drawn = self._stream.batch(split, position, self.eval_batch_size, shards)
            row = drawn.inputs[0].nbytes
            if split == "val" and self._counts["val"] * row <= _KEPT_BYTES:
                self._validation[position] = drawn
            return drawn
        if self.reads_blocks:
            return Batch(*(column[0] for column in self._next_of_block(1, shards)))
        drawn = self._stream.batch(split, self.position, self.batch_size, shards)
        self.position += 1
        return drawn

    def truncate_labels(self, x: Tensor, y: Tensor, level: int) -> Tensor:
        """Subtracts the contributions of all levels above `level` from labels.

        Args:
            x: the inputs, shape (..., d).
            y: their labels, shape (...).
            level: the highest level that remains.
        """
        assert self._stream is not None
        with torch.autocast(x.device.type, enabled=False):
            higher = self._stream.target.level_outputs(x.reshape(-1, x.shape[-1]))[:, level:]
        return y - higher.sum(dim=1).reshape(y.shape)

    def draw_chunk(self, most: int, shards: range) -> StepChunk:
        """Draws the next training batches, at least one and at most `most`, from one block."""
        drawn = self._next_of_block(most, shards)
        return StepChunk(drawn.inputs, drawn.labels)

    def _next_of_block(self, most: int, shards: range) -> Batch:
        """The next batches, stacked along a leading axis.

        Blocks lie on a fixed grid, so that a resumed run draws bit-identical blocks.
        """
        assert self._stream is not None
        length = self.block_length
        number, offset = divmod(self.position, length)
        if self._block is None or self._block[0] != number:
            start = number * length
            drawn = self._stream.block(start, length, self.batch_size, shards)
            self._block = (number, drawn)
        block = self._block[1]
        rows = slice(offset, min(offset + most, length))
        drawn = Batch(*(column[rows] for column in block))
        self.position += len(drawn.labels)
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream and the tensors of the problem."""
        return {"position": self.position, "problem": self._problem.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position and the tensors, unless they belong to another target."""
        check_same_tensors(state_dict["problem"], self._problem.state_dict())
        self._problem.load_state_dict(state_dict["problem"])
        self.position = state_dict["position"]
        self._stream = self._block = None
        self._validation = {}

    @functools.cached_property
    def _problem(self) -> nn.ModuleList:
        return nn.ModuleList([self.target, self.labels])

    def _eval_requests(self, split: Split) -> BatchRequests:
        return BatchRequests(split, -(-self._counts[split] // self.eval_batch_size))


def check_same_tensors(stored: dict[str, Tensor], here: dict[str, Tensor]) -> None:
    """Checks that the tensors of a checkpoint are those built from the configuration.

    A relative difference of 1e-5 in the maximum norm is allowed, because the last bits of a
    decomposition depend on the machine.

    Raises:
        ValueError: if a tensor is missing, has another shape or differs by more.
    """
    for name in sorted({*stored, *here}):
        if name not in stored or name not in here or stored[name].shape != here[name].shape:
            raise ValueError(f"the checkpoint belongs to another target: {name} does not fit.")
        if not here[name].numel():
            continue
        expected = here[name].cpu()
        largest = expected.abs().max().clamp(min=1e-6)
        gap = float((stored[name].cpu() - expected).abs().max() / largest)
        if not gap <= _TENSOR_TOLERANCE:  # also true for NaN
            raise ValueError(
                f"the checkpoint belongs to another target: {name} differs by {gap:.1e} "
                f"(relative), more than {_TENSOR_TOLERANCE:.0e}."
            )
