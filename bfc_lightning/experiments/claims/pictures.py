"""A picture of a claim: every number that it rests on."""

import math
from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bfc_lightning.experiments.claims.claim import Term
from bfc_lightning.experiments.claims.verdicts import Judgment
from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.experiments.drawing import metric_in_words
from bfc_lightning.experiments.results import Row
from bfc_lightning.experiments.scaling_picture import scaling_figure
from bfc_lightning.figures import COLORS

_WIDTH = 7.0
_ROW, _PANEL = 0.32, 0.85
_DARK = "#1a1a1a"
_FEW_DECADES = 100.0


def claim_figure(judgment: Judgment, comparison: Comparison, rows: Sequence[Row]) -> Figure | None:
    """The values behind a claim: a panel for each metric, a row for each learner, a dot for a seed.

    Args:
        judgment: of the claim.
        comparison: that it is judged by.
        rows: of all its runs.

    Returns:
        The figure; that of the scaling where the claim is about exponents; None where no run gave
        a number.
    """
    found: dict[Term, dict[int, float]] = {}
    for finding in judgment.findings:
        found.update(zip(finding.condition.terms, finding.values, strict=True))
    found = {term: values for term, values in found.items() if values}
    if found:
        return _dots(found)
    return scaling_figure(comparison, rows, title="")


def _dots(found: dict[Term, dict[int, float]]) -> Figure:
    panels: dict[str, list[tuple[str, list[float]]]] = {}
    for term, values in found.items():
        quantity, of_whom = _quantity(term)
        panels.setdefault(quantity, []).append((of_whom, list(values.values())))
    heights = [_PANEL + _ROW * len(lines) for lines in panels.values()]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for panel, (quantity, lines) in zip(grid[:, 0], panels.items(), strict=True):
        _draw(panel, lines)
        panel.set_xlabel(quantity)
    return figure


def _quantity(term: Term) -> tuple[str, str]:
    """What is drawn, and whose; levels of reference stand in the panel of what they refer to."""
    where = ", ".join(f"{axis} {label}" for axis, label in term.at)
    stem, _, number = term.metric.rpartition("_")
    if term.metric == "reference/without_last_level":
        whose = f"{term.learner}'s target without its last level"
        return metric_in_words("val/nmse"), f"{whose} ({where})" if where else whose
    if stem == "reference/truncated_error":
        whose = f"{term.learner}'s target cut off after level {number}"
        return metric_in_words("val/error"), f"{whose} ({where})" if where else whose
    if stem == "features/halved_step":
        return (
            "steps until what layer l lacks of level l has halved",
            f"{term.label}: layer {number}",
        )
    return metric_in_words(term.metric), term.label


def _draw(panel: Axes, lines: Sequence[tuple[str, list[float]]]) -> None:
    for row, (_, values) in enumerate(lines):
        color = COLORS[row % len(COLORS)]
        panel.plot(values, [row] * len(values), "o", color=color, alpha=0.55, markersize=6)
        panel.plot([median(values)], [row], "|", color=_DARK, markersize=16, markeredgewidth=2)
    panel.set_yticks(range(len(lines)), [label for label, _ in lines])
    panel.set_ylim(len(lines) - 0.5, -0.5)
    panel.grid(alpha=0.3, axis="x")
    shown = [value for _, values in lines for value in values if math.isfinite(value)]
    if shown and min(shown) > 0 and max(shown) >= 8 * min(shown):
        panel.set_xscale("log")
        if max(shown) < _FEW_DECADES * min(shown):
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
