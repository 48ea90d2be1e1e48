"""Features over time: how well each layer holds its level, and what else it looks at."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.figures.style import (
    COLOURS,
    Rows,
    bands,
    draw_band,
    joined_layers,
    numbered_keys,
    series,
    step_axis,
)

_LEAKAGES = {
    "features/leakage_weights_1": "weights of layer 1",
    "features/consumed_leakage_1": "forms that layer 2 reads from it",
}
_SMALLEST_FACTOR = 2.0


def feature_residuals(rows: Rows, *, title: str) -> Figure:
    """How well the features of each level can be read from the layer of the same number.

    Args:
        rows: as `metrics.csv` holds them, with `features/residual_l`.
        title: of the figure.

    Returns:
        One panel, by `draw_feature_residuals`.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    figure.suptitle(title)
    draw_feature_residuals(figure.subplots(), [rows])
    return figure


def side_by_side(learners: Mapping[str, Sequence[Rows]], *, title: str) -> Figure:
    """`draw_feature_residuals` for several learners, on one scale.

    Args:
        learners: rows of each run, by learner.
        title: of the figure.

    Returns:
        One panel a learner.
    """
    figure = Figure(figsize=(1.2 + 4.6 * len(learners), 4.6), layout="constrained")
    figure.suptitle(title)
    has_joins = any(joined_layers(runs[0]) for runs in learners.values())
    panels = figure.subplots(1, len(learners), sharex=True, sharey=True, squeeze=False)[0]
    for number, (panel, (name, runs)) in enumerate(zip(panels, learners.items(), strict=True)):
        draw_feature_residuals(panel, runs, is_linear=has_joins)
        panel.set_title(name, fontweight="bold", pad=16)
        if number:
            panel.set_ylabel("")
            panel.get_legend().remove()
    return figure


def draw_feature_residuals(panel: Axes, runs: Sequence[Rows], *, is_linear: bool = False) -> None:
    """`features/residual_l` over the steps, medians and bands over runs of one learner.

    The dotted line of a level is what the same probe reads from the untrained layer. Where layers
    join one after another, a mark says so, and an arrow shows by what factor a layer that had
    settled was corrected afterwards.

    Args:
        panel: to draw on.
        runs: rows of each run.
        is_linear: whether the axis of steps is linear also where no layers join.
    """
    offset = step_axis(panel, runs[0], is_linear=is_linear)
    for number, key in enumerate(numbered_keys(runs, "features/residual_")):
        level = key.rsplit("_", 1)[1]
        draw_band(panel, runs, key, number=number, label=f"level {level}", offset=offset)
        _, untrained, _, _ = bands(runs, f"{key}_untrained")
        for value in untrained[:1]:
            colour = COLOURS[number % len(COLOURS)]
            panel.axhline(value, color=colour, linestyle=":", linewidth=1.2)
        _mark_correction(panel, runs, key, number)
    panel.plot([], [], color="grey", linestyle=":", label="untrained")
    panel.set_yscale("log")
    panel.set_ylabel("1 - R² of the level's features, read from its layer")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, loc="lower left", ncols=2)


def leakages(rows: Rows, *, title: str) -> Figure | None:
    """What layer 1 looks at besides the first level, beside the error.

    Args:
        rows: as `metrics.csv` holds them.
        title: of the figure.

    Returns:
        Two panels: the error, and `features/leakage_weights_1` with, where it was measured,
        `features/consumed_leakage_1`; None where neither was.
    """
    measured = [key for key in _LEAKAGES if series(rows, key)[0]]
    if not measured:
        return None
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharex=True)
    for panel in (left, right):
        offset = step_axis(panel, rows)
    draw_band(left, [rows], "levels/nmse", number=0, label="levels/nmse", offset=offset)
    left.set_ylabel("error: E(f - G)² / Var G")
    for number, key in enumerate(measured, start=1):
        draw_band(right, [rows], key, number=number, label=_LEAKAGES[key], offset=offset)
    right.set_ylabel("leakage: share outside the target's first level")
    for panel in (left, right):
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    return figure


def _mark_correction(panel: Axes, runs: Sequence[Rows], key: str, number: int) -> None:
    """An arrow from the settled residual down to the last one, with the factor."""
    _, factors, _, _ = bands(runs, key.replace("residual", "correction"))
    steps, middle, _, _ = bands(runs, key)
    if not factors or not math.isfinite(factors[-1]) or factors[-1] < _SMALLEST_FACTOR:
        return
    colour = COLOURS[number % len(COLOURS)]
    beside = steps[-1] * (1.03 + 0.1 * number)
    top, bottom = middle[-1] * factors[-1], middle[-1]
    arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.5}
    panel.annotate("", xy=(beside, bottom), xytext=(beside, top), arrowprops=arrow)
    panel.annotate(
        f"÷ {factors[-1]:.0f}" if factors[-1] >= 10 else f"÷ {factors[-1]:.1f}",
        xy=(beside, math.sqrt(top * bottom)),
        xytext=(4, 0),
        textcoords="offset points",
        color=colour,
        fontweight="bold",
        rotation=90,
        va="center",
    )
    panel.set_xlim(right=max(panel.get_xlim()[1], steps[-1] * (1.12 + 0.1 * number)))
