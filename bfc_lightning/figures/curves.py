"""Curves over the optimizer steps: the error, the residuals of the levels, leakage.

`rows` are the rows of a run, as in `metrics.csv`.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.figures.style import (
    COLORS,
    Rows,
    bands,
    draw_band,
    label_powers,
    new_figure,
    numbered_keys,
    series,
    step_axis,
)

_LEAKAGES = {
    "features/leakage_weights_1": "weights of layer 1",
    "features/consumed_leakage_1": "quadratic forms of layer 2",
}


def learning_curves(runs: Sequence[Rows], *, score_key: str, title: str) -> Figure:
    """The score, and the residual of each level if it was measured, over the optimizer steps.

    Args:
        runs: the rows of each run. For several runs, the figure shows median and range.
        score_key: `val/nmse` or `val/error`.
        title: title of the figure.
    """
    has_levels = bool(numbered_keys(runs, "levels/residual_"))
    figure, panels = _log_panels(title, 2 if has_levels else 1, width=10 if has_levels else 5.2)
    _, reference, _, _ = bands(runs, "reference/without_last_level")
    draw_band(panels[0], runs, score_key, number=0, label=score_key)
    if reference and 0 < reference[0] < 1:
        panels[0].axhline(reference[0], color=COLORS[6], linestyle=":", label="without last level")
    label = "misclassified fraction" if score_key.endswith("error") else "E(f - G)² / Var G"
    panels[0].set(xlabel="optimizer steps", ylabel=label, title="error on fresh samples")
    if has_levels:
        offset = _draw_levels(panels[1], runs, "levels/residual_")
        panels[1].set_title("levels learned over time", pad=16 if not offset else None)
        panels[1].set_ylabel("residual of the level (1: not learned)")
    for panel in panels:
        panel.legend(frameon=False)
    return figure


def feature_residuals(rows: Rows, *, title: str) -> Figure:
    """The residual of each level when probed from the layer of the same number.

    The dotted line of a level is the residual in the untrained layer. If layers are activated one
    after another, vertical lines mark the steps. A decrease of the residuals alone does not show a
    correction, because the probe also sees parts of the initialization that cancel in the readout.
    """
    figure, [panel] = _log_panels(title, width=7.5, height=4.6)
    _draw_levels(panel, [rows], "features/residual_")
    for number, key in enumerate(numbered_keys([rows], "features/residual_")):
        _, untrained = series(rows, f"{key}_untrained")
        for value in untrained[:1]:
            color = COLORS[number % len(COLORS)]
            panel.axhline(value, color=color, linestyle=":", linewidth=1.2)
    panel.plot([], [], color="gray", linestyle=":", label="untrained")
    panel.set_ylabel("1 - R² of the level's features, probed from its layer")
    panel.legend(frameon=False, loc="lower left", ncols=2)
    return figure


def procrustes_distances(rows: Rows, *, title: str) -> Figure:
    """The distance of the features of a learner with distillation from those of the target."""
    figure, [panel] = _log_panels(title, width=7.5, height=4.6)
    _draw_levels(panel, [rows], "features/procrustes_")
    panel.set_ylabel("E|S* - U S|² / E|S*|², U the best rotation")
    panel.legend(frameon=False, loc="lower left")
    return figure


def leakages(rows: Rows, *, title: str) -> Figure:
    """The error, next to the leakage of layer 1 outside the first level.

    The right panel shows `features/leakage_weights_1` and, if it was measured,
    `features/consumed_leakage_1`.
    """
    figure, panels = _log_panels(title, 2, width=10)
    offsets = [step_axis(panel, rows) for panel in panels]
    left, right = panels
    draw_band(left, [rows], "levels/nmse", number=0, label="levels/nmse", offset=offsets[0])
    left.set_ylabel("error: E(f - G)² / Var G")
    measured = [key for key in _LEAKAGES if series(rows, key)[0]]
    for number, key in enumerate(measured, start=1):
        draw_band(right, [rows], key, number=number, label=_LEAKAGES[key], offset=offsets[1])
    right.set_ylabel("leakage: fraction outside level 1")
    for panel in panels:
        panel.legend(frameon=False)
    return figure


def _log_panels(
    title: str, count: int = 1, *, width: float, height: float = 3.8
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, each with a logarithmic axis."""
    figure = new_figure(title, width, height, between=0.28)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for panel in panels:
        panel.set_yscale("log")
        label_powers(panel.yaxis)
        panel.grid(alpha=0.3)
    return figure, panels


def _draw_levels(panel: Axes, runs: Sequence[Rows], prefix: str) -> int:
    """Draws a curve for each level. Returns the offset of the steps."""
    offset = step_axis(panel, runs[0])
    for number, key in enumerate(numbered_keys(runs, prefix)):
        label = f"level {key.removeprefix(prefix)}"
        draw_band(panel, runs, key, number=number, label=label, offset=offset)
    return offset
