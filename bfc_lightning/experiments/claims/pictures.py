"""A picture of a claim: every number that it rests on."""

import math
from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.claims.claim import Term
from bfc_lightning.experiments.claims.verdicts import Judgement
from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.experiments.pictures import metric_in_words
from bfc_lightning.experiments.results import Row
from bfc_lightning.experiments.scaling_picture import scaling_figure
from bfc_lightning.figures import COLOURS

_WIDTH = 7.0
_ROW, _PANEL = 0.32, 0.85
_DARK = "#1a1a1a"


def claim_figure(
    judgement: Judgement, comparison: Comparison, rows: Sequence[Row]
) -> Figure | None:
    """The values behind a claim: a panel for each metric, a row for each learner, a dot for a seed.

    Args:
        judgement: of the claim.
        comparison: that it is judged by.
        rows: of all its runs.

    Returns:
        The figure; that of the scaling where the claim is about exponents; None where no run gave
        a number.
    """
    found: dict[Term, dict[int, float]] = {}
    for finding in judgement.findings:
        found.update(zip(finding.condition.terms, finding.values, strict=True))
    found = {term: values for term, values in found.items() if values}
    if found:
        return _dots(found)
    if comparison.scaling is not None and any(finding.estimate for finding in judgement.findings):
        return scaling_figure(comparison, rows, title="")
    return None


def _dots(found: dict[Term, dict[int, float]]) -> Figure:
    metrics = list(dict.fromkeys(term.metric for term in found))
    panels = [[term for term in found if term.metric == metric] for metric in metrics]
    heights = [_PANEL + _ROW * len(terms) for terms in panels]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for panel, metric, terms in zip(grid[:, 0], metrics, panels, strict=True):
        _draw(panel, [(term.label, list(found[term].values())) for term in terms])
        panel.set_xlabel(metric_in_words(metric))
    return figure


def _draw(panel: Axes, lines: Sequence[tuple[str, list[float]]]) -> None:
    for row, (_, values) in enumerate(lines):
        colour = COLOURS[row % len(COLOURS)]
        panel.plot(values, [row] * len(values), "o", color=colour, alpha=0.55, markersize=6)
        panel.plot([median(values)], [row], "|", color=_DARK, markersize=16, markeredgewidth=2)
    panel.set_yticks(range(len(lines)), [label for label, _ in lines])
    panel.set_ylim(len(lines) - 0.5, -0.5)
    panel.grid(alpha=0.3, axis="x")
    shown = [value for _, values in lines for value in values if math.isfinite(value)]
    if shown and min(shown) > 0 and max(shown) >= 8 * min(shown):
        panel.set_xscale("log")
