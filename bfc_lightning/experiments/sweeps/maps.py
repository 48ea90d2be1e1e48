"""Heat maps of medians over two swept keys, one for each combination of the others."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bfc_lightning.experiments.drawing import WIDE, metric_in_words
from bfc_lightning.experiments.plan import Point
from bfc_lightning.experiments.results import Row, final_band, losses, of_point

MOST_MAPS = 12
_MAPS_IN_A_ROW = 4
_PALE = 0.6  # words on what is further up the color scale are black

Labels = tuple[tuple[str, str], ...]
Medians = NDArray[np.float64]


def combinations_of(axes: Mapping[str, list[str]]) -> list[Labels]:
    """Every combination of the keys after the second.

    Args:
        axes: the labels of each key that has several.

    Returns:
        (key, label) for each; one empty combination where there are but two keys.
    """
    others = list(axes)[2:]
    chosen = itertools.product(*(axes[name] for name in others))
    return [tuple(zip(others, labels, strict=True)) for labels in chosen]


def heat_maps(rows: Sequence[Row], metrics: Sequence[str], axes: Mapping[str, list[str]]) -> Figure:
    """The median of each metric over the first key (across) and the second (upwards).

    Args:
        rows: of all runs of a grid.
        metrics: that some run logged.
        axes: the labels of each key that has several; two keys at least.

    Returns:
        A panel for each combination of the other keys, of the first 12 where there are more; all
        panels of a metric have one color scale. In a cell stands the median over the seeds that
        finished, and below it how many did not.
    """
    combinations = combinations_of(axes)[:MOST_MAPS]
    figure, panels = _panels(metrics, combinations, axes)
    for metric, mine in zip(metrics, panels, strict=True):
        maps = [_points(rows, axes, rest) for rest in combinations]
        medians = [_medians(rows, points, metric) for points in maps]
        norm = _norm(np.concatenate([table.ravel() for table in medians]))
        for panel, points, table in zip(mine, maps, medians, strict=True):
            shown = panel.imshow(table, cmap="viridis", norm=norm, aspect="auto", origin="lower")
            for (row, column), value in np.ndenumerate(table):
                lost = losses(of_point(rows, points[row][column]))
                _write(panel, (column, row), value, lost, norm)
        for panel, rest in zip(mine, combinations, strict=True):
            _dress(panel, axes, [metric, *(f"{name} = {label}" for name, label in rest)])
        figure.colorbar(shown, ax=mine, label=metric_in_words(metric))
    return figure


def _panels(
    metrics: Sequence[str], combinations: Sequence[Labels], axes: Mapping[str, list[str]]
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with panels for each metric, those of one metric in rows of their own."""
    across, upwards = list(axes.values())[:2]
    num_columns = min(_MAPS_IN_A_ROW, len(combinations))
    num_rows = math.ceil(len(combinations) / num_columns)
    width, height = max(2.6, 0.75 * len(across) + 0.6), max(2.0, 0.5 * len(upwards) + 0.9)
    size = (width * num_columns + 2.0, height * num_rows * len(metrics) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    lines = figure.subplots(num_rows * len(metrics), num_columns, squeeze=False)
    blocks = [list(block.flatten()) for block in np.split(lines, len(metrics))]
    for block in blocks:
        for panel in block[len(combinations) :]:
            panel.remove()
    return figure, [block[: len(combinations)] for block in blocks]


def _points(rows: Sequence[Row], axes: Mapping[str, list[str]], rest: Labels) -> list[list[Point]]:
    """The points of a map: a row for each label of the second key, from below."""
    points = {row.run.point for row in rows}
    by_labels = {
        frozenset(pair for pair in point.labels if pair[0] in axes): point for point in points
    }
    (across, upwards), (columns, lines) = list(axes)[:2], list(axes.values())[:2]
    return [
        [by_labels[frozenset({(across, x), (upwards, y), *rest})] for x in columns] for y in lines
    ]


def _medians(rows: Sequence[Row], points: Sequence[Sequence[Point]], metric: str) -> Medians:
    """The median at each point, NaN where no run has finished."""
    bands = [[final_band(rows, point, metric) for point in line] for line in points]
    return np.array([
        [math.nan if found is None else found.middle for found in line] for line in bands
    ])


def _norm(values: Medians) -> Normalize:
    """A color scale for all maps of a metric, logarithmic where values differ by much."""
    found = values[np.isfinite(values)]
    low, high = (found.min(), found.max()) if found.size else (0.0, 1.0)
    return LogNorm(low, high) if low > 0 and high >= WIDE * low else Normalize(low, high)


def _write(
    panel: Axes, place: tuple[int, int], value: float, lost: Sequence[str], norm: Normalize
) -> None:
    """The words in a cell."""
    words = [f"{value:.1e}"] if math.isfinite(value) else []
    is_pale = not words or float(norm(value)) > _PALE
    panel.text(
        *place,
        "\n".join([*words, *lost]),
        ha="center",
        va="center",
        fontsize=7,
        color="black" if is_pale else "white",
    )


def _dress(panel: Axes, axes: Mapping[str, list[str]], title: Sequence[str]) -> None:
    (across, upwards), (columns, lines) = list(axes)[:2], list(axes.values())[:2]
    panel.set_facecolor("lightgray")
    panel.set_xticks(range(len(columns)), columns)
    panel.set_yticks(range(len(lines)), lines)
    panel.set(xlabel=across, ylabel=upwards)
    panel.set_title("\n".join(title), fontsize="medium")
