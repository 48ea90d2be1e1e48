"""Elements shared by all figures: the style, colors, markers, and lines with bands over seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from bfc_lightning.distillation import stage_name

# The color-blind safe palette of Okabe and Ito.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Rows = Sequence[Mapping[str, float]]


@contextmanager
def own_style() -> Iterator[None]:
    """Uses matplotlib's default style, independent of the user's configuration.

    Both drawing and saving a figure must happen inside the context. The font is DejaVu Sans, which
    matplotlib ships.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.family"] = "DejaVu Sans"
        yield


def new_figure(
    title: str,
    width: float,
    height: float,
    *,
    left: float = 0.8,
    right: float = 0.2,
    between: float = 0.1,
) -> Figure:
    """A figure whose margins hold title and labels. A layout that measures them takes longer.

    Args:
        title: title of the figure.
        width: in inches.
        height: in inches.
        left: the left margin, in inches.
        right: the right margin, in inches.
        between: the space between panels, as a fraction of their width.
    """
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=0.55 / height,
        top=1 - 0.7 / height,
        wspace=between,
    )
    figure.suptitle(title, y=1 - 0.08 / height, va="top")
    return figure


def label_powers(axis: Axis) -> None:
    """Labels a logarithmic axis with powers of ten that need no typesetting, which takes time."""

    def label(value: float, _: object) -> str:
        exponent = round(math.log10(value)) if value > 0 else 0
        is_power = math.isclose(value, 10.0**exponent)
        return f"10{str(exponent).translate(_SUPERSCRIPTS)}" if is_power else f"{value:g}"

    axis.set_major_formatter(label)


def series(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """The steps at which a key has a finite value in the rows of a run, and these values."""
    points = [(row["step"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def bands(
    runs: Sequence[Rows], key: str
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps, medians, minima and maxima of one key over several runs.

    The steps are those at which at least half of the runs have a value.
    """
    at_step: dict[float, list[float]] = {}
    for rows in runs:
        for step, value in zip(*series(rows, key), strict=True):
            at_step.setdefault(step, []).append(value)
    steps = sorted(step for step, found in at_step.items() if 2 * len(found) >= len(runs))
    found = [at_step[step] for step in steps]
    return steps, [median(v) for v in found], [min(v) for v in found], [max(v) for v in found]


def draw_band(
    panel: Axes, runs: Sequence[Rows], key: str, *, number: int, label: str, offset: int = 0
) -> None:
    """Draws the median over runs as a line, and the range as a band.

    Args:
        panel: the axes.
        runs: the rows of each run.
        key: the metric.
        number: index of the line, which determines its color and marker.
        label: label in the legend.
        offset: added to the steps. An offset of 1 shows step 0 on a logarithmic axis.
    """
    steps, middle, low, high = bands(runs, key)
    steps = [step + offset for step in steps]
    color = COLORS[number % len(COLORS)]
    marker = MARKERS[number % len(MARKERS)]
    panel.plot(steps, middle, color=color, marker=marker, markersize=4, label=label)
    if len(runs) > 1:
        panel.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)


def joined_layers(rows: Rows) -> list[tuple[float, int]]:
    """Pairs of the step at which a layer joins and its number. Restarts are not included."""
    return _changes(rows, "scheme/active_layers")


def _changes(rows: Rows, key: str) -> list[tuple[float, int]]:
    """Pairs of the step at which the value of a key changes and the new value."""
    steps, values = series(rows, key)
    before = [math.nan, *values]
    pairs = zip(steps, values, before, strict=False)
    return [(step, int(value)) for step, value, last in pairs if value != last]


def step_axis(panel: Axes, rows: Rows) -> int:
    """Formats the axis of the optimizer steps of a run.

    The axis is logarithmic by default. If layers join or stages begin during the run, it is linear,
    and vertical lines mark the steps.

    Returns:
        The offset to add to the steps, which makes step 0 visible.
    """
    stages = [(step, f"${stage_name(n)}$") for step, n in _changes(rows, "scheme/stage")]
    events = stages or [
        (step, f"layer {layer} joins" if step else f"layer {layer} alone")
        for step, layer in joined_layers(rows)
    ]
    offset = 0 if events else 1
    panel.set_xscale("log" if offset else "linear")
    if offset:
        label_powers(panel.xaxis)
    panel.set_xlabel("optimizer steps + 1" if offset else "optimizer steps")
    above = blended_transform_factory(panel.transData, panel.transAxes)
    for step, event in events:
        panel.axvline(step, color="gray", linewidth=0.8, zorder=0)
        panel.text(step, 1.01, f" {event}", transform=above, fontsize=8, color="dimgray")
    return offset


def numbered_keys(runs: Sequence[Rows], prefix: str) -> list[str]:
    """The logged keys `<prefix>1`, `<prefix>2`, ..., in order."""
    keys = {key for rows in runs for row in rows for key in row if key.startswith(prefix)}
    numbers = [key.removeprefix(prefix) for key in keys]
    return [f"{prefix}{number}" for number in sorted(int(n) for n in numbers if n.isdigit())]
