"""The picture of a sweep: metrics against what was swept."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bfc_lightning.experiments.drawing import (
    SCORES,
    add_legend,
    draw_line,
    label_places,
    metric_in_words,
    numbers_of,
    place_of,
    reference_key,
    scale_values,
    with_seeds,
)
from bfc_lightning.experiments.plan import Point
from bfc_lightning.experiments.results import (
    FINISHED,
    Row,
    final_band,
    losses,
    metric_names,
    of_point,
)
from bfc_lightning.experiments.sweeps.maps import MOST_MAPS, combinations_of, heat_maps
from bfc_lightning.experiments.sweeps.sweep import Sweep, sweep_points
from bfc_lightning.figures import COLORS

_PANELS_IN_A_ROW = 3
# Labels that would make a panel wider than this are turned.
_WIDEST_INCHES = 9.0
_TURN_DEGREES = 60
_MARGIN = 0.06
_INCHES_A_LETTER = 0.1


def sweep_figure(sweep: Sweep, rows: Sequence[Row], *, title: str) -> Figure | None:
    """The final metrics against the swept keys; keys with one value count as fixed.

    Args:
        sweep: what is swept.
        rows: of all its runs.
        title: of the figure.

    Returns:
        For one key, or points that are no grid, a panel for each metric: median and range over the
        seeds. For two keys, heat maps of the median; for more, maps over the first two for each
        combination of the others. None where no run has finished, or none logged these metrics.
    """
    logged = set(metric_names(rows))
    metrics = [metric for metric in sweep.metrics if metric in logged]
    if not metrics or not any(row.status == FINISHED for row in rows):
        return None
    points = list(sweep_points(sweep))
    axes = _axes(points)
    is_grid = math.prod(len(labels) for labels in axes.values()) == len(points)
    if is_grid and len(axes) >= 2:
        figure = heat_maps(rows, metrics, axes)
        figure.suptitle(with_seeds(title, rows, what="median") + _about_maps(axes))
    else:
        names = list(axes) or [name for name, _ in points[0].labels]
        figure = _curves(rows, metrics, _places(points, names), words="\n".join(names))
        figure.suptitle(with_seeds(title, rows))
    return figure


def _axes(points: Sequence[Point]) -> dict[str, list[str]]:
    """The labels of every key that has several, numbers in their order."""
    found: dict[str, list[str]] = {}
    for name, label in (pair for point in points for pair in point.labels):
        found.setdefault(name, [])
        if label not in found[name]:
            found[name].append(label)
    for labels in found.values():
        if numbers_of(labels) is not None:
            labels.sort(key=float)
    return {name: labels for name, labels in found.items() if len(labels) > 1}


def _about_maps(axes: Mapping[str, list[str]]) -> str:
    """Says what a figure of maps leaves out."""
    count, others = len(combinations_of(axes)), ", ".join(list(axes)[2:])
    if count <= MOST_MAPS:
        return ""
    return f"\nthe first {MOST_MAPS} of {count} combinations of {others}; all are in sweep.csv"


def _places(points: Sequence[Point], names: Sequence[str]) -> dict[str, Point]:
    """Points by what stands below them, the value of each key in a line; numbers in their order."""
    places = {
        "\n".join(label for name, label in point.labels if name in names): point for point in points
    }
    if numbers_of(list(places)) is None:
        return places
    return dict(sorted(places.items(), key=lambda place: float(place[0])))


def _curves(
    rows: Sequence[Row], metrics: Sequence[str], places: Mapping[str, Point], *, words: str
) -> Figure:
    """A panel for each metric, over numbers as a line with a band, else as dots with ranges."""
    num_columns = min(_PANELS_IN_A_ROW, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    size = _panel_inches(_ticks(rows, places), is_level=numbers_of(list(places)) is not None)
    figure = Figure(figsize=(size[0] * num_columns, size[1] * num_rows + 0.8), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for panel in panels[len(metrics) :]:
        panel.remove()
    for panel, metric in zip(panels, metrics, strict=False):
        _draw_median(panel, rows, metric, places)
        _draw_seeds(panel, rows, metric, places)
        _draw_reference(panel, rows, metric, places)
        _dress(panel, rows, metric, places)
        panel.set_xlabel(words)
    handles = {
        label: handle
        for panel in figure.axes
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    add_legend(figure, handles)
    return figure


def _draw_median(
    panel: Axes, rows: Sequence[Row], metric: str, places: Mapping[str, Point]
) -> None:
    labels = list(places)
    found = {label: final_band(rows, point, metric) for label, point in places.items()}
    spots = [(place_of(label, labels), band) for label, band in found.items() if band is not None]
    if numbers_of(labels) is not None:
        draw_line(panel, spots, number=0, label="median and range", marker=True)
        return
    panel.errorbar(
        [place for place, _ in spots],
        [band.middle for _, band in spots],
        yerr=[
            [band.middle - band.low for _, band in spots],
            [band.high - band.middle for _, band in spots],
        ],
        color=COLORS[0],
        marker="o",
        linestyle="none",
        capsize=4,
        label="median and range",
    )


def _draw_seeds(panel: Axes, rows: Sequence[Row], metric: str, places: Mapping[str, Point]) -> None:
    """A dot for each run that finished."""
    labels = list(places)
    dots = [
        (place_of(label, labels), row.metrics[metric])
        for label, point in places.items()
        for row in of_point(rows, point, FINISHED)
        if metric in row.metrics
    ]
    panel.plot(
        [x for x, _ in dots],
        [y for _, y in dots],
        color="0.45",
        marker=".",
        linestyle="none",
        markersize=4,
        label="a seed",
        zorder=1,
    )


def _draw_reference(
    panel: Axes, rows: Sequence[Row], metric: str, places: Mapping[str, Point]
) -> None:
    """What a learner without the last level, or an untrained one, has at each point."""
    labels, key = list(places), reference_key(metric)
    found = {label: final_band(rows, point, key) for label, point in places.items()}
    known = [(place_of(name, labels), band.middle) for name, band in found.items() if band]
    if not known:
        return
    is_line, is_score = numbers_of(labels) is not None, metric in SCORES
    pattern = ":" if is_score else (0, (4, 3))
    panel.plot(
        [x for x, _ in known],
        [y for _, y in known],
        color="0.35",
        linestyle=pattern if is_line else "none",
        marker="" if is_line else "_" if is_score else "x",
        markersize=14 if is_score else 6,
        label="without last level" if is_score else "untrained",
        zorder=1,
    )


def _dress(panel: Axes, rows: Sequence[Row], metric: str, places: Mapping[str, Point]) -> None:
    """Labels, with how many runs did not finish, and scales."""
    labels = list(places)
    label_places(panel, labels)
    ticks = _ticks(rows, places)
    is_level = numbers_of(labels) is not None or _row_inches(ticks) < _WIDEST_INCHES
    where = [place_of(label, labels) for label in labels]
    panel.set_xticks(where, ticks, rotation=0 if is_level else _TURN_DEGREES)
    panel.set_xlim(_limits(where, is_log=panel.get_xscale() == "log"))
    panel.set(ylabel=metric_in_words(metric), title=metric)
    panel.grid(alpha=0.3)
    scale_values(panel)


def _ticks(rows: Sequence[Row], places: Mapping[str, Point]) -> list[str]:
    """The labels of the horizontal axis, each with how many runs did not finish."""
    return ["\n".join([name, *losses(of_point(rows, point))]) for name, point in places.items()]


def _panel_inches(ticks: Sequence[str], *, is_level: bool) -> tuple[float, float]:
    """Width and height of a panel with room for its labels, side by side or turned."""
    row = _row_inches(ticks)
    if is_level or row < _WIDEST_INCHES:
        return min(max(4.6, row + 1.0), _WIDEST_INCHES), 3.6
    return _WIDEST_INCHES, 3.6 + math.sin(math.radians(_TURN_DEGREES)) * row / len(ticks)


def _row_inches(ticks: Sequence[str]) -> float:
    """How wide labels are side by side."""
    longest = max(len(line) for tick in ticks for line in tick.splitlines())
    return _INCHES_A_LETTER * (longest + 1) * len(ticks)


def _limits(places: Sequence[float], *, is_log: bool) -> tuple[float, float]:
    """The ends of the axis, with a margin; also points without a result lie on it."""
    low, high = min(places), max(places)
    if is_log:
        factor = (high / low) ** _MARGIN
        return low / factor, high * factor
    margin = _MARGIN * (high - low) or 0.5
    return low - margin, high + margin
