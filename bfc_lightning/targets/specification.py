"""Resolves presets, ratios and lists to the parameters of a hierarchical target."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bfc_lightning.inputs import haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.types import as_integer

Weights = list[list[list[list[float]]]]


def root_widths(input_dim: int, depth: int) -> list[int]:
    """Returns k_l = max(2, round(d^(1/2^l))), l = 1..L.

    Each width is about the square root of the width below. Theorem 1 of Allen-Zhu and Li,
    arXiv 2001.04413, requires much narrower levels: k_l <= d^(1/C^(l + C_1)) with constants
    C > C_1 >= 2 and gaps alpha_{l+1}/alpha_l <= d^(-1/C^l).
    """
    return [max(2, round(input_dim ** (1 / 2**level))) for level in range(1, depth + 1)]


def root_scales(input_dim: int, depth: int) -> list[float]:
    """Returns alpha_1 = 1, alpha_{l+1} = alpha_l d^(-1/2^l).

    Each scale is divided by the width of its level, i.e. by k_l of `root_widths` before rounding.
    For such gaps, Theorem 1 of Allen-Zhu and Li requires much narrower levels; see `root_widths`.
    """
    scales = [1.0]
    for level in range(1, depth):
        scales.append(scales[-1] * input_dim ** (-1 / 2**level))
    return scales


def resolve_widths(
    widths: list[int] | Literal["roots"], *, input_dim: int, depth: int | None
) -> list[int]:
    """Returns k_1..k_L, given a list or the preset.

    Raises:
        ValueError: if the widths increase, one is below 1, or their number is not `depth`.
    """
    depth = None if depth is None else as_integer(depth, "depth")
    if widths == "roots":
        if depth is None:
            raise ValueError("depth is required with widths: roots, got None.")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        widths = root_widths(input_dim, depth)
    if isinstance(widths, str):
        raise ValueError(f"widths must be 'roots' or a list of numbers, got {widths!r}.")
    widths = [as_integer(width, "width") for width in widths]
    if not widths:
        raise ValueError("widths must contain at least one number, got [].")
    if min(widths) < 1:
        raise ValueError(f"widths must all be at least 1, got {widths}.")
    full = [input_dim, *widths]
    if any(upper > lower for lower, upper in itertools.pairwise(full)):
        raise ValueError(
            f"widths must not grow from input_dim = {input_dim} upwards, got {widths}."
        )
    if depth is not None and depth != len(widths):
        raise ValueError(f"depth must be the number of widths, {len(widths)}, got {depth}.")
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


def resolve_sources(sources: list[list[int]] | None, *, depth: int) -> list[list[int]]:
    """Returns J_1..J_L, the lower layers that each layer reads. All by default (a DenseNet).

    Raises:
        ValueError: if J_l is not a set of layers below l that contains l - 1.
    """
    if sources is None:
        return [list(range(level)) for level in range(1, depth + 1)]
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
        return [
            torch.randint(0, 2, (width,), generator=generator(seed, "signs", level)).double() * 2
            - 1
            for level, width in enumerate(widths, start=1)
        ]
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

    Args:
        widths: k_0 = d, k_1, ..., k_L.
        sources: J_1..J_L.
        singular_values: s_min and s_max, the ends of the interval.
        seed: seed of the target.

    Returns:
        A dictionary from (l, j) to W_{l,j}, shape (k_l, k_j).

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
            random = generator(seed, "weights", level, source)
            rows, columns = widths[level], widths[source]
            left = haar_orthogonal(rows, random)
            right = haar_orthogonal(columns, random)[:, :rows]
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
