"""What is said of a scaling: a line for each seed, a table of exponents."""

import csv
import io
import math
from collections.abc import Sequence

from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.experiments.results import FINISHED, Row, markdown_table
from bfc_lightning.experiments.scaling import (
    Median,
    asked,
    dimensions,
    exponent,
    extremes,
    medians,
    needed,
)


def scaling_csv(comparison: Comparison, rows: Sequence[Row]) -> str:
    """`scaling.csv`: one line for each learner, dimension and seed.

    Args:
        comparison: what is compared, with `scaling`.
        rows: of its runs.

    Returns:
        The text. `samples_needed` is `inf` where the error was not reached, and empty where that is
        not known; `is_bound` is `yes` where the number says "at most".
    """
    columns = ["learner", asked(comparison).dimension, "seed", "samples_needed", "is_bound"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for (learner, label, seed), mine in needed(comparison, rows).items():
        number = "" if mine.samples is None else f"{mine.samples:.6g}"
        writer.writerow([learner, label, seed, number, "yes" if mine.is_bound else "no"])
    return text.getvalue()


def scaling_table(comparison: Comparison, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Exponents, and medians of the samples needed at each dimension.

    Args:
        comparison: what is compared, with `scaling`.
        rows: of its runs.

    Returns:
        Column titles, and one row of cells for each learner.
    """
    name = asked(comparison).dimension
    titles = ["learner", "exponent", *(f"{name} = {label}" for label in dimensions(comparison))]
    _, most = extremes(comparison)
    lines = []
    for learner in comparison.learners:
        found = medians(comparison, rows, learner).values()
        cells = [_in_words(mine, most, len(comparison.seeds)) for mine in found]
        lines.append([learner, str(exponent(comparison, rows, learner)), *cells])
    return titles, lines


def _in_words(found: Median, most: float, num_seeds: int) -> str:
    if math.isnan(found.samples):
        return "-"
    words = f"{found.samples:,.0f}"
    if math.isinf(found.samples):
        words = f"> {most:,.0f}"
    elif found.is_bound:
        words = f"<= {words}"
    if found.num_reached in (0, num_seeds):
        return words
    return f"{words} ({found.num_reached} of {num_seeds})"


def about_error(comparison: Comparison) -> str:
    """What must be reached, e.g. `val/nmse <= 0.05`."""
    scaling = asked(comparison)
    return f"{scaling.metric or comparison.metrics[0]} <= {scaling.error:g}"


def about_scaling(comparison: Comparison) -> str:
    """What the table of `scaling_table` shows, in words."""
    scaling = asked(comparison)
    return (
        f"Samples needed for {about_error(comparison)}: medians over the seeds; in brackets how "
        "many reached it, where not all did. > says that it was not reached with the most samples, "
        f"<= that the fewest were enough. The exponent is that of {scaling.samples} ~ "
        f"{scaling.dimension}^exponent, with its 95 % interval over draws of the seeds; only "
        "numbers without > and <= have a part in it. Each seed is a line of scaling.csv."
    )


def scaling_sections(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """What `compare.md` says of it: words, table and picture."""
    table = markdown_table(*scaling_table(comparison, rows))
    picture = "![samples needed](scaling.png)"
    is_drawn = any(row.status == FINISHED for row in rows)
    return [about_scaling(comparison), table, *([picture] if is_drawn else [])]
