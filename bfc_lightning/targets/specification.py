"""Turns presets, ratios and lists into the numbers of a hierarchical target."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bfc_lightning.inputs import haar_orthogonal
from bfc_lightning.seeds import generator

Weights = list[list[list[list[float]]]]


def root_widths(input_dim: int, depth: int) -> list[int]:
    """k_l = max(2, round(d^(1/2^l))), l = 1..L: about the square root of the width below.

    These are not the widths of Theorem 1 of Allen-Zhu and Li, arXiv 2001.04413. It asks for much
    narrower levels: k_l <= d^(1/C^(l + C_1)) with constants C > C_1 >= 2, while the gaps are
    alpha_{l+1}/alpha_l <= d^(-1/C^l).
    """
    return [max(2, round(input_dim ** (1 / 2**level))) for level in range(1, depth + 1)]


def root_scales(input_dim: int, depth: int) -> list[float]:
    """alpha_1 = 1, alpha_{l+1} = alpha_l d^(-1/2^l): each scale is divided by the level's width.

    The width is that of `root_widths` before rounding. Theorem 1 of Allen-Zhu and Li,
    arXiv 2001.04413, asks for much narrower levels at such a gap; see `root_widths`.
    """
    scales = [1.0]
    for level in range(1, depth):
        scales.append(scales[-1] * input_dim ** (-1 / 2**level))
    return scales


def resolve_widths(
    widths: list[int] | Literal["roots"], *, input_dim: int, depth: int | None
) -> list[int]:
    """k_1..k_L from a list or the preset.

    Raises:
        ValueError: if the widths grow, hold a number below 1, or disagree with `depth`.
    """
    if widths == "roots":
        if depth is None:
            raise ValueError("depth must be given with widths: roots, got none.")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        widths = root_widths(input_dim, depth)
    if isinstance(widths, str):
        raise ValueError(f"widths must be 'roots' or a list of numbers, got {widths!r}.")
    if not widths:
        raise ValueError("widths must name at least one layer, got [].")
    if min(widths) < 1:
        raise ValueError(f"widths must all be at least 1, got {widths}.")
    full = [input_dim, *widths]
    if any(upper > lower for lower, upper in itertools.pairwise(full)):
        raise ValueError(
            f"widths must not grow from input_dim = {input_dim} upwards, got {widths}."
        )
    if depth is not None and depth != len(widths):
        raise ValueError(f"depth must be the number of widths, {len(widths)}, got {depth}.")
    return list(widths)


def resolve_scales(
    level_scales: float | list[float] | Literal["roots"], *, input_dim: int, depth: int
) -> list[float]:
    """alpha_1..alpha_L from a ratio, a list or the preset.

    Raises:
        ValueError: if the list has not one number a level, or a scale is not positive.
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
    """J_1..J_L: which lower layers each layer reads; all of them by default (a DenseNet).

    Raises:
        ValueError: if J_l is not a set of layers below l that holds l - 1.
    """
    if sources is None:
        return [list(range(level)) for level in range(1, depth + 1)]
    if len(sources) != depth:
        raise ValueError(
            f"sources must hold one list for each of the {depth} layers, got {len(sources)}."
        )
    for level, read in enumerate(sources, start=1):
        if len(set(read)) != len(read) or not set(read) <= set(range(level)):
            raise ValueError(
                f"sources of layer {level} must be different layers below it, got {read}."
            )
        if level - 1 not in read:
            raise ValueError(f"sources of layer {level} must hold {level - 1}, got {read}.")
    return [sorted(read) for read in sources]


def resolve_signs(
    signs: Literal["random", "positive"] | list[list[int]], *, widths: Sequence[int], seed: int
) -> list[Tensor]:
    """w_1..w_L in {-1, +1}.

    Raises:
        ValueError: if an explicit list has another shape or other numbers.
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
    """W_{l,j} = U diag(s) V^T with Haar frames U, V and s uniform in `singular_values`.

    Args:
        widths: k_0 = d, k_1, ..., k_L.
        sources: J_1..J_L.
        singular_values: s_min and s_max.
        seed: the target's.

    Returns:
        W_{l,j} under the key (l, j), shape (k_l, k_j).

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
    """W_{l,j} from nested lists: `weights[l-1][i]` is the matrix for the i-th source of layer l.

    Raises:
        ValueError: if a matrix is missing or has another shape than (k_l, k_j).
    """
    if [len(row) for row in weights] != [len(read) for read in sources]:
        raise ValueError(
            f"weights must hold one matrix for each source of each layer, {sources}, "
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
