"""Resolves presets, ratios and lists to the parameters of a hierarchical target."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from bfc_lightning.inputs import haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.types import as_integer

Weights = list[list[list[list[float]]]]


def root_widths(input_dim: int, depth: int) -> list[int]:
    """Returns k_l = max(2, round(d^(1/2^l))), l = 1..L.

    Each width is about the square root of the width below. For such widths and the gaps of
    `root_scales`, Theorem 1 requires much narrower levels, see `theorem_widths`.
    """
    return [max(2, round(input_dim ** (1 / 2**level))) for level in range(1, depth + 1)]


def root_scales(input_dim: int, depth: int) -> list[float]:
    """Returns alpha_1 = 1, alpha_{l+1} = alpha_l d^(-1/2^l).

    Each scale is divided by the width of its level, i.e. by k_l of `root_widths` before rounding.
    """
    scales = [1.0]
    for level in range(1, depth):
        scales.append(scales[-1] * input_dim ** (-1 / 2**level))
    return scales


def theorem_widths(input_dim: int, depth: int, *, constants: tuple[float, float]) -> list[int]:
    """Returns k_l = floor(d^(1/C^(l + C_1))), l = 2..L, the largest widths of Theorem 1.

    The bound d^(1/C^(l + C_1)) is at least 1. It is below 2 for all d < 2^(C^(2 + C_1)), which is
    more than 2^16 for all valid constants. In practice, all widths are therefore 1.

    Source: Allen-Zhu and Li, arXiv 2001.04413, Theorem 1.
    """
    bounds = (input_dim ** constants[0] ** -(level + constants[1]) for level in range(2, depth + 1))
    return [math.floor(bound + 1e-9) for bound in bounds]


def theorem_scales(input_dim: int, depth: int, *, constants: tuple[float, float]) -> list[float]:
    """Returns alpha_2 = 1, alpha_{l+1} = alpha_l d^(-1/C^l), the smallest gaps of Theorem 1.

    Source: Allen-Zhu and Li, arXiv 2001.04413, Theorem 1.
    """
    scales = [1.0]
    for level in range(2, depth):
        scales.append(scales[-1] * input_dim ** -(constants[0] ** -level))
    return scales


def skip_sources(depth: int) -> list[list[int]]:
    """Returns J_l = {0, ..., l-3} and l-1, l = 1..L. No layer reads layer l-2.

    Source: Allen-Zhu and Li, arXiv 2001.04413, section 2.
    """
    return [[*range(level - 2), level - 1] for level in range(1, depth + 1)]


def theorem_sources(depth: int, *, constants: tuple[float, float]) -> list[list[int]]:
    """Returns `skip_sources` without 2, ..., l - C_1, l = 1..L: the deep skip condition.

    Source: Allen-Zhu and Li, arXiv 2001.04413, Theorem 1.
    """
    return [
        [source for source in read if not 2 <= source <= level - constants[1]]
        for level, read in enumerate(skip_sources(depth), start=1)
    ]


def resolve_widths(
    widths: list[int] | str,
    *,
    input_dim: int,
    depth: int | None,
    lowest: int = 1,
    preset: str = "roots",
    of_depth: Callable[[int, int], list[int]] = root_widths,
) -> list[int]:
    """Returns k_lowest..k_L, given a list or a preset that maps d and L to a list.

    Raises:
        ValueError: if the widths increase, one is below 1, or their number does not fit `depth`.
    """
    depth = None if depth is None else as_integer(depth, "depth", least=lowest)
    if widths == preset:
        if depth is None:
            raise ValueError(f"depth is required with widths: {preset}, got None.")
        widths = of_depth(input_dim, depth)
    if isinstance(widths, str):
        raise ValueError(f"widths must be {preset!r} or a list of numbers, got {widths!r}.")
    widths = [as_integer(width, "width") for width in widths]
    if not widths:
        raise ValueError("widths must contain at least one number, got [].")
    if min(widths) < 1:
        raise ValueError(f"widths must all be at least 1, got {widths}.")
    if any(upper > lower for lower, upper in itertools.pairwise([input_dim, *widths])):
        raise ValueError(
            f"widths must not grow from input_dim = {input_dim} upwards, got {widths}."
        )
    fitting = len(widths) + lowest - 1
    if depth not in (None, fitting):
        raise ValueError(f"depth must be {fitting} with {len(widths)} widths, got {depth}.")
    return widths


def resolve_scales(
    level_scales: float | list[float] | Literal["roots"], *, input_dim: int, depth: int
) -> list[float]:
    """Returns alpha_1..alpha_L, given a ratio, a list or the preset.

    Raises:
        ValueError: if the list does not have one number per level, or a scale is not positive.
    """
    if level_scales == "roots":
        return root_scales(input_dim, depth)
    if isinstance(level_scales, str):
        raise ValueError(f"level_scales must be 'roots', a ratio or a list, got {level_scales!r}.")
    if isinstance(level_scales, int | float):
        scales = [float(level_scales) ** level for level in range(depth)]
    else:
        scales = [float(scale) for scale in level_scales]
    if len(scales) != depth:
        raise ValueError(
            f"level_scales must hold one number for each of the {depth} levels, "
            f"got {len(scales)}: {scales}."
        )
    if min(scales) <= 0:
        raise ValueError(f"level_scales must all be positive, got {level_scales}.")
    return scales


def resolve_sources(
    sources: list[list[int]] | Literal["skip"] | None, *, depth: int
) -> list[list[int]]:
    """Returns J_1..J_L, the lower layers that each layer reads. All by default (a DenseNet).

    `skip` stands for `skip_sources`.

    Raises:
        ValueError: if J_l is not a set of layers below l that contains l - 1.
    """
    if sources is None:
        return [list(range(level)) for level in range(1, depth + 1)]
    if sources == "skip":
        return skip_sources(depth)
    if isinstance(sources, str):
        raise ValueError(f"sources must be 'skip' or lists of layers, got {sources!r}.")
    if len(sources) != depth:
        raise ValueError(
            f"sources must contain one list for each of the {depth} layers, got {len(sources)}."
        )
    for level, read in enumerate(sources, start=1):
        if len(set(read)) != len(read) or not set(read) <= set(range(level)):
            raise ValueError(
                f"sources of layer {level} must be distinct layers below it, got {read}."
            )
        if level - 1 not in read:
            raise ValueError(f"sources of layer {level} must contain {level - 1}, got {read}.")
    return [sorted(read) for read in sources]


def resolve_paper_sources(
    sources: list[list[int]] | Literal["skip", "theorem"],
    *,
    depth: int,
    constants: tuple[float, float],
    exempt: tuple[int, ...] = (),
) -> list[list[int]]:
    """Returns J_2..J_L, given lists or a preset of `PaperTarget`.

    Args:
        sources: J_2..J_L, `skip` or `theorem`.
        depth: L.
        constants: C and C_1.
        exempt: layers that may be layer l - 2 in J_l, and that are so with `skip`.

    Raises:
        ValueError: if J_l is not a set of layers below l that contains l - 1 and, for l >= 3,
            another layer, but not l - 2.
    """
    if sources == "theorem":
        return theorem_sources(depth, constants=constants)[1:]
    if sources == "skip":
        return [
            sorted({*read, *(source for source in exempt if source <= level - 2)})
            for level, read in enumerate(skip_sources(depth)[1:], start=2)
        ]
    if isinstance(sources, str):
        raise ValueError(f"sources must be 'skip', 'theorem' or lists, got {sources!r}.")
    if len(sources) != depth - 1:
        raise ValueError(
            f"sources must contain one list for each of the layers 2 to {depth}, "
            f"got {len(sources)}."
        )
    lists = resolve_sources([[0], *sources], depth=depth)[1:]
    for level, read in enumerate(lists, start=2):
        if level - 2 in read and level - 2 not in exempt:
            raise ValueError(f"sources of layer {level} must not contain {level - 2}, got {read}.")
        if level >= 3 and len(read) < 2:
            raise ValueError(
                f"sources of layer {level} must contain another layer besides {level - 1}, "
                f"got {read}."
            )
    return lists


def resolve_signs(
    signs: Literal["random", "positive"] | list[list[int]], *, widths: Sequence[int], seed: int
) -> list[Tensor]:
    """Returns w_1..w_L in {-1, +1}.

    Raises:
        ValueError: if explicit lists have a wrong shape or contain other numbers.
    """
    if signs == "positive":
        return [torch.ones(width, dtype=torch.float64) for width in widths]
    if signs == "random":
        generators = (generator(seed, "signs", level) for level in range(1, len(widths) + 1))
        pairs = zip(widths, generators, strict=True)
        return [2 * torch.randint(0, 2, (k,), generator=g).double() - 1 for k, g in pairs]
    if isinstance(signs, str):
        raise ValueError(f"signs must be 'random', 'positive' or lists, got {signs!r}.")
    if [len(row) for row in signs] != list(widths) or any(abs(s) != 1 for r in signs for s in r):
        raise ValueError(
            f"signs must be lists of +1 and -1 of lengths {list(widths)}, got {signs}."
        )
    return [torch.tensor(row, dtype=torch.float64) for row in signs]


def draw_weights(
    widths: Sequence[int],
    sources: list[list[int]],
    *,
    singular_values: tuple[float, float],
    seed: int,
) -> dict[tuple[int, int], Tensor]:
    """Draws W_{l,j} = U diag(s) V^T with Haar-distributed U and V and s uniform in an interval.

    The matrices, of shape (k_l, k_j), are returned by (l, j).

    Args:
        widths: k_0 = d, k_1, ..., k_L.
        sources: J_1..J_L.
        singular_values: s_min and s_max, the ends of the interval.
        seed: seed of the target.

    Raises:
        ValueError: if not 0 < s_min <= s_max.
    """
    low, high = singular_values
    if not 0 < low <= high:
        raise ValueError(
            f"singular_values must be [s_min, s_max] with 0 < s_min <= s_max, got {[low, high]}."
        )
    weights = {}
    for level, read in enumerate(sources, start=1):
        for source in read:
            random, rows = generator(seed, "weights", level, source), widths[level]
            left = haar_orthogonal(rows, random)
            right = haar_orthogonal(widths[source], random)[:, :rows]
            values = torch.rand(rows, generator=random, dtype=torch.float64) * (high - low) + low
            weights[level, source] = left @ values.diag() @ right.T
    return weights


def read_weights(
    weights: Weights, widths: Sequence[int], sources: list[list[int]]
) -> dict[tuple[int, int], Tensor]:
    """Converts nested lists to W_{l,j}: `weights[l-1][i]` belongs to the i-th source of layer l.

    Raises:
        ValueError: if a matrix is missing or does not have shape (k_l, k_j).
    """
    if [len(row) for row in weights] != [len(read) for read in sources]:
        raise ValueError(
            f"weights must contain one matrix for each source of each layer, {sources}, "
            f"got {[len(row) for row in weights]} matrices."
        )
    read_in = {}
    for level, read in enumerate(sources, start=1):
        for position, source in enumerate(read):
            matrix = torch.as_tensor(weights[level - 1][position], dtype=torch.float64)
            shape = (widths[level], widths[source])
            if matrix.shape != shape:
                raise ValueError(
                    f"weights of layer {level} on layer {source} must have shape {shape}, "
                    f"got {tuple(matrix.shape)}."
                )
            read_in[level, source] = matrix
    return read_in
