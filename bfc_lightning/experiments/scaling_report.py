"""The samples needed as CSV, table and figure."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.scaling import asked, exponent, medians, needed
from bfc_lightning.experiments.spec import FINISHED, Experiment
from bfc_lightning.figures import COLORS, MARKERS

# "Not reached" is drawn as an arrow, this factor above the most samples.
_ABOVE = 1.3


def scaling_csv(experiment: Experiment, results: pd.DataFrame) -> str:
    """`scaling.csv`: `samples_needed` is inf if the error is not reached, empty if unknown."""
    table = needed(experiment, results)
    table["is_bound"] = table["is_bound"].map({True: "yes", False: "no"})
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def scaling_table(experiment: Experiment, results: pd.DataFrame) -> pd.DataFrame:
    """Exponent and medians of every learner, as text."""
    scaling, _, samples = asked(experiment)
    lines = []
    for learner in experiment.learners:
        line = {"learner": learner, "exponent": str(exponent(experiment, results, learner))}
        for label, row in medians(experiment, results, learner).iterrows():
            text = _as_text(row, float(samples[-1]), len(experiment.seeds))
            line[f"{scaling.dimension} = {label}"] = text
        lines.append(line)
    return pd.DataFrame(lines)


def _as_text(row: "pd.Series[Any]", most: float, num_seeds: int) -> str:
    if math.isnan(row["samples"]):
        return "-"
    text = f"> {most:,.0f}" if math.isinf(row["samples"]) else f"{row['samples']:,.0f}"
    text = f"<= {text}" if row["is_bound"] and math.isfinite(row["samples"]) else text
    reached = int(row["num_reached"])
    return text if reached in (0, num_seeds) else f"{text} ({reached} of {num_seeds})"


def required_error(experiment: Experiment) -> str:
    """The error to be reached, e.g. `val/nmse <= 0.05`."""
    scaling, *_ = asked(experiment)
    return f"{scaling.metric or experiment.metrics[0]} <= {scaling.error:g}"


def about_scaling(experiment: Experiment) -> str:
    """What the numbers of `scaling_table` are."""
    scaling, *_ = asked(experiment)
    return (
        f"Samples needed for {required_error(experiment)}: medians over the seeds, followed by the "
        "number of seeds that reached it if some did not. > means not reached with the most "
        "samples, <= means that the fewest samples were enough. The exponent is that of "
        f"{scaling.samples} ~ {scaling.dimension}^exponent with its 95 % bootstrap interval over "
        "seeds, from the numbers without > and <=. scaling.csv has one row per seed."
    )


def scaling_figure(experiment: Experiment, results: pd.DataFrame) -> Figure | None:
    """Samples needed over the dimension; an open marker is a bound, an arrow "not reached"."""
    if experiment.scaling is None or not (results["status"] == FINISHED).any():
        return None
    scaling, dimensions, samples = asked(experiment)
    most = float(samples[-1])
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    panel = figure.subplots()
    panel.set(xscale="log", yscale="log")
    for number, learner in enumerate(experiment.learners):
        found = medians(experiment, results, learner)
        estimate = exponent(experiment, results, learner)
        text = "no exponent" if math.isnan(estimate.value) else str(estimate).split(" (")[0]
        text = "not reached" if np.isinf(found["samples"]).all() else text
        _draw(panel, found, most * _ABOVE, number=number, label=f"{learner}: {text}")
    panel.axhline(most, color="0.35", linestyle=":", linewidth=1, label="most samples tried")
    panel.set_xticks(list(map(float, dimensions)), dimensions)
    panel.set_yticks(list(map(float, samples)), samples)
    panel.minorticks_off()
    panel.set_ylim(top=most * _ABOVE**2)
    panel.set(xlabel=scaling.dimension, ylabel=f"{scaling.samples} needed")
    panel.grid(alpha=0.3)
    figure.suptitle(f"samples needed for {required_error(experiment)}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw(panel: Axes, found: pd.DataFrame, above: float, *, number: int, label: str) -> None:
    look: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "markersize": 6}
    dots = look | {"marker": MARKERS[number % len(MARKERS)]}
    found = found.set_index(found.index.astype(float))
    reached, lost = found[np.isfinite(found["samples"])], found[np.isinf(found["samples"])]
    panel.plot(reached["samples"], label=label, **dots)
    high = reached["high"].clip(upper=above * _ABOVE)
    panel.fill_between(reached.index, reached["low"], high, color=look["color"], alpha=0.15, lw=0)
    bounds = reached.loc[reached["is_bound"], "samples"]
    panel.plot(bounds, linestyle="none", markerfacecolor="white", **dots)
    arrow = look | {"marker": r"$\uparrow$", "markersize": 10, "linestyle": "none"}
    panel.plot(lost.index, [above] * len(lost), **arrow)
