"""Seeds."""

import numpy as np
import pytest
import torch
from scipy import stats

from bfc_lightning.seeds import counter_seeds, derive_seed, generator


def test_derived_seeds_never_change():
    # Frozen: another number here means that every published run has lost its seed.
    assert derive_seed(0, "inputs") == 6433559769241196199
    assert derive_seed(0, "target", "weights", 2) == 6298733435708889367
    assert derive_seed(-1) == 4378363081926956612


def test_counter_seeds_never_change():
    seeds = counter_seeds(derive_seed(0, "train"), torch.tensor([0, 1, 2**32 - 1]))
    assert seeds.tolist() == [613666419, 4067330630, 1294817414]


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 2), (1, "2")), ((1, "ab"), (1, "a", "b")), ((1, "a", "b"), (1, "b", "a")), ((1,), (-1,))],
)
def test_seeds_tell_types_order_and_splits_of_names_apart(one, other):
    assert derive_seed(*one) != derive_seed(*other)


def test_generator_repeats_itself_and_no_other_name():
    first = torch.randn(4000, generator=generator(3, "weights", 1))
    again = torch.randn(4000, generator=generator(3, "weights", 1))
    other = torch.randn(4000, generator=generator(3, "weights", 2))
    assert torch.equal(first, again)
    # n = 4000: the correlation of independent numbers has standard deviation 0.016
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.06


@pytest.mark.parametrize("start", [0, 2**32 - 2**17])
def test_counter_seeds_are_all_different(start):
    # 2^17 random 32-bit numbers hold two repeats on average, hashed ones as well
    key = derive_seed(7, "train")
    seeds = set(counter_seeds(key, torch.arange(start, start + 2**17)).tolist())
    assert len(seeds) == 2**17
    assert min(seeds) >= 0
    assert max(seeds) < 2**32


def test_counter_seeds_look_random():
    key = derive_seed(7, "train")
    seeds = counter_seeds(key, torch.arange(20000)).numpy() / 2**32
    assert stats.kstest(seeds, "uniform").pvalue > 1e-3
    # n = 20000: a correlation has standard deviation 0.007
    assert abs(np.corrcoef(seeds[1:], seeds[:-1])[0, 1]) < 0.03


def test_numpy_integers_give_the_seeds_of_ints():
    assert derive_seed(np.int64(3), "layer", np.int32(2)) == derive_seed(3, "layer", 2)
    draws = [torch.rand(3, generator=generator(seed, "x")) for seed in (np.uint8(7), 7)]
    assert torch.equal(*draws)
