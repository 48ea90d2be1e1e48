"""Features over time: how well each layer holds its level, and what else it looks at."""

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
    "features/consumed_leakage_1": "forms that layer 2 reads from it",
}


def feature_residuals(rows: Rows, *, title: str) -> Figure:
    """How well the features of each level can be read from the layer of the same number.

    The dotted line of a level is what the same probe reads from the untrained layer. Where layers
    join one after another, a mark says so. A fall of these lines alone is no correction: the probe
    also sees what is left of the initialization and cancels in the readout.

    Args:
        rows: as `metrics.csv` holds them, with `features/residual_l`.
        title: of the figure.

    Returns:
        One panel, `features/residual_l` over the steps.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    figure.suptitle(title)
    panel = figure.subplots()
    offset = step_axis(panel, rows)
    for number, key in enumerate(numbered_keys([rows], "features/residual_")):
        level = key.rsplit("_", 1)[1]
        draw_band(panel, [rows], key, number=number, label=f"level {level}", offset=offset)
        _, untrained, _, _ = bands([rows], f"{key}_untrained")
        for value in untrained[:1]:
            color = COLORS[number % len(COLORS)]
            panel.axhline(value, color=color, linestyle=":", linewidth=1.2)
    panel.plot([], [], color="gray", linestyle=":", label="untrained")
    panel.set_yscale("log")
    panel.set_ylabel("1 - R² of the level's features, read from its layer")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, loc="lower left", ncols=2)
    return figure


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
