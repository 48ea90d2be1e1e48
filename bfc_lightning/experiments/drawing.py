"""What the pictures of experiments share: lines with bands, places on an axis, scales, words."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.results import FINISHED, Band, Row
from bfc_lightning.figures import COLORS, MARKERS

Spot = tuple[float, Band]

_STYLES = ("-", "--", "-.")
_REFERENCE = "reference/without_last_level"
SCORES = ("val/nmse", "val/error")
"""Metrics that a learner without the last level has a known value of."""
# An axis whose numbers span this factor is logarithmic.
WIDE = 8.0
_WORDS = {
    "val/nmse": "E(f - G)² / Var G",
    "test/nmse": "E(f - G)² / Var G",
    "val/error": "wrong classes (fraction)",
    "test/error": "wrong classes (fraction)",
    "features/residual": "1 - R² of level {} from layer {}",
    "features/form_error": "|A_F - A_1|² / |A_1|² of layer {}",
    "features/leakage": "leakage of layer {}",
    "features/correction": "correction of layer {} (factor)",
    "features/richness": "richness of layer {}",
    "levels/residual": "residual of level {} (1: all missing)",
    "levels/function_error": "Var(c - o) / Var(o) of layer and level {}",
    "levels/function_error_projected": "the same off lower polynomials, level {}",
    "ntk/drift": "drift of the kernel",
    "train/loss": "training loss",
}


def add_legend(figure: Figure, handles: Mapping[str, Artist], *, ncols: int = 4) -> None:
    """One legend for all panels, below them.

    Args:
        figure: without one.
        handles: what is explained, by label.
        ncols: columns at the most.
    """
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(ncols, len(handles)),
        frameon=False,
    )


def draw_line(panel: Axes, spots: Sequence[Spot], *, number: int, label: str, marker: bool) -> None:
    """A median line with its band, in the color and style of its number."""
    spots = sorted(spots, key=lambda spot: spot[0])
    x = [place for place, _ in spots]
    color = COLORS[number % len(COLORS)]
    panel.plot(
        x,
        [found.middle for _, found in spots],
        color=color,
        linestyle=_STYLES[number // len(COLORS) % len(_STYLES)],
        marker=MARKERS[number % len(MARKERS)],
        markevery=1 if marker else max(1, len(x) // 8),
        markersize=5 if marker else 4,
        label=label,
    )
    low, high = [found.low for _, found in spots], [found.high for _, found in spots]
    panel.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def reference_key(metric: str) -> str:
    """The metric that says what an untrained network, or a learner without the last level, has.

    Args:
        metric: beside which it is shown.

    Returns:
        Its name; not every run logs it.
    """
    return _REFERENCE if metric in SCORES else f"{metric}_untrained"


def with_seeds(title: str, rows: Sequence[Row], *, what: str = "median and range") -> str:
    """A title with what is shown, and the number of seeds of which some run finished."""
    num_seeds = len({row.run.seed for row in rows if row.status == FINISHED})
    return f"{title}, {what} over {num_seeds} seeds" if num_seeds > 1 else title


def numbers_of(labels: Sequence[str]) -> list[float] | None:
    """The numbers that labels are; None where one is none, or is not finite."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def place_of(label: str, labels: Sequence[str]) -> float:
    """Where a label stands: at its number, or in its turn."""
    return float(label) if numbers_of(labels) is not None else float(labels.index(label))


def label_places(panel: Axes, labels: Sequence[str]) -> None:
    """Marks the labels on the horizontal axis, logarithmic where they are numbers far apart."""
    numbers = numbers_of(labels)
    if numbers is not None and min(numbers) > 0 and max(numbers) >= WIDE * min(numbers):
        panel.set_xscale("log")
    panel.set_xticks([place_of(label, labels) for label in labels], list(labels))
    panel.minorticks_off()


def scale_values(*panels: Axes) -> None:
    """A logarithmic axis where values differ by much, and all have a logarithm."""
    lines = [line.get_ydata() for panel in panels for line in panel.lines]
    values = np.concatenate([np.zeros(0), *(np.asarray(y, dtype=float) for y in lines)])
    if values.size and values.min() > 0 and values.max() >= WIDE * values.min():
        for panel in panels:
            panel.set_yscale("log")


def metric_in_words(metric: str) -> str:
    """What a metric is, for its axis.

    Args:
        metric: a logged key.

    Returns:
        The words; the key itself where there are none.
    """
    stem, _, level = metric.rpartition("_")
    words = _WORDS.get(metric) or (_WORDS.get(stem) if level.isdigit() else None) or metric
    return words.replace("{}", level)
