"""Features during training: the residual of each level in its layer, and leakage."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.figures.style import (
    COLORS,
    Rows,
    bands,
    draw_band,
    numbered_keys,
    series,
    step_axis,
)

_LEAKAGES = {
    "features/leakage_weights_1": "weights of layer 1",
    "features/consumed_leakage_1": "quadratic forms of layer 2",
}


def feature_residuals(rows: Rows, *, title: str) -> Figure:
    """The residual of each level when probed from the layer of the same number.

    The dotted line of a level is the residual in the untrained layer. If layers are activated one
    after another, vertical lines mark the steps. A decrease of the residuals alone does not show a
    correction, because the probe also sees parts of the initialization that cancel in the readout.

    Args:
        rows: the rows of a run, as in `metrics.csv`, with `features/residual_l`.
        title: title of the figure.

    Returns:
        A figure with one panel.
    """
    figure, panel = _level_curves(rows, "features/residual_", title)
    for number, key in enumerate(numbered_keys([rows], "features/residual_")):
        _, untrained, _, _ = bands([rows], f"{key}_untrained")
        for value in untrained[:1]:
            color = COLORS[number % len(COLORS)]
            panel.axhline(value, color=color, linestyle=":", linewidth=1.2)
    panel.plot([], [], color="gray", linestyle=":", label="untrained")
    panel.set_ylabel("1 - R² of the level's features, probed from its layer")
    panel.legend(frameon=False, loc="lower left", ncols=2)
    return figure


def procrustes_distances(rows: Rows, *, title: str) -> Figure:
    """The distance of the features of a learner with distillation from those of the target.

    Args:
        rows: the rows of a run, as in `metrics.csv`, with `features/procrustes_l`.
        title: title of the figure.

    Returns:
        A figure with one panel. Vertical lines mark the stages.
    """
    figure, panel = _level_curves(rows, "features/procrustes_", title)
    panel.set_ylabel("E|S* - U S|² / E|S*|², U the best rotation")
    panel.legend(frameon=False, loc="lower left")
    return figure


def _level_curves(rows: Rows, stem: str, title: str) -> tuple[Figure, Axes]:
    """A panel with a curve for each level, on a logarithmic axis."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    figure.suptitle(title)
    panel = figure.subplots()
    offset = step_axis(panel, rows)
    for number, key in enumerate(numbered_keys([rows], stem)):
        level = key.rsplit("_", 1)[1]
        draw_band(panel, [rows], key, number=number, label=f"level {level}", offset=offset)
    panel.set_yscale("log")
    panel.grid(alpha=0.3)
    return figure, panel


def leakages(rows: Rows, *, title: str) -> Figure | None:
    """The leakage of layer 1 outside the first level, next to the error.

    Args:
        rows: the rows of a run, as in `metrics.csv`.
        title: title of the figure.

    Returns:
        Two panels: the error, and those of `features/leakage_weights_1` and
        `features/consumed_leakage_1` that were measured. None if neither was measured.
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
    right.set_ylabel("leakage: fraction outside the target's first level")
    for panel in (left, right):
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    return figure
