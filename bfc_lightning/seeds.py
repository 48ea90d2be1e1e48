"""Seeds: every random number comes from a generator named by a hash of (seed, names)."""

import hashlib

import torch

_HALF = 0xFFFF
_ROUNDS = 4


def derive_seed(seed: int, *names: str | int) -> int:
    """The seed of what `names` names, in a run with this seed.

        derived = first 63 bits of BLAKE2b(seed, name_1, name_2, ...)

    Names keep uses apart: nearby seeds and nearby names give unrelated streams, and a new use
    changes no old one.

    Source: ours.

    Args:
        seed: any int.
        names: what the seed is for, e.g. `"target", "weights", 2`.

    Returns:
        An int in [0, 2^63).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for what `names` names.

    Source: ours.

    Args:
        seed: any int.
        names: what the numbers are for.
        device: where the numbers are drawn.

    Returns:
        A generator seeded with `derive_seed(seed, *names)`.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def counter_seed(key: int, counter: int) -> int:
    """The seed of the `counter`-th member of a family, no two alike.

    PyTorch's CPU generator keeps only the low 32 bits of its seed. Hashed seeds would therefore
    collide: of a million draws, about a hundred would be repeats. This is a four-round Feistel
    permutation of 32 bits under `key`, so 2^32 consecutive counters give 2^32 different seeds.

    Source: M. Luby, C. Rackoff, "How to construct pseudorandom permutations" (1988).

    Args:
        key: names the family, from `derive_seed`.
        counter: the member, in [0, 2^32).

    Returns:
        An int in [0, 2^32).

    Raises:
        ValueError: if the counter is outside [0, 2^32).
    """
    if not 0 <= counter < 1 << 32:
        raise ValueError(f"counter must lie in [0, 2^32), got {counter}.")
    left, right = counter >> 16, counter & _HALF
    for round_ in range(_ROUNDS):
        mixed = (right * 0x9E3779B1 + (key >> (15 * round_)) + round_) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * 0x85EBCA6B) & 0xFFFFFFFF
        left, right = right, left ^ (mixed >> 16)
    return (left << 16) | right
