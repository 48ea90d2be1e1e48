"""Figures: pictures of a run, made from its logged numbers."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """The finite values of one key over the steps.

    Args:
        rows: as `metrics.csv` holds them.
        key: the column.

    Returns:
        Steps and values.
    """
    points = [(row["step"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def learning_curves(rows: Sequence[Mapping[str, float]], *, score_key: str, title: str) -> Figure:
    """What is learned when: the score, and the part of each level that is still missing.

    Args:
        rows: as `metrics.csv` holds them.
        score_key: `val/nmse` or `val/error`.
        title: of the figure.

    Returns:
        A figure with one panel, or two where levels were measured; logarithmic axes.
    """
    levels = sorted({key for row in rows for key in row if key.startswith("levels/residual_")})
    figure = Figure(figsize=(10 if levels else 5.2, 3.8), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2 if levels else 1, squeeze=False)[0]
    steps, scores = series(rows, score_key)
    _, reference = series(rows, "reference/without_last_level")
    panels[0].plot(steps, scores, color=COLOURS[0], marker="o", markersize=3, label=score_key)
    if reference and 0 < reference[0] < 1:
        panels[0].axhline(reference[0], color=COLOURS[6], linestyle=":", label="without last level")
    words = "wrong classes (fraction)" if score_key.endswith("error") else "E(f - G)² / Var G"
    panels[0].set(xlabel="optimiser steps", ylabel=words, title="error on fresh samples")
    for number, key in enumerate(levels):
        steps, values = series(rows, key)
        panels[1].plot(
            [step + 1 for step in steps],
            values,
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            label=f"level {key.rsplit('_', 1)[1]}",
        )
    if levels:
        panels[1].set(xscale="log", xlabel="optimiser steps + 1", title="levels learned over time")
        panels[1].set(ylabel="residual of the level (1: all missing)")
    for panel in panels:
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    return figure
