"""The verdicts as claims.json, claims.md and claims.html."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.claims.claim import Term
from bfc_lightning.experiments.claims.verdicts import DOES_NOT_HOLD, HOLDS, UNDECIDED
from bfc_lightning.experiments.plots import is_spread, metric_label, scaling_figure
from bfc_lightning.experiments.spec import Experiment
from bfc_lightning.figures.style import COLORS, own_style
from bfc_lightning.files import write_atomically, write_json

# The panel and the row of metrics that are compared with others.
_ROWS = {
    "reference/without_last_level": ("val/nmse", "{}'s target without its last level"),
    "reference/truncated_error": ("val/error", "{}'s target up to level {}"),
    "features/halved_step": ("steps until layer l halves the residual of level l", "{}: layer {}"),
}


def write_report(folder: Path, content: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    """Writes claims.json, claims.md and claims.html."""
    write_json(folder / "claims.json", dict(content))
    for kind in ("md", "html"):
        write_atomically(folder / f"claims.{kind}", rendered(kind, content, pictures))


def number(value: float) -> str:
    """A number with three significant digits."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def format_interval(condition: Mapping[str, Any]) -> str:
    """Effect and interval of a condition of claims.json, or why there is none."""
    if condition["value"] is None:
        return str(condition["reason"])
    low, high = condition["interval"]
    return f"{number(condition['value'])} [{number(low)}, {number(high)}]"


def format_bound(condition: Mapping[str, Any]) -> str:
    """The bounds of a condition of claims.json."""
    signs = {"at_least": "≥", "at_most": "≤"}
    return ", ".join(f"{signs[key]} {number(condition[key])}" for key in signs if key in condition)


def tally(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of claims of claims.json by verdict."""
    counts = Counter(claim["verdict"] for claim in claims)
    return {verdict: counts[verdict] for verdict in (HOLDS, DOES_NOT_HOLD, UNDECIDED)}


def rendered(kind: str, content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """claims.md or claims.html, which load no other files, from the content of claims.json.

    Pictures are `encoded`, by name of the claim.
    """
    loader = PackageLoader("bfc_lightning.experiments.claims", ".")
    environment = Environment(loader=loader, autoescape=select_autoescape(), trim_blocks=True)
    environment.globals.update(bound=format_bound, interval=format_interval)
    template = environment.get_template(f"page.{kind}")
    return template.render(**content, counts=tally(content["claims"]), pictures=pictures)


@own_style()
def encoded(figure: Figure) -> str:
    """A figure as a PNG in base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return base64.b64encode(file.getvalue()).decode("ascii")


@own_style()
def claim_figure(
    judgment: Mapping[str, Any], experiment: Experiment, results: pd.DataFrame
) -> Figure | None:
    """A panel per metric with a dot for every seed; the scaling figure for exponents."""
    panels: dict[str, dict[str, list[float]]] = {}
    for term in [term for condition in judgment["conditions"] for term in condition["terms"]]:
        values = list(term["values"].values())
        at = {key: term[key] for key in term if key not in ("learner", "metric", "values")}
        label = Term(term["learner"], term["metric"], at).label
        stem, _, level = term["metric"].rpartition("_")
        name, row = _ROWS.get(term["metric"]) or _ROWS.get(stem) or (term["metric"], "{}")
        if values:
            panels.setdefault(metric_label(name), {})[row.format(label, level)] = values
    if not panels:
        return scaling_figure(experiment, results)
    heights = [0.85 + 0.32 * len(rows) for rows in panels.values()]
    figure = Figure(figsize=(7.0, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (quantity, rows) in zip(axes, panels.items(), strict=True):
        _draw_dots(panel, rows)
        panel.set_xlabel(quantity)
    return figure


def _draw_dots(panel: Axes, rows: Mapping[str, Sequence[float]]) -> None:
    for place, values in enumerate(rows.values()):
        color = COLORS[place % len(COLORS)]
        panel.plot(values, [place] * len(values), "o", color=color, alpha=0.55)
        panel.plot(median(values), place, "|", color="0.1", markersize=16, markeredgewidth=2)
    panel.set_yticks(range(len(rows)), list(rows))
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(alpha=0.3, axis="x")
    if is_spread([value for values in rows.values() for value in values]):
        panel.set_xscale("log")
