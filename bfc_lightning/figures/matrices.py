"""Heat maps of the probe residuals and of the quadratic forms of layer 1."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bfc_lightning.figures.style import Rows, joined_layers, new_figure, series

NUM_STEPS = 6
_SMALLEST = 1e-4


def probe_heat_maps(rows: Rows, *, title: str) -> Figure:
    """1 - R² of every target level probed from every learner layer, at selected steps of the run.

    There is one panel per step, with a row per level and a column per layer. Inactive layers are
    gray.
    """
    pairs = sorted({_pair(key) for row in rows for key in row if key.startswith("features/probe_")})
    size = (max(level for level, _ in pairs), max(layer for _, layer in pairs))
    steps = [int(step) for step in series(rows, "features/probe_1_1")[0]]
    at_step = {row["step"]: row for row in rows}
    chosen = _selected(steps, [int(step) for step, _ in joined_layers(rows)])
    width = 1.2 + len(chosen) * (0.5 + 0.55 * size[1])
    figure = new_figure(title, width, 1.5 + 0.6 * size[0], left=0.6, right=0.75)
    panels = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for panel, step in zip(panels, chosen, strict=True):
        matrix = np.full(size, np.nan)
        for level, layer in pairs:
            matrix[level - 1, layer - 1] = at_step[step].get(
                f"features/probe_{level}_{layer}", np.nan
            )
        shown = panel.imshow(
            np.clip(matrix, _SMALLEST, 1), cmap="viridis", norm=LogNorm(_SMALLEST, 1), aspect="auto"
        )
        panel.set_facecolor("lightgray")
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                dark = value < 0.1
                number = f"{value:.0e}" if value < 0.01 else f"{value:.2f}"
                color = "white" if dark else "black"
                panel.text(column, row, number, ha="center", va="center", color=color, fontsize=7)
        panel.set(title=f"step {step:,}", xlabel="layer")
        panel.set_xticks(range(size[1]), [str(layer + 1) for layer in range(size[1])])
    panels[0].set_ylabel("level of the target")
    panels[0].set_yticks(range(size[0]), [str(level + 1) for level in range(size[0])])
    figure.colorbar(shown, ax=list(panels), pad=0.02, fraction=0.05, label="1 - R²")
    return figure


def quadratic_forms(
    learner: NDArray[np.float64], target: NDArray[np.float64], *, num_directions: int, title: str
) -> Figure:
    """The quadratic form of layer 1 next to that of the target's first level.

    Args:
        learner: symmetric, (d, d), in a basis that starts with the target's directions.
        target: symmetric, (d, d), in the same basis.
        num_directions: number of the target's directions. A dotted line separates them from the
            rest.
        title: title of the figure.

    Returns:
        Three panels: target, learner and difference, on a common color scale that is linear near 0.
    """
    limit = float(np.abs(target).max())
    norm = SymLogNorm(linthresh=1e-3 * limit, vmin=-limit, vmax=limit)
    figure = new_figure(title, 12, 4.2, left=0.5, right=0.75)
    panels = figure.subplots(1, 3)
    parts = {"target, level 1": target, "learner, layer 1": learner, "difference": learner - target}
    for panel, (name, form) in zip(panels, parts.items(), strict=True):
        shown = panel.imshow(form, cmap="PuOr", norm=norm)
        for mark in (panel.axhline, panel.axvline):
            mark(num_directions - 0.5, color="gray", linewidth=0.8, linestyle=":")
        panel.set(title=name, xlabel="direction (those of the target come first)")
    figure.colorbar(shown, ax=list(panels), pad=0.02, fraction=0.05, label="coefficient of x_i x_j")
    return figure


def _pair(key: str) -> tuple[int, int]:
    level, layer = key.removeprefix("features/probe_").split("_")
    return int(level), int(layer)


def _selected(steps: Sequence[int], joins: Sequence[int]) -> list[int]:
    """About six steps: the first, the last, those at which layers join, and others between."""
    fixed = [0, *(steps.index(step) for step in joins if step in steps), len(steps) - 1]
    count = max(2, NUM_STEPS - len(joins))
    between = [round(x) for x in np.linspace(0, len(steps) - 1, min(len(steps), count))]
    return [steps[position] for position in sorted({*fixed, *between})]
