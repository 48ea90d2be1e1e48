"""The picture of a scaling: samples needed over the dimension, a line for each learner."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.bootstrap import Estimate
from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.experiments.drawing import add_legend
from bfc_lightning.experiments.results import FINISHED, Row
from bfc_lightning.experiments.scaling import (
    Median,
    dimensions,
    exponent,
    extremes,
    medians,
)
from bfc_lightning.experiments.scaling_report import about_error
from bfc_lightning.figures import COLORS, MARKERS

# Learners that share a place are drawn so far apart, as a factor of the dimension.
_APART = 1.012
# Arrows for what was not reached stand so far above the most samples.
_BEYOND = 1.3


def scaling_figure(comparison: Comparison, rows: Sequence[Row], *, title: str) -> Figure | None:
    """Medians of the samples needed, with their range over the seeds.

    A range that reaches above the most samples has seeds that did not reach the error. An open
    marker says "at most"; an arrow above the most samples says that they were not enough.

    Args:
        comparison: what is compared.
        rows: of all its runs.
        title: of the figure.

    Returns:
        Both axes logarithmic; None without `scaling`, or where no run has finished.
    """
    scaling = comparison.scaling
    if scaling is None or not any(row.status == FINISHED for row in rows):
        return None
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    panel = figure.subplots()
    for number, learner in enumerate(comparison.learners):
        found = medians(comparison, rows, learner)
        label = _label(learner, exponent(comparison, rows, learner), found.values())
        _draw(panel, comparison, found, number=number, label=label)
    _dress(panel, comparison)
    title = f"{title}: " if title else ""
    figure.suptitle(f"{title}samples needed for {about_error(comparison)}", fontsize=11)
    handles, labels = panel.get_legend_handles_labels()
    add_legend(figure, dict(zip(labels, handles, strict=True)), ncols=2)
    return figure


def _draw(
    panel: Axes,
    comparison: Comparison,
    found: Mapping[str, Median],
    *,
    number: int,
    label: str,
) -> None:
    """One learner, in the color and with the marker of its number."""
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 6}
    _, most = extremes(comparison)
    apart = _APART ** (number - (len(comparison.learners) - 1) / 2)
    spots = [(float(name), mine) for name, mine in found.items() if math.isfinite(mine.samples)]
    x = [place for place, _ in spots]
    panel.plot(x, [mine.samples for _, mine in spots], label=label, **style)
    panel.fill_between(
        x,
        [mine.low for _, mine in spots],
        [min(mine.high, most * _BEYOND**2) for _, mine in spots],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
    for place, mine in spots:
        if mine.is_bound:
            panel.plot([place], [mine.samples], markerfacecolor="white", **style)
    lost = [float(name) * apart for name, mine in found.items() if math.isinf(mine.samples)]
    style = {"color": color, "marker": r"$\uparrow$", "markersize": 10, "linestyle": "none"}
    panel.plot(lost, [most * _BEYOND] * len(lost), **style)


def _dress(panel: Axes, comparison: Comparison) -> None:
    assert comparison.scaling is not None
    _, most = extremes(comparison)
    labels = dimensions(comparison)
    panel.set(xscale="log", yscale="log")
    panel.axhline(most, color="0.35", linestyle=":", linewidth=1, zorder=1)
    panel.annotate(
        "the most that were tried",
        (0.01, most),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
    )
    panel.set_xticks([float(label) for label in labels], labels)
    numbers = list(comparison.grid[comparison.scaling.samples].labeled())
    panel.set_yticks([float(number) for number in numbers], numbers)
    panel.minorticks_off()
    panel.set_ylim(top=most * _BEYOND**2)
    panel.set(xlabel=comparison.scaling.dimension, ylabel=f"{comparison.scaling.samples} needed")
    panel.grid(alpha=0.3)


def _label(learner: str, found: Estimate, spots: Iterable[Median]) -> str:
    """A learner's name with its exponent, for the legend."""
    if math.isnan(found.value):
        is_lost = all(math.isinf(spot.samples) for spot in spots)
        return f"{learner}: {'not reached' if is_lost else 'no exponent'}"
    interval = "" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{learner}: {found.value:.2f}{interval}"
