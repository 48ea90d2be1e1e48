"""What a sweep says: a row for each run, medians over seeds at each point."""

from collections.abc import Sequence

from bfc_lightning.experiments.results import (
    FINISHED,
    Row,
    about_medians,
    counts,
    markdown_table,
    medians_of,
    metric_names,
    of_point,
    runs_csv,
    with_untrained,
)
from bfc_lightning.experiments.sweeps.sweep import Sweep, short_names, sweep_points, swept_keys


def sweep_csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    """`sweep.csv`: one line for each run, with every swept key and every final metric.

    Args:
        sweep: what is swept.
        rows: of all its runs.

    Returns:
        The text.
    """
    keys = swept_keys(sweep)
    labels = [[label for _, label in row.run.point.labels] for row in rows]
    return runs_csv(rows, [dict(zip(keys, mine, strict=True)) for mine in labels])


def sweep_table(sweep: Sweep, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The table of a sweep: medians over the finished runs, beside how many there are.

    Args:
        sweep: what is swept.
        rows: of all its runs.

    Returns:
        Column titles, and one row of cells for each point.
    """
    metrics = with_untrained(sweep.metrics, metric_names(rows))
    titles = [*short_names(swept_keys(sweep)).values(), "runs finished", "steps", *metrics]
    lines = [
        [
            *(label for _, label in point.labels),
            counts(of_point(rows, point)),
            *medians_of(rows, point, metrics),
        ]
        for point in sweep_points(sweep)
    ]
    return titles, lines


def sweep_markdown(
    sweep: Sweep, rows: Sequence[Row], *, title: str, command: str, settings: str
) -> str:
    """`sweep.md`: the table, what differs, and how it was made.

    Args:
        sweep: what is swept.
        rows: of all its runs.
        title: the heading.
        command: that made it.
        settings: the differing ones, as YAML.

    Returns:
        The text.
    """
    parts = [
        f"# {title}",
        about_medians(sweep.seeds),
        markdown_table(*sweep_table(sweep, rows)),
        "![metrics at each point](sweep.png)" if any(r.status == FINISHED for r in rows) else "",
        "What differs:",
        f"```yaml\n{settings}```",
        f"    {command}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
