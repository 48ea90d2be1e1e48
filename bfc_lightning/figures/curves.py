"""Learning curves: the error and the residual of each level during training."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from bfc_lightning.figures.style import COLORS, Rows, bands, draw_band, numbered_keys, step_axis


def learning_curves(runs: Sequence[Rows], *, score_key: str, title: str) -> Figure:
    """The score and the residual of each level over the optimizer steps.

    Args:
        runs: the rows of each run, as in `metrics.csv`. For several runs, the figure shows median
            and range.
        score_key: `val/nmse` or `val/error`.
        title: title of the figure.

    Returns:
        A figure with one panel, or two if levels were measured, on logarithmic axes.
    """
    levels = numbered_keys(runs, "levels/residual_")
    figure = Figure(figsize=(10 if levels else 5.2, 3.8), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2 if levels else 1, squeeze=False)[0]
    _, reference, _, _ = bands(runs, "reference/without_last_level")
    draw_band(panels[0], runs, score_key, number=0, label=score_key)
    if reference and 0 < reference[0] < 1:
        panels[0].axhline(reference[0], color=COLORS[6], linestyle=":", label="without last level")
    label = "misclassified fraction" if score_key.endswith("error") else "E(f - G)² / Var G"
    panels[0].set(xlabel="optimizer steps", ylabel=label, title="error on fresh samples")
    offset = step_axis(panels[1], runs[0]) if levels else 0
    for number, key in enumerate(levels):
        label = f"level {key.rsplit('_', 1)[1]}"
        draw_band(panels[1], runs, key, number=number, label=label, offset=offset)
    if levels:
        panels[1].set_title("levels learned over time", pad=16 if not offset else None)
        panels[1].set_ylabel("residual of the level (1: not learned)")
    for panel in panels:
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    return figure
