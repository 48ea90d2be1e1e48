"""Which of the trials wins, and the settings that it leaves for the learner's own runs."""

import csv
import io
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bfc_lightning.experiments.commands import chosen_file, chosen_settings
from bfc_lightning.experiments.comparison import TUNE, Comparison, points, trials
from bfc_lightning.experiments.limits import forget_stop
from bfc_lightning.experiments.plan import PlannedRun, Point, Trial
from bfc_lightning.experiments.results import DONE, FINISHED, Row
from bfc_lightning.experiments.settings import RUNS, as_yaml
from bfc_lightning.files import write_atomically

_FEWEST_FOR_EDGES = 3


@dataclass(frozen=True)
class Choice:
    """The winner among a learner's trials at a point of the grid.

    Attributes:
        point: learner and point of the grid.
        trial: the settings that won.
        score: its median over the tuning seeds; infinite where no trial had a result.
        num_trials: among which it was chosen.
        at_edge: keys whose best value is the smallest or the largest that was tried, so that a
            better one may lie beyond.
    """

    point: Point
    trial: Trial
    score: float
    num_trials: int
    at_edge: tuple[str, ...]


def choose(comparison: Comparison, rows: Sequence[Row]) -> dict[Point, Choice]:
    """The best trial at each point: the smallest median over the tuning seeds.

    A run that diverged, failed or was stopped at a limit counts as infinite; the first of several
    equal ones wins.

    Args:
        comparison: what is compared.
        rows: of the trials.

    Returns:
        A choice for each point whose trials all came to an end.
    """
    found = {}
    for point in points(comparison):
        tried = trials(comparison, point.learner)
        mine = [row for row in rows if row.run.point == point]
        if not tried or any(row.status not in (*DONE, "failed") for row in mine):
            continue
        scores = {trial: _score(mine, trial, comparison.tuning.metric) for trial in tried}
        best = min(tried, key=lambda trial: scores[trial])
        edges = _edges(comparison, point.learner, best) if math.isfinite(scores[best]) else ()
        found[point] = Choice(point, best, scores[best], len(tried), edges)
    return found


def keep_choice(choice: Choice, runs: Iterable[PlannedRun], folder: Path) -> list[PlannedRun]:
    """Writes what was chosen; runs that were made with another choice are deleted.

    Args:
        choice: the winner.
        runs: those that are made with it.
        folder: of the comparison.

    Returns:
        The runs that were there and are gone.
    """
    path = folder / chosen_file(choice.point)
    text = as_yaml(chosen_settings(choice.trial))
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return []
    gone = [run for run in runs if run.point == choice.point and _forget(run, folder)]
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, text)
    return gone


def edge_warnings(choices: Mapping[Point, Choice], comparison: Comparison) -> list[str]:
    """What must be said of tuning that may have stopped short, or found nothing.

    Args:
        choices: at each point.
        comparison: what is compared.

    Returns:
        A sentence for each.
    """
    lines = []
    for choice in choices.values():
        name = choice.point.name
        if not math.isfinite(choice.score):
            lines.append(
                f"no trial of {name} gave a finite {comparison.tuning.metric}; its first is taken."
            )
        for key in choice.at_edge:
            value = dict(choice.trial.chosen)[key]
            lines.append(f"the best {key} of {name}, {value}, is at the end of those tried.")
    return lines


def trials_csv(comparison: Comparison, rows: Sequence[Row], choices: Mapping[Point, Choice]) -> str:
    """`trials.csv`: one line for each run of the tuning.

    Args:
        comparison: what is compared.
        rows: of the trials.
        choices: what was chosen so far.

    Returns:
        The text.
    """
    metric = comparison.tuning.metric
    columns = ["learner", *comparison.grid, "trial", "seed", "status", "wall_seconds", metric]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "chosen"], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        run = row.run
        assert run.trial is not None
        line = {
            "learner": run.point.learner,
            **dict(run.point.labels),
            "trial": run.trial.name,
            "seed": run.seed,
            "status": row.status,
            "wall_seconds": row.summary.get("wall_seconds", ""),
            metric: row.metrics.get(metric, ""),
        }
        if run.point in choices:
            line["chosen"] = "yes" if choices[run.point].trial == run.trial else "no"
        writer.writerow(line)
    return text.getvalue()


def _score(rows: Iterable[Row], trial: Trial, metric: str) -> float:
    """The median over the tuning seeds."""
    values = [
        row.metrics.get(metric, math.inf) if row.status == FINISHED else math.inf
        for row in rows
        if row.run.trial == trial
    ]
    return median(values)


def _edges(comparison: Comparison, learner: str, best: Trial) -> tuple[str, ...]:
    lists = comparison.learners[learner][TUNE]
    return tuple(
        key
        for key, value in best.chosen
        if isinstance(value, int | float)
        and len(lists[key]) >= _FEWEST_FOR_EDGES
        and value in (min(lists[key]), max(lists[key]))
    )


def _forget(run: PlannedRun, folder: Path) -> bool:
    """Deletes a run's folder and the note of its stop; whether there was one of them."""
    was_stopped = forget_stop(run.name, folder)
    path = folder / RUNS / run.name
    if not path.is_dir():
        return was_stopped
    shutil.rmtree(path)
    return True
