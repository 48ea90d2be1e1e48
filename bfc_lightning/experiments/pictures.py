"""Pictures of a comparison: learners over time, or over the axes of a grid."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.comparison import Comparison, points
from bfc_lightning.experiments.drawing import (
    SCORES,
    WIDE,
    Spot,
    add_legend,
    draw_line,
    label_places,
    metric_in_words,
    place_of,
    reference_key,
    scale_values,
    with_seeds,
)
from bfc_lightning.experiments.plan import Point
from bfc_lightning.experiments.results import (
    DIVERGED,
    FINISHED,
    Band,
    Row,
    final_band,
    metric_names,
    of_point,
)
from bfc_lightning.figures import COLORS, MARKERS, bands

Rows = Sequence[Mapping[str, float]]


def comparison_figure(comparison: Comparison, rows: Sequence[Row], *, title: str) -> Figure | None:
    """Every learner as a line with a band over its seeds.

    Args:
        comparison: what is compared.
        rows: of all its runs.
        title: of the figure.

    Returns:
        Without a grid, a panel for each metric over the steps; with one, the final metrics over the
        first axis, a row of panels for each metric and a column for each combination of the other
        axes. None where no run has finished, or none logged these metrics.
    """
    if not any(row.status == FINISHED for row in rows):
        return None
    logged = set(metric_names(rows))
    comparison = replace(comparison, metrics=[m for m in comparison.metrics if m in logged])
    if not comparison.metrics:
        return None
    figure = _over_grid(comparison, rows) if comparison.grid else _over_steps(comparison, rows)
    figure.suptitle(with_seeds(title, rows))
    for panel in figure.axes:
        panel.grid(alpha=0.3)
    handles = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if handles:
        add_legend(figure, handles)
    return figure


def _over_steps(comparison: Comparison, rows: Sequence[Row]) -> Figure:
    """A panel for each metric: over time, or the final values where none has a history."""
    metrics = comparison.metrics
    num_columns = 2 if len(metrics) == 4 else min(3, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    tall = max(3.1, 0.28 * len(comparison.learners) + 0.8)
    figure = Figure(figsize=(4.6 * num_columns + 0.6, tall * num_rows + 1.0), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    curves = {row.run.name: row.curve() for row in rows if row.status == FINISHED}
    for panel, metric in zip(panels, metrics, strict=False):
        lines = {
            point: _curve([curves[row.run.name] for row in of_point(rows, point, FINISHED)], metric)
            for point in points(comparison)
        }
        if any(lines.values()):
            _draw_history(panel, comparison, rows, metric, lines)
        else:
            _draw_final(panel, comparison, rows, metric)
    for panel in panels[len(metrics) :]:
        panel.remove()
    return figure


def _draw_history(
    panel: Axes,
    comparison: Comparison,
    rows: Sequence[Row],
    metric: str,
    lines: Mapping[Point, Sequence[Spot]],
) -> None:
    """A line for each learner; one without a history is level over the steps of the others."""
    steps = [step for line in lines.values() for step, _ in line]
    known = _references(rows, metric)
    for number, point in enumerate(points(comparison)):
        line, final = lines[point], final_band(rows, point, metric)
        if not line and final is not None:
            line = [(min(steps), final), (max(steps), final)]
        label = _with_losses(point.learner, of_point(rows, point))
        draw_line(panel, line, number=number, label=label, marker=False)
        if known.get(point.learner, 0.0) > 0:
            style = _reference_style(metric, number, is_common=_are_equal(known))
            panel.axhline(known[point.learner], **style)
    panel.set(xlabel="optimizer steps", ylabel=metric_in_words(metric), title=metric)
    scale_values(panel)


def _draw_final(panel: Axes, comparison: Comparison, rows: Sequence[Row], metric: str) -> None:
    """A dot for each learner's median, with its range; the best one on top."""
    found = {point: final_band(rows, point, metric) for point in points(comparison)}
    places = {point: place for point, place in found.items() if place is not None}
    order = sorted(places, key=lambda point: places[point].middle, reverse=True)
    numbers = {point: number for number, point in enumerate(points(comparison))}
    for height, point in enumerate(order):
        spot, number = places[point], numbers[point]
        panel.errorbar(
            [spot.middle],
            [height],
            xerr=[[spot.middle - spot.low], [spot.high - spot.middle]],
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            capsize=3,
        )
    names = [_with_losses(point.learner, of_point(rows, point)) for point in order]
    panel.set_yticks(range(len(order)), names)
    panel.set(xlabel=metric_in_words(metric), title=metric, ylim=(-0.6, len(order) - 0.4))
    spots = [end for spot in places.values() for end in (spot.low, spot.high)]
    if min(spots) > 0 and max(spots) >= WIDE * min(spots):
        panel.set_xscale("log")


def _curve(runs: Sequence[Rows], metric: str) -> list[Spot]:
    """The band over seeds, step by step."""
    steps, middle, low, high = bands(runs, metric)
    return [(s, Band(*found)) for s, *found in zip(steps, middle, low, high, strict=True)]


def _over_grid(comparison: Comparison, rows: Sequence[Row]) -> Figure:
    axes = {name: list(axis.labeled()) for name, axis in comparison.grid.items()}
    (first, labels), *others = axes.items()
    names = [name for name, _ in others]
    columns = [
        tuple(zip(names, chosen, strict=True))
        for chosen in itertools.product(*(found for _, found in others))
    ]
    num_rows = len(comparison.metrics)
    figure = Figure(
        figsize=(max(6.0, 3.9 * len(columns) + 0.6), 3.1 * num_rows + 1.0), layout="constrained"
    )
    panels = figure.subplots(num_rows, len(columns), squeeze=False, sharey="row")
    for metric, line in zip(comparison.metrics, panels, strict=True):
        for rest, panel in zip(columns, line, strict=True):
            for number, learner in enumerate(comparison.learners):
                wanted = {label: Point(learner, ((first, label), *rest)) for label in labels}
                found = [(label, final_band(rows, p, metric)) for label, p in wanted.items()]
                mine = [row for row in rows if row.run.point.learner == learner]
                draw_line(
                    panel,
                    [(place_of(label, labels), spot) for label, spot in found if spot is not None],
                    number=number,
                    label=_with_losses(learner, mine),
                    marker=True,
                )
            where = ", ".join(f"{name} = {label}" for name, label in rest)
            panel.set(xlabel=first, title=f"{metric}\n{where}" if where else metric)
            label_places(panel, labels)
        line[0].set_ylabel(metric_in_words(metric))
        scale_values(*line)
    return figure


def _references(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """What an untrained network, or a learner without the last level, has; by learner."""
    key = reference_key(metric)
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.status == FINISHED and key in row.metrics:
            found.setdefault(row.run.point.learner, []).append(row.metrics[key])
    return {learner: median(values) for learner, values in found.items()}


def _are_equal(references: Mapping[str, float]) -> bool:
    return max(references.values()) <= 1.02 * min(references.values())


def _reference_style(metric: str, number: int, *, is_common: bool) -> dict[str, Any]:
    """Gray where all learners have the same one, else in the learner's color."""
    words = "without last level" if metric in SCORES else "untrained"
    color = "0.35" if is_common else COLORS[number % len(COLORS)]
    label = words if is_common else f"{words}, each learner's" if number == 0 else None
    pattern = ":" if metric in SCORES else (0, (4, 3))
    return {"color": color, "linestyle": pattern, "linewidth": 1, "label": label, "zorder": 1}


def _with_losses(name: str, rows: Sequence[Row]) -> str:
    """A learner's name, with how many of its runs diverged."""
    lost = sum(row.status == DIVERGED for row in rows)
    return f"{name} ({lost} of {len(rows)} diverged)" if lost else name
