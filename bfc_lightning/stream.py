"""Sample streams: batch i of a split is a pure function of (seed, split, shard, i)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from bfc_lightning.labels import Labels, Regression
from bfc_lightning.seeds import counter_seeds, derive_seed, generator
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch, as_integer

# The order determines the seeds. Append new splits at the end; there can be at most eight.
Split = Literal["train", "train_set", "val", "test", "predict", "measure"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_SPLIT_SIZE = 2**29


class SampleStream:
    """An infinite stream of samples, in which each batch depends only on its index.

    A global batch consists of `num_shards` equal shards. The generator of shard s of batch i of the
    p-th split is seeded with `counter_seeds(key, 2^29 p + i num_shards + s)`, and `key` depends on
    `seed`. These seeds are distinct, so no shard repeats another. The global batches are the same
    for any number of processes that divides `num_shards`. A run can be resumed at any batch.

    Samples have the device and dtype of the target and the labels. The stream depends on the number
    of shards, the device type and the dtype.

    Args:
        target: G.
        labels: computes the labels from G. Noise-free regression on `target.inputs` by default.
        seed: seed of the stream.
        num_shards: number of shards of a global batch, at least 1.

    Raises:
        ValueError: if `num_shards` is below 1.
    """

    def __init__(
        self, target: Target, labels: Labels | None = None, *, seed: int = 0, num_shards: int = 4
    ) -> None:
        self.seed = as_integer(seed, "seed")
        self.num_shards = as_integer(num_shards, "num_shards", least=1)
        target.require_moments()
        self.target = target
        self.labels = Regression(target.inputs) if labels is None else labels
        self._key = derive_seed(seed, "stream")
        self._pool: list[torch.Generator] = []

    @torch.no_grad()
    def batch(
        self, split: Split, index: int, batch_size: int, shards: Sequence[int] | None = None
    ) -> Batch:
        """Draws batch `index` of a split, or some of its shards.

        Args:
            split: name of the split, e.g. `train` or `val`. Splits share no samples.
            index: i, from 0 to 2^29 / `num_shards` - 1.
            batch_size: size of the global batch, a multiple of `num_shards`.
            shards: numbers of the shards. All by default.

        Returns:
            The samples of the shards, in the given order.
        """
        index = as_integer(index, "index")
        size, chosen = _shards_of_batch(batch_size, self.num_shards, shards)
        pool = self._generators(split, range(index, index + 1), chosen)
        parts = [self._shard(random, size) for random in pool]
        return Batch(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def block(
        self, start: int, count: int, batch_size: int, shards: Sequence[int] | None = None
    ) -> Batch:
        """Draws several consecutive batches of training with one evaluation of the target.

        The inputs equal those of `batch`. The values of the target may differ by rounding. The same
        arguments give bitwise equal results.

        Args:
            start: index of the first batch.
            count: number of batches, at least 1.
            batch_size: size of each global batch, a multiple of `num_shards`.
            shards: numbers of the shards of each batch. All by default.

        Returns:
            The samples with a leading axis of batches, shapes (count, n, ...).
        """
        start, count = as_integer(start, "start"), as_integer(count, "count")
        size, chosen = _shards_of_batch(batch_size, self.num_shards, shards)
        pool = self._generators("train", range(start, start + count), chosen)
        x = self.labels.inputs.sample_parts(size, pool)
        signal = self.labels.signal(self.target, x)
        if self.labels.is_random:
            parts = zip(torch.split(signal, size), pool, strict=True)
            y = torch.cat([self.labels.observe(self.target, *part) for part in parts])
        else:
            y = self.labels.observe(self.target, signal, pool[0])
        return Batch(*(column.reshape(count, -1, *column.shape[1:]) for column in (x, y, signal)))

    def _generators(
        self, split: Split, indices: range, shards: Sequence[int]
    ) -> list[torch.Generator]:
        """The seeded generators of all shards of all batches, batch by batch.

        Raises:
            ValueError: if an index is out of range.
        """
        if indices.start < 0 or indices.stop > _SPLIT_SIZE // self.num_shards:
            wrong = indices.start if indices.start < 0 else indices.stop - 1
            raise ValueError(f"index must lie in [0, 2^29 / num_shards), got {wrong}.")
        first = torch.tensor(indices) * self.num_shards + _SPLIT_SIZE * _SPLITS.index(split)
        seeds = counter_seeds(self._key, first.unsqueeze(1) + torch.tensor(shards)).flatten()
        while len(self._pool) < len(seeds):
            self._pool.append(torch.Generator(device=self.target.mean.device))
        pool = self._pool[: len(seeds)]
        for random, seed in zip(pool, seeds.tolist(), strict=True):
            random.manual_seed(seed)
        return pool

    def _shard(self, random: torch.Generator, size: int) -> Batch:
        x = self.labels.inputs.sample(size, random)
        signal = self.labels.signal(self.target, x)
        return Batch(x, self.labels.observe(self.target, signal, random), signal)


class FiniteStream:
    """A fixed training set, repeated in epochs, each in a new order.

    The set is drawn once, from split `train_set` of a `SampleStream`. Epoch e visits its samples in
    the order of a permutation derived from (seed, `order`, e). Batches may span epochs: batch i of
    size B contains the positions i B, ..., (i + 1) B - 1 of the concatenated epochs.

    Args:
        stream: stream from which the set is drawn. All other splits are those of the stream.
        num_samples: number of samples of the set, at least 1.

    Raises:
        ValueError: if `num_samples` is below 1.
    """

    _DRAW = 4096

    def __init__(self, stream: SampleStream, num_samples: int) -> None:
        self.num_samples = num_samples = as_integer(num_samples, "num_train_samples", least=1)
        self.stream = stream
        self.target = stream.target
        step = stream.num_shards * (-(-self._DRAW // stream.num_shards))
        drawn = stream.batch("train_set", 0, step)
        # Allocate the whole set before drawing it, so that running out of memory shows at once.
        self.train_set = Batch(*(part.new_empty(num_samples, *part.shape[1:]) for part in drawn))
        for start in range(0, num_samples, step):
            if start:
                drawn = stream.batch("train_set", start // step, step)
            for kept, part in zip(self.train_set, drawn, strict=True):
                kept[start : start + step] = part[: num_samples - start]
        self._orders: dict[int, torch.Tensor] = {}

    def batch(
        self, split: Split, index: int, batch_size: int, shards: Sequence[int] | None = None
    ) -> Batch:
        """Like `SampleStream.batch`, but split `train` is read from the fixed set."""
        if split != "train":
            return self.stream.batch(split, index, batch_size, shards)
        rows = self._batch_rows(index, batch_size, shards).to(self.train_set.inputs.device)
        return Batch(*(column[rows] for column in self.train_set))

    def block(
        self, start: int, count: int, batch_size: int, shards: Sequence[int] | None = None
    ) -> Batch:
        """Like `SampleStream.block`, but bitwise equal to the batches."""
        start, count = as_integer(start, "start"), as_integer(count, "count")
        indices = range(start, start + count)
        rows = torch.stack([self._batch_rows(index, batch_size, shards) for index in indices])
        rows = rows.to(self.train_set.inputs.device)
        return Batch(*(column[rows] for column in self.train_set))

    def _batch_rows(
        self, index: int, batch_size: int, shards: Sequence[int] | None
    ) -> torch.Tensor:
        size, chosen = _shards_of_batch(batch_size, self.stream.num_shards, shards)
        start = as_integer(index, "index") * size * self.stream.num_shards
        return torch.cat([
            self._rows(start + shard * size, start + (shard + 1) * size) for shard in chosen
        ])

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Returns the samples at positions start..stop-1 of the concatenated epochs."""
        epochs = range(start // self.num_samples, (stop - 1) // self.num_samples + 1)
        rows = torch.cat([self._order(epoch) for epoch in epochs])
        offset = epochs.start * self.num_samples
        return rows[start - offset : stop - offset]

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch not in self._orders:
            for old in [known for known in self._orders if known < epoch - 1]:
                del self._orders[old]
            random = generator(self.stream.seed, "order", epoch)
            self._orders[epoch] = torch.randperm(self.num_samples, generator=random)
        return self._orders[epoch]


def check_batch_size(batch_size: int, num_shards: int, name: str = "batch_size") -> None:
    """Checks that a batch can be divided into equal shards. `name` is that of `batch_size`.

    Raises:
        ValueError: if `batch_size` is not a positive multiple of `num_shards`.
    """
    batch_size = as_integer(batch_size, name)
    if batch_size < 1 or batch_size % num_shards:
        raise ValueError(
            f"{name} must be a positive multiple of num_shards = {num_shards}, got {batch_size}."
        )


def _shards_of_batch(
    batch_size: int, num_shards: int, shards: Sequence[int] | None
) -> tuple[int, list[int]]:
    """Returns the size of a shard and the numbers of the requested shards."""
    check_batch_size(batch_size, num_shards)
    chosen = range(num_shards) if shards is None else shards
    size = as_integer(batch_size, "batch_size") // num_shards
    return size, [as_integer(shard, "shard") for shard in chosen]
