"""An experiment's results: which trials win, and tables as CSV, Markdown and LaTeX."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from bfc_lightning.experiments.scaling import SamplesNeeded
from bfc_lightning.experiments.spec import DONE, Chosen, Experiment, Status, trials_of
from bfc_lightning.files import write_atomically
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.settings import did_you_mean

_MIN_VALUES_FOR_EDGES = 3


def load_results(path: str | Path) -> pd.DataFrame:
    """The rows of `compare.csv`, given the file or its folder; labels stay text, as in `0.50`."""
    file = Path(path)
    file = file / "compare.csv" if file.is_dir() else file
    rows = pd.read_csv(file, dtype="str", keep_default_na=False)
    numbers = rows.loc[:, "status":].columns[1:]
    rows[numbers] = rows[numbers].replace("", "nan").astype(float)
    return rows.astype({"seed": int})


def rows_where(rows: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """The rows with these labels."""
    return rows[(rows[list(labels)] == list(labels.values())).all(axis=1)]


def losses(status: "pd.Series[str]") -> list[str]:
    """How many runs did not finish, e.g. `1 diverged`, by status."""
    counts = status[status != Status.FINISHED].value_counts().sort_index()
    return [f"{count} {name}" for name, count in counts.items()]


def by_point(experiment: Experiment, rows: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The rows of every learner at every point of the grid, in the order of the rows."""
    return () if rows.empty else rows.groupby(["learner", *experiment.axes], sort=False)


def choose(experiment: Experiment, trials: pd.DataFrame) -> Chosen:
    """The trial with the smallest median over the tuning seeds; the first of several equal ones.

    A trial that diverged or met a limit counts as infinite; those that failed are waited for.
    """
    text = unlogged([experiment.tuning.metric], trials)
    if text and trials["status"].isin(DONE).all():
        raise RunError(f"tuning.metric: trials finished{text}")
    return {
        point: str(_scores(experiment, rows).idxmin())
        for point, rows in by_point(experiment, trials)
        if rows["status"].isin(DONE).all()
    }


def unlogged(metrics: Iterable[str], rows: pd.DataFrame) -> str:
    """` without metric 'x'`, which no finished run has logged, and the closest name, or nothing."""
    absent = [metric for metric in metrics if metric not in rows]
    if not absent or rows.empty or Status.FINISHED not in rows["status"].to_numpy():
        return ""
    return f" without metric {absent[0]!r}.{did_you_mean(absent[0], list(rows.columns))}"


def edge_warnings(experiment: Experiment, chosen: Chosen, trials: pd.DataFrame) -> Iterator[str]:
    """Warnings about the tuning: no finite score, or the best value is the first or last tried."""
    for point, rows in by_point(experiment, trials):
        if point not in chosen:
            continue
        name = rows["run"].iloc[0].rpartition("-trial(")[0]
        if math.isinf(_scores(experiment, rows).min()):
            metric = experiment.tuning.metric
            yield f"No trial of {name} has a finite {metric}; the first one is used."
            continue
        block = experiment.learners[point[0]]
        for key, value in trials_of(block)[chosen[point]].items():
            tried = block["tune"][key]
            has_ends = len(tried) >= _MIN_VALUES_FOR_EDGES and isinstance(value, int | float)
            if has_ends and value in (min(tried), max(tried)):
                yield f"The best {key} of {name}, {value}, is at the end of the values tried."


def _scores(experiment: Experiment, rows: pd.DataFrame) -> "pd.Series[float]":
    """The median over the tuning seeds by trial, in the order of the rows."""
    scores = rows.reindex(columns=[experiment.tuning.metric])[experiment.tuning.metric]
    scores = scores.where(rows["status"] == Status.FINISHED).fillna(math.inf)
    return scores.groupby(rows["trial"], sort=False).median()


def summary_table(experiment: Experiment, results: pd.DataFrame, chosen: Chosen) -> pd.DataFrame:
    """One row per learner and point: counts, and medians with ranges over the finished runs."""
    wanted = [name for key in experiment.metrics for name in (key, f"{key}_untrained")]
    metrics = [name for name in wanted if name in experiment.metrics or name in results]
    trials = {name: len(trials_of(block)) for name, block in experiment.learners.items()}
    lines = []
    for point, rows in by_point(experiment, results):
        finished = rows[rows["status"] == Status.FINISHED]
        steps = finished["steps"].agg(["min", "max"]).dropna().unique()
        lines.append({
            **dict(zip(("learner", *experiment.axes), point, strict=True)),
            "runs finished": ", ".join([
                f"{len(finished)} of {len(rows)}",
                *losses(rows["status"]),
            ]),
            "trials": str(trials[point[0]] or "-"),
            "chosen": chosen.get(point, "-"),
            "steps": " to ".join(f"{end:,.0f}" for end in steps) or "-",
            **{key: _median(finished[key]) if key in finished else "-" for key in metrics},
        })
    absent = [] if any(trials.values()) else ["trials", "chosen"]
    absent += ["learner"] if "" in experiment.learners else []
    return pd.DataFrame(lines).drop(columns=absent)


def _median(values: "pd.Series[float]") -> str:
    values = values[np.isfinite(values)]
    low, middle, high = (f"{values.quantile(share):.1e}" for share in (0, 0.5, 1))
    if values.empty:
        return "-"
    return middle if values.nunique() == 1 else f"{middle} [{low}, {high}]"


def markdown_table(table: pd.DataFrame) -> str:
    """A table of text as Markdown; cells may contain `|`."""
    body = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_tables(
    experiment: Experiment, results: pd.DataFrame, chosen: Chosen, trials: pd.DataFrame
) -> None:
    """Writes compare.csv, compare.md and compare.tex; trials.csv and scaling.csv if they apply."""
    table = summary_table(experiment, results, chosen)
    counts = results.astype({"steps": "Int64", "samples_seen": "Int64"})
    texts = {
        "compare.csv": counts.to_csv(index=False, lineterminator="\n"),
        "compare.md": _markdown(experiment, results, table),
        "compare.tex": table.to_latex(index=False, escape=True),
    }
    if not trials.empty:
        texts["trials.csv"] = _trials_csv(experiment, trials, chosen)
    if experiment.scaling is not None:
        texts["scaling.csv"] = SamplesNeeded(experiment, results).to_csv()
    for name, text in texts.items():
        write_atomically(experiment.folder / name, text)


def _markdown(experiment: Experiment, results: pd.DataFrame, table: pd.DataFrame) -> str:
    keys, source = ("learners", "grid", "points"), experiment.source
    differing = {key: getattr(source, key) for key in keys if getattr(source, key)}
    settings = yaml.safe_dump(differing, sort_keys=False, default_flow_style=None, width=100)
    is_drawn = Status.FINISHED in results["status"].to_numpy()
    parts = [f"# {experiment.folder.name}", _about(experiment), markdown_table(table)]
    if experiment.scaling is not None:
        needed = SamplesNeeded(experiment, results)
        parts += [needed.about(), markdown_table(needed.summary())]
        parts += ["![samples needed](scaling.png)"] if is_drawn else []
    parts += ["![metrics](compare.png)"] if is_drawn else []
    parts += ["What differs:", f"```yaml\n{settings}```", f"    {experiment.command}"]
    return "\n\n".join(parts) + "\n"


def _about(experiment: Experiment) -> str:
    """What the numbers of the table are."""
    text = (
        "Median [lowest, highest] over the finished runs of seeds "
        f"{', '.join(map(str, experiment.seeds))}. Runs that diverged, failed or were stopped at a "
        "limit are counted, but have no part in the medians."
    )
    if any(map(trials_of, experiment.learners.values())):
        text += (
            f" Tuned values have the smallest median {experiment.tuning.metric} over the tuning "
            f"seeds {', '.join(map(str, experiment.tuning.seeds))}; see trials.csv."
        )
    return text


def _trials_csv(experiment: Experiment, trials: pd.DataFrame, chosen: Chosen) -> str:
    """One row per run of the tuning; `chosen` is empty until the choice is made."""
    points = trials[["learner", *experiment.axes]].itertuples(index=False, name=None)
    pairs = zip(map(chosen.get, points), trials["trial"], strict=True)
    won = ["yes" if best == trial else "no" if best else "" for best, trial in pairs]
    columns = ["learner", *experiment.axes, "trial", "seed", "status", "wall_seconds"]
    table = trials.reindex(columns=[*columns, experiment.tuning.metric]).assign(chosen=won)
    return table.to_csv(index=False, lineterminator="\n")
