"""What a comparison says: a row for each run, medians over seeds, as CSV and as Markdown."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.experiments.comparison import Comparison, points, trials
from bfc_lightning.experiments.limits import STOPS
from bfc_lightning.experiments.plan import PlannedRun, Point, Trial
from bfc_lightning.runs.folder import METRICS
from bfc_lightning.runs.loading import read_summary

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
INTERRUPTED, MISSING = "interrupted", "missing"
# Runs in these states are not run again.
DONE = (FINISHED, DIVERGED, *STOPS)
_ENDS = (FINISHED, DIVERGED, INTERRUPTED)
_NUMBERS = ("steps", "samples_seen", "wall_seconds")


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        run: which.
        folder: of the run.
        status: `finished`, `diverged`, `failed`, `out_of_time`, `out_of_memory`, `interrupted`
            (begun, and not at its end) or `missing`.
        summary: the content of `summary.json`, empty where there is none.
    """

    run: PlannedRun
    folder: Path
    status: str
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The last finite value of each metric."""
        values = self.summary.get("metrics", {})
        return {key: value for key, value in values.items() if value is not None}

    def curve(self) -> list[dict[str, float]]:
        """Rows of the run's `metrics.csv`."""
        path = self.folder / METRICS
        return read_metrics(path) if path.is_file() else []


def read_row(
    run: PlannedRun, folder: Path, *, end: str | None = None, is_tested: bool = False
) -> Row:
    """Looks how far a run is.

    Args:
        run: which.
        folder: of all runs.
        end: how its process was seen to end where it left no result: `failed`, or at a limit.
        is_tested: whether it is not at its end before it has a test.json, whose numbers are then
            among its metrics.

    Returns:
        The row.
    """
    summary = read_summary(folder / run.name)
    status = summary.get("status", MISSING)
    if status != MISSING and status not in _ENDS:
        status = INTERRUPTED
    if is_tested and status == FINISHED:
        path = folder / run.name / "test.json"
        tested = json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.is_file() else {}
        summary = {**summary, "metrics": {**summary.get("metrics", {}), **tested}}
        status = FINISHED if tested else INTERRUPTED
    if end is not None and status not in DONE:
        status = end
    return Row(run, folder / run.name, status, summary)


def metric_names(rows: Iterable[Row]) -> list[str]:
    """Every metric that some run logged, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row.summary.get("metrics", {})))


def as_csv(rows: Sequence[Row]) -> str:
    """`compare.csv`: one line for each run, empty cells where there is no number.

    Args:
        rows: of one comparison, at least one.

    Returns:
        The text.
    """
    where = [{"learner": row.run.point.learner, **dict(row.run.point.labels)} for row in rows]
    return runs_csv(rows, where)


def runs_csv(rows: Sequence[Row], where: Sequence[Mapping[str, object]]) -> str:
    """One line for each run, with every final metric; empty cells where there is no number.

    Args:
        rows: at least one.
        where: what each row's point is, by column; the columns of all are the same.

    Returns:
        The text.
    """
    columns = [*where[0], "seed", "status", *_NUMBERS, *metric_names(rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row, point in zip(rows, where, strict=True):
        known = {name: row.summary[name] for name in _NUMBERS if name in row.summary}
        ended = {"seed": row.run.seed, "status": row.status}
        writer.writerow({**point, **ended, **known, **row.metrics})
    return text.getvalue()


@dataclass(frozen=True)
class Band:
    """Median, lowest and highest of some numbers."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.middle:.1e}"
        return f"{self.middle:.1e} [{self.low:.1e}, {self.high:.1e}]"


def band(values: Sequence[float]) -> Band | None:
    """The band of the finite ones among some numbers; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return Band(median(finite), min(finite), max(finite)) if finite else None


def of_point(rows: Iterable[Row], point: Point, status: str | None = None) -> list[Row]:
    """The rows of a learner at a point of the grid, one for each seed, or those of one status."""
    mine = [row for row in rows if row.run.point == point]
    return [row for row in mine if status in (None, row.status)]


def final_band(rows: Iterable[Row], point: Point, metric: str) -> Band | None:
    """The band of a metric's final values over the seeds whose runs finished."""
    finished = of_point(rows, point, FINISHED)
    return band([row.metrics[metric] for row in finished if metric in row.metrics])


def counts(rows: Sequence[Row]) -> str:
    """How many runs finished, and what became of the others."""
    finished = sum(row.status == FINISHED for row in rows)
    return ", ".join([f"{finished} of {len(rows)}", *losses(rows)])


def losses(rows: Sequence[Row]) -> list[str]:
    """How many runs did not finish, in the words of each state."""
    others = [DIVERGED, FAILED, *STOPS, INTERRUPTED, MISSING]
    told = [
        (sum(row.status == status for row in rows), status.replace("_", " ")) for status in others
    ]
    return [f"{count} {name}" for count, name in told if count]


def table(
    comparison: Comparison, rows: Sequence[Row], chosen: Mapping[Point, Trial] | None = None
) -> tuple[list[str], list[list[str]]]:
    """The table of a comparison: medians over the finished runs, beside how many there are.

    Args:
        comparison: what is compared.
        rows: of all its runs.
        chosen: the trials that won, where learners are tuned.

    Returns:
        Column titles, and one row of cells for each learner and point of the grid.
    """
    metrics = with_untrained(comparison.metrics, metric_names(rows))
    is_tuned = any(trials(comparison, learner) for learner in comparison.learners)
    titles = ["learner", *comparison.grid, "runs finished"]
    titles += [*(["trials", "chosen"] if is_tuned else []), "steps", *metrics]
    lines = []
    for point in points(comparison):
        cells = [point.learner, *(label for _, label in point.labels)]
        cells.append(counts(of_point(rows, point)))
        if is_tuned:
            won = (chosen or {}).get(point)
            num_trials = len(trials(comparison, point.learner))
            cells += [str(num_trials or "-"), "-" if won is None else won.name]
        lines.append([*cells, *medians_of(rows, point, metrics)])
    return titles, lines


def medians_of(rows: Sequence[Row], point: Point, metrics: Sequence[str]) -> list[str]:
    """Steps and bands of the runs of a point that finished, as the cells of a table.

    Args:
        rows: of all runs.
        point: which.
        metrics: a cell for each, after that of the steps.

    Returns:
        The cells; a dash where there is no number.
    """
    ended = [row.summary for row in of_point(rows, point, FINISHED)]
    steps = band([summary["steps"] for summary in ended if "steps" in summary])
    bands = [final_band(rows, point, metric) for metric in metrics]
    return [_steps(steps), *("-" if found is None else str(found) for found in bands)]


def with_untrained(metrics: Sequence[str], known: Sequence[str]) -> list[str]:
    """Metrics, and beside a measure of features that of the untrained network.

    Wide layers help any probe.
    """
    wanted = [name for metric in metrics for name in (metric, f"{metric}_untrained")]
    return [name for name in dict.fromkeys(wanted) if name in metrics or name in known]


def _steps(found: Band | None) -> str:
    if found is None:
        return "-"
    if found.low == found.high:
        return f"{found.low:,.0f}"
    return f"{found.low:,.0f} to {found.high:,.0f}"


def as_markdown(
    comparison: Comparison,
    rows: Sequence[Row],
    *,
    title: str,
    command: str,
    settings: str,
    chosen: Mapping[Point, Trial] | None = None,
    sections: Sequence[str] = (),
) -> str:
    """`compare.md`: the table, what the learners differ in, and how it was made.

    Args:
        comparison: what is compared.
        rows: of all its runs.
        title: the heading.
        command: that made it.
        settings: the differing ones, as YAML.
        chosen: the trials that won, where learners are tuned.
        sections: what else there is to say, after the table.

    Returns:
        The text.
    """
    parts = [
        f"# {title}",
        about_medians(comparison.seeds),
        _about_tuning(comparison),
        markdown_table(*table(comparison, rows, chosen)),
        *sections,
        "![curves](compare.png)" if any(row.status == FINISHED for row in rows) else "",
        "What differs:",
        f"```yaml\n{settings}```",
        f"    {command}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def about_medians(seeds: Sequence[int]) -> str:
    """What the numbers of a table are."""
    listed = ", ".join(str(seed) for seed in seeds)
    return (
        f"Median [lowest, highest] over the runs that finished, of seeds {listed}. Runs that "
        "diverged, failed or were stopped at a limit have no part in the medians; they are counted "
        "beside them."
    )


def markdown_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown.

    Args:
        titles: of the columns.
        lines: the cells of each row.

    Returns:
        The text. Cells may hold the sign that parts them.
    """
    body = [titles, ["---"] * len(titles), *lines]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _about_tuning(comparison: Comparison) -> str:
    if not any(trials(comparison, learner) for learner in comparison.learners):
        return ""
    seeds = ", ".join(str(seed) for seed in comparison.tuning.seeds)
    return (
        f"Chosen among the trials by the smallest median {comparison.tuning.metric} over other "
        f"seeds, {seeds}: every trial is a line of trials.csv."
    )
