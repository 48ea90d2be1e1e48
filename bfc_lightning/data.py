"""The data module: hands the sample stream to Lightning, batch by batch, and remembers where."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from bfc_lightning.labels import Labels
from bfc_lightning.stream import FiniteStream, SampleStream, Split, check_batch_size
from bfc_lightning.sync_points import SyncPoints
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch, StepChunk

_ENDLESS = 2**31 - 1
BLOCK_ROWS = 8192
_BLOCK_BATCHES = 64
_VISIT_SECONDS = 0.3
_KEPT_BYTES = 2**24
_TENSOR_TOLERANCE = 1e-5


class BatchRequest(NamedTuple):
    """Asks for one batch of a split; training asks for the next one, wherever the run is."""

    split: Split
    position: int | None


class BatchRequests:
    """A loader that yields requests; the samples themselves are drawn on the device.

    The data module keeps the position of a run; the loader has a state only so that Lightning
    knows that a run may go on in mid-epoch.

    Args:
        split: which split.
        count: how many batches; a training run goes on until `max_steps`.
    """

    def __init__(self, split: Split, count: int = _ENDLESS) -> None:
        self.split: Split = split
        self.count = count

    def __len__(self) -> int:
        """How many batches."""
        return self.count

    def __iter__(self) -> Iterator[BatchRequest]:
        """One request after another."""
        for index in range(self.count):
            yield BatchRequest(self.split, None if self.split == "train" else index)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class HierarchicalData(LightningDataModule):
    """Samples of a hierarchical target, fresh at every step or from a fixed training set.

    Args:
        target: G.
        labels: how G becomes labels.
        batch_size: of the global batch, over all devices; a multiple of `num_shards`.
        num_shards: equal parts of a global batch, each drawn from its own generator; a multiple of
            the number of processes. Changing it changes the stream.
        num_train_samples: size of a fixed training set that is seen over and over; fresh samples
            at every step where not given.
        num_val_samples: samples of the validation set, rounded up to whole batches.
        num_test_samples: samples of the test set, likewise.
        num_predict_samples: samples that `predict` writes, likewise.
        eval_batch_size: of the global batch outside training; a multiple of `num_shards`.
        seed: of the sample stream. The command line derives it from the run's seed; 0 where nobody
            gives one.

    Attributes:
        position: batches of the training stream that were handed out so far.
        sync_points: if given, training gets the batches of several optimizer steps at a time, up to
            the next sync point; otherwise one batch a step.
        reads_blocks: whether single batches of training are cut from the blocks that chunks are cut
            from, so that both are the same, bit for bit.

    Raises:
        ValueError: if a size is below 1 or the shards do not divide a batch.
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
        if num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {num_shards}.")
        check_batch_size(batch_size, num_shards)
        check_batch_size(eval_batch_size, num_shards, name="eval_batch_size")
        counts = {"val": num_val_samples, "test": num_test_samples, "predict": num_predict_samples}
        for split, count in {"train": num_train_samples, **counts}.items():
            if count is not None and count < 1:
                raise ValueError(f"num_{split}_samples must be at least 1, got {count}.")
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

    def setup(self, stage: str) -> None:
        """Gives every process rank 0's target, and checks that the shards can be shared out.

        Args:
            stage: Lightning's word for what comes.
        """
        if self.trainer is None:
            return
        self.check_processes(self.trainer.world_size)
        if self.trainer.world_size > 1:
            state = self._problem().state_dict()
            self._problem().load_state_dict(self.trainer.strategy.broadcast(state))

    def check_processes(self, world_size: int) -> None:
        """Refuses a number of processes that the shards can't be shared out among.

        Args:
            world_size: the number of processes.

        Raises:
            ValueError: if it does not divide the number of shards.
        """
        if self.num_shards % world_size:
            raise ValueError(
                "data.num_shards must be a multiple of the number of processes, "
                f"{world_size}, got {self.num_shards}."
            )

    def make_stream(
        self, device: torch.device | str, dtype: torch.dtype
    ) -> SampleStream | FiniteStream:
        """The stream of this problem where and in which precision samples are wanted.

        Args:
            device: where samples are drawn.
            dtype: of the samples.

        Returns:
            A stream over a copy of target and labels there.
        """
        stream = self.make_sample_stream(device, dtype)
        if self.num_train_samples is None:
            return stream
        return FiniteStream(stream, self.num_train_samples)

    def make_sample_stream(self, device: torch.device | str, dtype: torch.dtype) -> SampleStream:
        """The same with fresh samples in every split, also where the training set is fixed.

        Args:
            device: where samples are drawn.
            dtype: of the samples.

        Returns:
            A stream over a copy of target and labels there.
        """
        problem = copy.deepcopy(self._problem()).to(device=device, dtype=dtype)
        target, labels = problem[0], problem[1]
        assert isinstance(target, Target)
        assert isinstance(labels, Labels)
        return SampleStream(target, labels, seed=self.seed, num_shards=self.num_shards)

    def train_dataloader(self) -> BatchRequests:
        """Requests without end; the Trainer stops at `max_steps`."""
        return BatchRequests("train")

    def val_dataloader(self) -> BatchRequests:
        """Requests for the validation set, the same samples every time."""
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
        """Draws what was asked for, this process's shards of it.

        Args:
            batch: the request.
            dataloader_idx: Lightning's; there is one loader.

        Returns:
            The samples, on the device; those of several steps are drawn as they are used.
        """
        trainer = self.trainer
        assert trainer is not None
        module = trainer.lightning_module
        self.place_stream(module.device, next(module.parameters()).dtype)
        shards = range(trainer.global_rank, self.num_shards, trainer.world_size)
        if batch.position is None and self.sync_points is not None:
            most = self.sync_points.steps_until_next(trainer.global_step)
            return in_chunks(lambda steps: self.draw_chunk(steps, shards), most)
        return self.draw_batch(batch, shards)

    def place_stream(self, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the stream, once it is known where the learner lives.

        Args:
            device: of the learner.
            dtype: of its parameters.
        """
        if self._stream is None:
            self._stream = self.make_stream(device, dtype)

    def draw_batch(self, request: BatchRequest, shards: range) -> Batch:
        """The batch that is asked for; the next one of training.

        Args:
            request: of a split.
            shards: of this process.

        Returns:
            The samples.
        """
        assert self._stream is not None
        split, position = request
        if position is not None:
            if position in self._validation and split == "val":
                return self._validation[position]
            drawn = self._stream.batch(split, position, self.eval_batch_size, shards)
            if split == "val" and self.kept_bytes(drawn.inputs.element_size()):
                self._validation[position] = drawn
            return drawn
        if self.reads_blocks:
            return Batch(*(column[0] for column in self._next_of_block(1, shards)))
        drawn = self._stream.batch(split, self.position, self.batch_size, shards)
        self.position += 1
        return drawn

    def truncate_labels(self, batch: Batch, level: int) -> Batch:
        """A batch of training whose labels lack what levels above `level` add to them.

        Args:
            batch: of the training split.
            level: the highest one that is left.

        Returns:
            The batch; `signal` is still that of the whole target.
        """
        assert self._stream is not None
        with torch.autocast(batch.inputs.device.type, enabled=False):
            higher = self._stream.target.level_outputs(batch.inputs)[:, level:]
        return batch._replace(labels=batch.labels - higher.sum(dim=1))

    def kept_bytes(self, element_size: int) -> int:
        """Memory of the validation set, which is kept where it is small: it is the same every time.

        Args:
            element_size: bytes of a number.

        Returns:
            Bytes; 0 where it is drawn anew each time.
        """
        size = self._counts["val"] * (self.target.input_dim + 2) * element_size
        return size if size <= _KEPT_BYTES else 0

    def draw_chunk(self, most: int, shards: range) -> StepChunk:
        """The next batches of training, from one block of the stream.

        Args:
            most: at most so many.
            shards: of this process.

        Returns:
            At least one.
        """
        drawn = self._next_of_block(most, shards)
        return StepChunk(drawn.inputs, drawn.labels)

    def _next_of_block(self, most: int, shards: range) -> Batch:
        """The next batches, with a leading axis.

        Blocks lie on a fixed grid, so that a resumed run meets the same ones, bit for bit.
        """
        assert self._stream is not None
        length = max(1, min(_BLOCK_BATCHES, BLOCK_ROWS // self.batch_size))
        number, offset = divmod(self.position, length)
        if self._block is None or self._block[0] != number:
            start = number * length
            drawn = self._stream.block("train", start, length, self.batch_size, shards)
            self._block = (number, drawn)
        block = self._block[1]
        rows = slice(offset, min(offset + most, length))
        drawn = Batch(*(column[rows] for column in block))
        self.position += len(drawn.labels)
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and the tensors of the problem."""
        return {"position": self.position, "problem": self._problem().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a checkpoint stood, with the checkpoint's own tensors.

        Args:
            state_dict: from `state_dict`; `check_same_tensors` refuses that of another target.
        """
        check_same_tensors(state_dict["problem"], self._problem().state_dict())
        self._problem().load_state_dict(state_dict["problem"])
        self.position = state_dict["position"]
        self._stream = self._block = None
        self._validation = {}

    def _problem(self) -> nn.ModuleList:
        return nn.ModuleList([self.target, self.labels])

    def _eval_requests(self, split: Split) -> BatchRequests:
        return BatchRequests(split, -(-self._counts[split] // self.eval_batch_size))


def in_chunks(draw: Callable[[int], StepChunk], most: int) -> Iterator[StepChunk]:
    """Draws chunk after chunk, until there are enough batches or some time is over.

    Between two visits of the Trainer lie as many steps as possible, for its loop takes about a
    millisecond; but a signal or a bar should not have to wait for long. The first batch shows how
    long one takes.

    Args:
        draw: at least one batch, and at most so many.
        most: batches in all.

    Yields:
        Each chunk when it is wanted.
    """
    began, drawn, wanted = time.monotonic(), 0, 1
    while drawn < most:
        chunk = draw(min(wanted, most - drawn))
        drawn += len(chunk.labels)
        yield chunk
        seconds = time.monotonic() - began
        if seconds >= _VISIT_SECONDS:
            return
        wanted = max(1, int(drawn * (_VISIT_SECONDS / max(seconds, 1e-6) - 1)))


def check_same_tensors(
    stored: dict[str, Tensor], here: dict[str, Tensor], tolerance: float = _TENSOR_TOLERANCE
) -> None:
    """Refuses a checkpoint of another problem.

    A singular value decomposition differs in its last bits between machines, hence the tolerance.

    Args:
        stored: tensors of the checkpoint.
        here: tensors made here from the configuration.
        tolerance: largest relative difference allowed, in the maximum norm.

    Raises:
        ValueError: if a tensor is missing, has another shape or differs by more.
    """
    for name in sorted({*stored, *here}):
        if name not in stored or name not in here or stored[name].shape != here[name].shape:
            raise ValueError(f"the checkpoint belongs to another target: {name} does not fit.")
        gap = _relative_gap(stored[name].cpu(), here[name].cpu())
        if not gap <= tolerance:  # NaN, too
            raise ValueError(
                f"the checkpoint belongs to another target: {name} differs by {gap:.1e} relative, "
                f"more than {tolerance:.0e}."
            )


def _relative_gap(stored: Tensor, here: Tensor) -> float:
    if not here.numel():
        return 0.0
    return float((stored - here).abs().max() / here.abs().max().clamp(min=1e-6))
