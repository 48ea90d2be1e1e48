"""Figures of an experiment's results: over steps, over the axes of the grid, or as heat maps."""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from bfc_lightning.experiments.scaling import SamplesNeeded
from bfc_lightning.experiments.spec import Experiment, Status
from bfc_lightning.experiments.tables import losses, rows_where
from bfc_lightning.figures.style import COLORS, MARKERS, own_style
from bfc_lightning.files import replacing

MAX_COMBINATIONS = 12
"""The most combinations of further axes that are shown."""
_SPREAD = 8.0
# "Not reached" is drawn this factor above the most samples.
_ABOVE = 1.3
_SCORES = ("val/nmse", "val/error")
_LABELS = {
    **dict.fromkeys(("val/nmse", "test/nmse"), "E(f - G)² / Var G"),
    **dict.fromkeys(("val/error", "test/error"), "wrong classes (fraction)"),
    "features/residual": "1 - R² of level {} from layer {}",
    "features/form_error": "|A_F - A_1|² / |A_1|² of layer {}",
    "features/leakage": "leakage of layer {}",
    "features/correction": "correction of layer {} (factor)",
    "features/richness": "richness of layer {}",
    "levels/residual": "residual of level {} (1: all missing)",
    "levels/function_error": "Var(c - o) / Var(o) of layer and level {}",
    "levels/function_error_projected": "projected function error of level {}",
    "ntk/drift": "drift of the kernel",
    "train/loss": "training loss",
}
Looks = Mapping[str, dict[str, Any]]
LabelsOf = Mapping[str, list[str]]


def metric_label(metric: str) -> str:
    """The label of a metric's axis; the metric's own name if none is known."""
    stem, _, level = metric.rpartition("_")
    label = _LABELS.get(metric) or (_LABELS.get(stem) if level.isdigit() else None) or metric
    return label.replace("{}", level)


def is_spread(values: ArrayLike) -> bool:
    """Whether a logarithmic scale fits: all are positive, and the largest is 8 times the least."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    return bool(found.size and found.min() > 0 and found.max() >= _SPREAD * found.min())


def write_figures(experiment: Experiment, results: pd.DataFrame, formats: Sequence[str]) -> None:
    """Writes compare.* and scaling.*; a figure that fails is a warning."""
    for name, draw in {"compare": comparison_figure, "scaling": scaling_figure}.items():
        try:
            with own_style():
                if figure := draw(experiment, results):
                    for extension in formats:
                        with replacing(experiment.folder / f"{name}.{extension}") as beside:
                            figure.savefig(beside, format=extension, dpi=150)
        except Exception as error:
            warnings.warn(f"The figure {name} could not be drawn: {error!r}.", stacklevel=2)


def comparison_figure(experiment: Experiment, results: pd.DataFrame) -> Figure | None:
    """Metrics of the finished runs; an axis with one value is ignored. None without a number."""
    results = results.replace([math.inf, -math.inf], math.nan)
    finished = results[results["status"] == Status.FINISHED]
    metrics = [key for key in experiment.metrics if key in finished and finished[key].count()]
    if not metrics:
        return None
    axes = {name: list(labels) for name, labels in experiment.axes.items() if len(labels) > 1}
    is_map = "" in experiment.learners and len(axes) > 1
    histories = pd.DataFrame() if axes else _histories(results, finished, experiment.folder)
    axes = axes or {"learner": list(experiment.learners)}
    shown = dict(itertools.islice(axes.items(), 2 if is_map else 1))
    others = {name: labels for name, labels in axes.items() if name not in shown}
    figure, panels = _layout(metrics, others, shown if is_map else {})
    looks = _looks(experiment, results)
    for metric, where, panel in panels:
        rows = rows_where(finished, where)
        if is_map:
            medians = finished.groupby(list(axes))[metric].median()
            norm = (LogNorm if is_spread(medians) else Normalize)(medians.min(), medians.max())
            _draw_map(panel, rows_where(results, where), metric, shown, norm)
        elif metric in histories:
            _draw_curves(panel, rows, metric, histories, looks)
        else:
            panel.sharey(next(first for key, _, first in panels if key == metric))
            published = experiment.published.get(metric, [])
            _draw_over_axis(panel, rows, metric, shown, looks, published)
    for metric, _, panel in panels:  # after drawing: seaborn takes medians in the panel's scale
        if not is_map and is_spread((histories if metric in histories else finished)[metric]):
            panel.set_yscale("log")
    num_seeds = finished["seed"].nunique()
    what = "median" if is_map else "median and range"
    title = experiment.folder.name
    title += f", {what} over {num_seeds} seeds" if num_seeds > 1 else ""
    if math.prod(map(len, others.values())) > MAX_COMBINATIONS:
        names = ", ".join(others)
        title += f"\nthe first {MAX_COMBINATIONS} combinations of {names}; all are in compare.csv"
    figure.suptitle(title)
    found = [panel.get_legend_handles_labels() for panel in figure.axes]
    if handles := {label: handle for pair in found for handle, label in zip(*pair, strict=True)}:
        columns = min(4, int(figure.get_figwidth() // 1.8))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
    return figure


def scaling_figure(experiment: Experiment, results: pd.DataFrame) -> Figure | None:
    """Samples needed over the dimension; above the dotted line, the error was not reached."""
    if experiment.scaling is None or not (results["status"] == Status.FINISHED).any():
        return None
    needed = SamplesNeeded(experiment, results)
    most = float(needed.samples[-1])
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    panel = figure.subplots()
    looks = _looks(experiment, results)
    for learner, look in looks.items():
        look["label"] = f"{learner}: {str(needed.exponent(learner)).split(' (')[0]}"
    x = needed.table[experiment.scaling.dimension].astype(float)
    values = needed.table["samples_needed"].clip(upper=most * _ABOVE)
    _draw_medians(panel, needed.table.assign(x=x, value=values), looks)
    panel.axhline(most, color="0.35", linestyle=":", linewidth=1, label="most samples tried")
    panel.set(xscale="log", yscale="log")
    panel.set_xticks(list(map(float, needed.dimensions)), needed.dimensions)
    panel.set_yticks(list(map(float, needed.samples)), needed.samples)
    panel.minorticks_off()
    panel.set(xlabel=experiment.scaling.dimension, ylabel=f"{experiment.scaling.samples} needed")
    figure.suptitle(f"samples needed for {needed.goal}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _layout(
    metrics: Sequence[str], others: LabelsOf, cells: LabelsOf
) -> tuple[Figure, list[tuple[str, dict[str, str], Axes]]]:
    """A panel per metric and combination of the other axes' labels."""
    labels = ([(name, label) for label in _places(others[name])[0]] for name in others)
    combinations = list(itertools.islice(itertools.product(*labels), MAX_COMBINATIONS))
    num_panels = len(metrics) * len(combinations)
    num_columns = min(num_panels, 2 if len(combinations) in (2, 4) else 3)
    num_rows = math.ceil(num_panels / num_columns)
    width, height = (0.8 * len(axis) + 2 for axis in cells.values()) if cells else (4.6, 3.3)
    inches = max(5.2, width * num_columns + 0.6), height * num_rows + 1.0
    figure, panels = Figure(figsize=inches, layout="constrained"), []
    for place, (metric, where) in enumerate(itertools.product(metrics, combinations), start=1):
        panel = figure.add_subplot(num_rows, num_columns, place)
        lines = [metric, *(f"{name} = {label}" for name, label in where)]
        panel.set_title("\n".join(lines), fontsize="medium")
        panels.append((metric, dict(where), panel))
    return figure, panels


def _looks(experiment: Experiment, results: pd.DataFrame) -> Looks:
    """Color, marker and label of every learner; the label counts runs that did not finish."""
    looks = {}
    for number, learner in enumerate(experiment.learners):
        lost = ", ".join(losses(results.loc[results["learner"] == learner, "status"]))
        looks[learner] = {
            "color": COLORS[number % len(COLORS)],
            "marker": MARKERS[(number + number // len(COLORS)) % len(MARKERS)],
            "label": (f"{learner} ({lost})" if learner and lost else learner or lost) or None,
        }
    return looks


def _places(labels: list[str]) -> tuple[dict[str, float], bool]:
    """Where labels stand: at their numbers, in increasing order, or side by side for words."""
    numbers = {label: float(pd.to_numeric(label, errors="coerce")) for label in labels}
    if all(map(math.isfinite, numbers.values())):
        return dict(sorted(numbers.items(), key=lambda pair: pair[1])), True
    return {label: float(number) for number, label in enumerate(labels)}, False


def _histories(results: pd.DataFrame, finished: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """What the runs have logged, and baselines as constants. Empty without any log."""
    paths = [folder / "runs" / run / "metrics.csv" for run in finished["run"]]
    logs = {path: pd.read_csv(path) for path in paths if path.is_file()}
    if not logs:
        return pd.DataFrame()
    logged = {column for table in logs.values() for column in table}  # no test scores
    ends, tables = [0, finished["steps"].max()], []
    first = results.groupby("run")["seed"].min()
    for path, (_, row) in zip(paths, finished.iterrows(), strict=True):
        own = logs[path] if path in logs else pd.DataFrame([row, row]).assign(step=ends)
        if "replica" in own:
            own = own[own["replica"] == row["seed"] - first[row["run"]]]
        tables.append(own.assign(learner=row["learner"]))
    return pd.concat(tables).filter([*logged, "learner"])


def _draw_curves(
    panel: Axes, finished: pd.DataFrame, metric: str, histories: pd.DataFrame, looks: Looks
) -> None:
    known = histories.assign(x=histories["step"], value=histories[metric])
    known = known[np.isfinite(known["value"])]
    num_reached = known.groupby(["learner", "x"])["value"].transform("size")
    # If fewer than half of the runs are left, the median would jump.
    known = known[2 * num_reached >= known["learner"].map(finished["learner"].value_counts())]
    ends = known["x"].agg(["min", "max"])
    _draw_medians(panel, known, looks)
    _draw_references(panel, pd.concat([finished.assign(x=x) for x in ends]), metric)
    panel.set(xlabel="optimizer steps", ylabel=metric_label(metric))


def _draw_over_axis(
    panel: Axes,
    finished: pd.DataFrame,
    metric: str,
    shown: LabelsOf,
    looks: Looks,
    published: Sequence[Sequence[float]],
) -> None:
    """Final values: a line per learner, markers alone if the labels are not numbers; ranges."""
    ((name, labels),) = shown.items()
    places, is_numeric = _places(labels)
    finished = finished.assign(x=finished[name].map(places), value=finished[metric])
    _draw_medians(panel, finished, looks, is_line=is_numeric)
    _draw_references(panel, finished, metric)
    for label, ends in zip(labels, published, strict=False):
        panel.plot([places[label]] * 2, ends, "0.8", linewidth=7, zorder=0, label="published")
    ticks = list(places.values())
    panel.set_xscale("log" if is_numeric and is_spread(ticks) else "linear")
    panel.set_xticks(ticks, [label.replace(",", "\n") for label in places])
    tilt = 90 if "," in labels[0] else 30  # several lines side by side would overlap
    panel.tick_params(axis="x", rotation=tilt if sum(map(len, labels)) > 40 else 0)
    panel.minorticks_off()
    panel.set(xlabel=name, ylabel=metric_label(metric))


def _draw_medians(panel: Axes, data: pd.DataFrame, looks: Looks, is_line: bool = True) -> None:
    """The median of `value` over `x` for each learner, with the range over seeds."""
    style: dict[str, Any] = {} if is_line else {"linestyle": "none", "err_style": "bars"}
    style = {"estimator": "median", "errorbar": ("pi", 100), "legend": False, **style}
    for learner, look in looks.items():
        mine = data.loc[data["learner"] == learner, ["x", "value"]].dropna()
        if mine.empty:
            panel.plot([], [], **look)
        else:
            sns.lineplot(mine, x="x", y="value", ax=panel, **style, **look)
    panel.grid(alpha=0.3)


def _draw_references(panel: Axes, data: pd.DataFrame, metric: str) -> None:
    """What is reached without the last level, or without training: dotted, for each learner."""
    label = "without last level" if metric in _SCORES else "untrained"
    key = "reference/without_last_level" if metric in _SCORES else f"{metric}_untrained"
    known = data[data[key] > 0] if key in data else data[:0]
    for _, rows in known.groupby("learner"):
        middle = rows.groupby("x")[key].median()
        panel.plot(middle, color="0.35", linestyle=":", linewidth=1.2, zorder=1, label=label)


def _draw_map(
    panel: Axes, rows: pd.DataFrame, metric: str, shown: LabelsOf, norm: Normalize
) -> None:
    """A cell per point of two axes: the median, and how many runs did not finish."""
    columns, lines = (list(_places(labels)[0]) for labels in shown.values())
    rows = rows.assign(value=rows[metric].where(rows["status"] == Status.FINISHED))
    cells = rows.groupby(list(shown)[::-1])
    medians = cells["value"].median().unstack().reindex(index=lines[::-1], columns=columns)
    color_bar = {"label": metric_label(metric)}
    sns.heatmap(medians, norm=norm, cmap="viridis", ax=panel, cbar_kws=color_bar)
    for (row, column), value in np.ndenumerate(medians.to_numpy()):
        lost = losses(cells.get_group((medians.index[row], columns[column]))["status"])
        text = "\n".join([f"{value:.1e}", *lost]).removeprefix("nan\n")
        color = "white" if norm(value) < 0.6 else "black"
        panel.text(column + 0.5, row + 0.5, text, fontsize=7, color=color, ha="center", va="center")
    panel.set(facecolor="lightgray")
    panel.tick_params(rotation=0)
