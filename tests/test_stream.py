"""The sample stream: the same batch for whoever asks, and no sample twice."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch

from bfc_lightning.inputs import Gaussian
from bfc_lightning.labels import Classification, Regression
from bfc_lightning.stream import FiniteStream, SampleStream, Split
from bfc_lightning.targets import HierarchicalTarget, Target


class Linear(Target):
    """G(x) = x_1 + 2 x_2; its moments are known, so that it costs nothing."""

    def __init__(self, inputs):
        super().__init__(inputs)
        self.mean.fill_(0.0)
        self.variance.fill_(5.0)

    def forward(self, x):
        return x[:, 0] + 2 * x[:, 1]


def stream(seed=0, num_shards=4, noise_std=0.5):
    distribution = Gaussian(3)
    return SampleStream(
        Linear(distribution),
        Regression(distribution, noise_std=noise_std),
        seed=seed,
        num_shards=num_shards,
    )


def same(one, other):
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def joined(batches):
    return [torch.cat(column) for column in zip(*batches, strict=True)]


def correlation(one, other):
    return abs(np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1])


def num_different_rows(*inputs):
    return len(torch.unique(torch.cat(inputs), dim=0))


# Fresh samples


def test_batch_holds_inputs_signal_and_noisy_labels():
    x, labels, signal = stream().batch("train", 3, 4000)
    assert x.shape == (4000, 3)
    torch.testing.assert_close(signal, x[:, 0] + 2 * x[:, 1])
    noise = (labels - signal) / (0.5 * 5**0.5)
    # n = 4000: standard errors 0.016 and 0.011
    assert abs(float(noise.mean())) < 0.08
    assert float(noise.std()) == pytest.approx(1, abs=0.06)


def test_labels_are_noise_free_regression_by_default():
    target = Linear(Gaussian(3))
    x, labels, signal = SampleStream(target).batch("val", 0, 8)
    assert torch.equal(labels, target(x))
    assert torch.equal(signal, target(x))


def test_batch_is_a_pure_function_of_what_is_asked_for():
    requests = [("train", 0), ("train", 7), ("val", 0), ("test", 7), ("train", 123456)]
    one, other = stream(), stream()
    first = [one.batch(split, index, 16) for split, index in requests]
    again = [one.batch(split, index, 16) for split, index in reversed(requests)][::-1]
    elsewhere = [other.batch(split, index, 16) for split, index in requests]
    for batch, repeated, foreign in zip(first, again, elsewhere, strict=True):
        assert same(batch, repeated)
        assert same(batch, foreign)


def test_batch_neither_reads_nor_moves_the_global_generator():
    before = torch.get_rng_state()
    first = stream().batch("train", 0, 16)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert same(first, stream().batch("train", 0, 16))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("make", [stream, lambda: finite(100, num_shards=4)])
def test_ranks_together_draw_the_global_batch_and_no_sample_twice(num_ranks, make):
    whole = make().batch("train", 5, 32)
    ranks = [make().batch("train", 5, 32, range(r, 4, num_ranks)) for r in range(num_ranks)]
    shards = [None] * 4
    for rank, batch in enumerate(ranks):
        pieces = [column.split(8) for column in batch]
        for position, shard in enumerate(range(rank, 4, num_ranks)):
            shards[shard] = [column[position] for column in pieces]
    assert same(whole, joined(shards))
    assert num_different_rows(*(batch.inputs for batch in ranks)) == 32


def test_shards_come_in_the_order_asked_for():
    one = stream().batch("train", 0, 16, [2])
    two = stream().batch("train", 0, 16, [0])
    assert same(stream().batch("train", 0, 16, [2, 0]), joined([one, two]))


def test_shards_batches_splits_and_seeds_are_independent():
    size = 4 * 2000
    drawn = {
        **{f"shard {s}": stream().batch("train", 0, size, [s]).inputs for s in range(4)},
        **{f"batch {i}": stream().batch("train", i, size, [0]).inputs for i in (1, 2, 256, 2**20)},
        **{
            name: stream().batch(name, 0, size, [0]).inputs
            for name in ("train_set", "val", "test", "predict", "measure")
        },
        **{f"seed {n}": stream(seed=n).batch("train", 0, size, [0]).inputs for n in (1, 2, -1)},
    }
    for (one, left), (other, right) in itertools.combinations(drawn.items(), 2):
        # n = 6000 and 120 pairs: the correlation has standard deviation 0.013
        assert correlation(left, right) < 0.06, (one, other)
        assert correlation(left.abs(), right.abs()) < 0.06, (one, other)
    assert num_different_rows(*drawn.values()) == 2000 * len(drawn)


def test_inputs_and_noise_of_a_batch_are_independent():
    x, labels, signal = stream().batch("train", 0, 8000)
    for column in x.T:
        # n = 8000: standard deviation 0.011
        assert correlation(column, labels - signal) < 0.05


def test_stream_follows_its_target_s_dtype():
    distribution = Gaussian(3).to(torch.float32)
    batch = SampleStream(Linear(distribution).to(torch.float32)).batch("train", 0, 8)
    assert {column.dtype for column in batch} == {torch.float32}


def test_stream_ends_where_its_seeds_do():
    assert stream().batch("predict", 2**27 - 1, 4).inputs.shape == (4, 3)


def test_no_split_shares_a_generator_with_another():
    seeds = set()
    for split in get_args(Split):
        source = stream()
        for index in (0, 1, 2**27 - 1):
            for shard in range(4):
                source.batch(split, index, 4, [shard])
                seeds.add(source._pool[0].initial_seed())
    assert len(seeds) == len(get_args(Split)) * 3 * 4


# A fixed training set


def finite(num_samples, num_shards=2, seed=0):
    return FiniteStream(stream(seed=seed, num_shards=num_shards), num_samples)


def visited(fixed, batch):
    """Which samples of the set a batch holds, checking that labels stay with their inputs."""
    rows = []
    for x, label, signal in zip(*batch, strict=True):
        (row,) = torch.nonzero((fixed.train_set.inputs == x).all(dim=1))[:, 0].tolist()
        assert label == fixed.train_set.labels[row]
        assert signal == fixed.train_set.signal[row]
        rows.append(row)
    return rows


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 20)])
def test_every_pass_visits_each_sample_once_with_batches_running_across_passes(size, batch_size):
    fixed, batches = finite(size), range(4 * size // batch_size)
    rows = [row for i in batches for row in visited(fixed, fixed.batch("train", i, batch_size))]
    passes = [rows[start : start + size] for start in range(0, 4 * size, size)]
    for seen in passes:
        assert sorted(seen) == list(range(size))
    assert len({tuple(seen) for seen in passes}) == 4


def test_order_follows_the_seed_and_differs_between_passes():
    rows = {
        seed: visited(fixed := finite(20, seed=seed), fixed.batch("train", 0, 40))
        for seed in (0, 1)
    }
    assert rows[0] != rows[1]
    assert rows[0][:20] != rows[0][20:]
    assert rows[0] != [*range(20), *range(20)]


def test_finite_set_is_the_stream_s_own_split():
    fixed = finite(5000)  # more than are drawn at once
    assert num_different_rows(fixed.train_set.inputs) == 5000
    assert len(fixed.train_set.labels) == len(fixed.train_set.signal) == 5000
    fresh = joined([stream(num_shards=2).batch("train_set", index, 4096) for index in (0, 1)])
    assert same(fixed.train_set, [column[:5000] for column in fresh])


def test_other_splits_stay_fresh():
    fixed, fresh = finite(10), stream(num_shards=2)
    for split in ("val", "test", "predict", "measure"):
        batch = fixed.batch(split, 3, 8)
        assert same(batch, fresh.batch(split, 3, 8))
        assert num_different_rows(fixed.train_set.inputs, batch.inputs) == 18


# Many batches at once


def stacked(batches):
    return [torch.stack(column) for column in zip(*batches, strict=True)]


class Jittered(Regression):
    """Noise of its own, though `noise_std` is 0."""

    def observe(self, target, signal, random):
        return signal + torch.rand(signal.shape, generator=random, dtype=signal.dtype)


BLOCKS = [
    pytest.param(0, 5, 16, None, id="whole batches"),
    pytest.param(7, 3, 16, [2, 0], id="two shards, in another order"),
    pytest.param(2, 4, 4, [3], id="one sample of each"),
    pytest.param(100, 2, 4000, range(1, 4, 2), id="large batches"),
]


@pytest.mark.parametrize("noise_std", [0.0, 0.5])
@pytest.mark.parametrize(("start", "count", "batch_size", "shards"), BLOCKS)
def test_block_is_its_batches_to_the_bit(start, count, batch_size, shards, noise_std):
    """The signal here is computed row by row, so that labels show whether the noise is the same."""
    one, other = stream(noise_std=noise_std), stream(noise_std=noise_std)
    block = one.block(start, count, batch_size, shards)
    numbers = range(start, start + count)
    assert same(block, stacked(other.batch("train", i, batch_size, shards) for i in numbers))


@pytest.mark.parametrize("labels", [Regression, Classification])
def test_block_of_a_hierarchical_target_is_its_batches_to_rounding(labels):
    kind = labels(Gaussian(6))
    fresh = SampleStream(
        HierarchicalTarget(kind.target_distribution, [4, 3, 2], seed=1), kind, seed=2
    )
    block = fresh.block(5, 8, 64)
    x, y, signal = stacked(fresh.batch("train", i, 64) for i in range(5, 13))
    assert torch.equal(block.inputs, x)
    torch.testing.assert_close(block.signal, signal, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(block.labels, y, rtol=1e-13, atol=1e-13)


def test_block_of_labels_that_draw_by_themselves_is_its_batches():
    labels = Jittered(Gaussian(3))
    fresh = SampleStream(Linear(labels.inputs), labels, seed=3)
    assert same(fresh.block(1, 3, 8), stacked(fresh.batch("train", i, 8) for i in (1, 2, 3)))


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("shards", [None, [0]])
@pytest.mark.parametrize("num_samples", [3, 10, 50])
def test_block_of_a_finite_set_is_its_batches_in_any_order(num_samples, num_shards, shards):
    fixed, other = (finite(num_samples, num_shards=num_shards) for _ in range(2))
    block = fixed.block(2, 7, 6, shards)
    assert same(fixed.block(2, 7, 6, shards), block)
    backwards = [other.batch("train", i, 6, shards) for i in reversed(range(2, 9))]
    assert same(block, stacked(backwards[::-1]))
