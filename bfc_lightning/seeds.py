"""Seeds: every random number comes from a generator seeded with a hash of (seed, names)."""

import hashlib
from typing import SupportsIndex

import torch
from jaxtyping import Int64
from torch import Tensor

from bfc_lightning.types import as_integer

_HALF, _WORD = 0xFFFF, 0xFFFFFFFF
_ROUNDS = 4


def derive_seed(seed: SupportsIndex, *names: str | SupportsIndex) -> int:
    """Derives the seed of one use of randomness from the seed of a run.

        derived = first 63 bits of BLAKE2b(seed, name_1, name_2, ...)

    Nearby seeds and nearby names give unrelated streams. A new name changes no existing stream.

    Args:
        seed: any integer.
        names: strings and integers that identify the use, e.g. `"target", "weights", 2`.
    """
    parts = [
        f"str:{name}" if isinstance(name, str) else f"int:{as_integer(name, 'name of a seed')}"
        for name in names
    ]
    text = "\x1f".join([f"int:{as_integer(seed, 'seed')}", *parts])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(
    seed: SupportsIndex, *names: str | SupportsIndex, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Creates a generator on a device, seeded with `derive_seed(seed, *names)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def counter_seeds(key: int, counters: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Seeds of members of a family of distinct seeds.

    PyTorch's CPU generator keeps only the low 32 bits of its seed. Hashed seeds would therefore
    collide: among a million draws, about a hundred would be repeats. This function is a four-round
    Feistel permutation of 32 bits under `key`, so 2^32 consecutive counters give 2^32 different
    seeds.

    Source: M. Luby, C. Rackoff, "How to construct pseudorandom permutations" (1988).

    Args:
        key: identifies the family, from `derive_seed`.
        counters: indices of the members, in [0, 2^32).
    """
    left, right = counters >> 16, counters & _HALF
    for round_ in range(_ROUNDS):
        mixed = (right * 0x9E3779B1 + ((key >> (15 * round_)) & _WORD) + round_) & _WORD
        mixed = ((mixed ^ (mixed >> 15)) * 0x85EBCA6B) & _WORD  # int64 wraps, low bits are right
        left, right = right, left ^ (mixed >> 16)
    return (left << 16) | right
