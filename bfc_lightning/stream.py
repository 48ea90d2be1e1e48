"""The sample stream: batch i of a split is a pure function of (seed, split, shard, i)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from bfc_lightning.labels import Labels, Regression
from bfc_lightning.seeds import counter_seed, derive_seed, generator
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch

# The order is part of every stream: new splits come last, and there is room for eight.
Split = Literal["train", "train_set", "val", "test", "predict", "measure"]
_SPLIT_SIZE = 2**29


class SampleStream:
    """Fresh samples without end, the same ones for everybody who asks for the same batch.

    A global batch is made of `num_shards` equal shards. Shard s of batch i of the p-th split draws
    from a generator whose seed is member 2^29 p + i num_shards + s of a family named by the seed,
    in which no two are alike: no batch, shard or split repeats another. So any number of
    processes that divides `num_shards` sees the same global batches, and a run that stopped goes
    on at batch i.

    Samples are drawn where target and labels are, and in their dtype. Another number of shards,
    device type or dtype gives another stream.

    Source: ours.

    Args:
        target: G.
        labels: how G becomes labels; noise-free regression on the target's own law by default.
        seed: of the stream.
        num_shards: shards of a global batch, at least 1.

    Raises:
        ValueError: if `num_shards` is below 1.
    """

    def __init__(
        self, target: Target, labels: Labels | None = None, *, seed: int = 0, num_shards: int = 4
    ) -> None:
        if num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {num_shards}.")
        target.require_moments()
        self.target = target
        self.labels = Regression(target.inputs) if labels is None else labels
        self.seed = seed
        self.num_shards = num_shards
        self._key = derive_seed(seed, "stream")
        self._random = torch.Generator(device=target.mean.device)
        self._pool: list[torch.Generator] = []

    def batch(
        self, split: Split, index: int, batch_size: int, shards: Sequence[int] | None = None
    ) -> Batch:
        """Batch `index` of a split, or some of its shards.

        Args:
            split: `train`, `val`, `test`, `predict`, ...; splits share no sample.
            index: i, from 0; i num_shards must stay below 2^29.
            batch_size: of the global batch; a multiple of `num_shards`, or `check_batch_size`
                refuses it.
            shards: which shards, in this order; all by default.

        Returns:
            The samples of those shards, one shard after another.
        """
        check_batch_size(batch_size, self.num_shards)
        chosen = range(self.num_shards) if shards is None else shards
        size = batch_size // self.num_shards
        parts = [self._shard(split, index, shard, size) for shard in chosen]
        return Batch(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def block(
        self,
        split: Split,
        start: int,
        count: int,
        batch_size: int,
        shards: Sequence[int] | None = None,
    ) -> Batch:
        """Batches start, ..., start + count - 1 at once, with one evaluation of the target.

        The draws are those of `batch`; the target's values may differ in their last bits, since
        matrix products of other sizes add in another order. The same block gives the same bits.

        Args:
            split: as in `batch`.
            start: the first batch.
            count: how many, at least 1.
            batch_size: of each global batch.
            shards: which shards of each; all by default.

        Returns:
            The samples with a leading axis of batches, shapes (count, n, ...).
        """
        check_batch_size(batch_size, self.num_shards)
        chosen = range(self.num_shards) if shards is None else shards
        size = batch_size // self.num_shards
        drawn = [(index, shard) for index in range(start, start + count) for shard in chosen]
        while len(self._pool) < len(drawn):
            self._pool.append(torch.Generator(device=self.target.mean.device))
        pool = self._pool[: len(drawn)]
        for random, (index, shard) in zip(pool, drawn, strict=True):
            random.manual_seed(self._shard_seed(split, index, shard))
        x = self.labels.inputs.sample_parts(size, pool)
        signal = self.labels.signal(self.target, x)
        if self.labels.is_random:
            parts = zip(torch.split(signal, size), pool, strict=True)
            y = torch.cat([self.labels.observe(self.target, *part) for part in parts])
        else:
            y = self.labels.observe(self.target, signal, self._random)
        return Batch(*(column.reshape(count, -1, *column.shape[1:]) for column in (x, y, signal)))

    def _shard_seed(self, split: Split, index: int, shard: int) -> int:
        counter = index * self.num_shards + shard
        if not 0 <= counter < _SPLIT_SIZE:
            raise ValueError(f"index must lie in [0, 2^29 / num_shards), got {index}.")
        return counter_seed(self._key, counter + _SPLIT_SIZE * get_args(Split).index(split))

    def _shard(self, split: Split, index: int, shard: int, size: int) -> Batch:
        self._random.manual_seed(self._shard_seed(split, index, shard))
        with torch.no_grad():
            x = self.labels.inputs.sample(size, self._random)
            signal = self.labels.signal(self.target, x)
            return Batch(x, self.labels.observe(self.target, signal, self._random), signal)


class FiniteStream:
    """A fixed training set, seen over and over, each time in a new order.

    The set is drawn once, from split `train_set` of a `SampleStream`. Pass e goes through it in the
    order of a permutation from (seed, `order`, e). Batches run on across passes: batch i takes the
    positions i B, ..., (i + 1) B - 1 of all passes laid end to end.

    Source: ours.

    Args:
        stream: where the samples come from; its other splits stay fresh.
        num_samples: size of the set, at least 1.

    Raises:
        ValueError: if `num_samples` is below 1.
    """

    _DRAW = 4096

    def __init__(self, stream: SampleStream, num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError(f"num_train_samples must be at least 1, got {num_samples}.")
        self.stream = stream
        self.target = stream.target
        self.num_samples = num_samples
        step = stream.num_shards * (-(-self._DRAW // stream.num_shards))
        drawn = stream.batch("train_set", 0, step)
        # Before the rest is drawn: what is too large for the memory is refused at once.
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
        """Like `SampleStream.batch`, with split `train` taken from the fixed set."""
        if split != "train":
            return self.stream.batch(split, index, batch_size, shards)
        rows = self._batch_rows(index, batch_size, shards).to(self.train_set.inputs.device)
        return Batch(*(column[rows] for column in self.train_set))

    def block(
        self,
        split: Split,
        start: int,
        count: int,
        batch_size: int,
        shards: Sequence[int] | None = None,
    ) -> Batch:
        """Like `SampleStream.block`, with split `train` taken from the fixed set, bit for bit."""
        if split != "train":
            return self.stream.block(split, start, count, batch_size, shards)
        indices = range(start, start + count)
        rows = torch.stack([self._batch_rows(index, batch_size, shards) for index in indices])
        rows = rows.to(self.train_set.inputs.device)
        return Batch(*(column[rows] for column in self.train_set))

    def _batch_rows(
        self, index: int, batch_size: int, shards: Sequence[int] | None
    ) -> torch.Tensor:
        check_batch_size(batch_size, self.stream.num_shards)
        size = batch_size // self.stream.num_shards
        chosen = range(self.stream.num_shards) if shards is None else shards
        start = index * batch_size
        return torch.cat([
            self._rows(start + shard * size, start + (shard + 1) * size) for shard in chosen
        ])

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """The samples at positions start..stop-1 of the passes laid end to end."""
        passes = range(start // self.num_samples, (stop - 1) // self.num_samples + 1)
        laid = torch.cat([self._order(number) for number in passes])
        offset = passes.start * self.num_samples
        return laid[start - offset : stop - offset]

    def _order(self, number: int) -> torch.Tensor:
        if number not in self._orders:
            for old in [known for known in self._orders if known < number - 1]:
                del self._orders[old]
            random = generator(self.stream.seed, "order", number)
            self._orders[number] = torch.randperm(self.num_samples, generator=random)
        return self._orders[number]


def check_batch_size(batch_size: int, num_shards: int, name: str = "batch_size") -> None:
    """Refuses a batch that its shards do not divide.

    Source: ours.

    Args:
        batch_size: of the global batch.
        num_shards: its number of shards.
        name: of the setting, for the message.

    Raises:
        ValueError: if the batch is empty or no multiple of the shards.
    """
    if batch_size < 1 or batch_size % num_shards:
        raise ValueError(
            f"{name} must be a positive multiple of num_shards = {num_shards}, got {batch_size}."
        )
