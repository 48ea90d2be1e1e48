"""Tables and figures of comparisons, from made-up runs."""

import statistics
from pathlib import Path

import pytest

from bfc_lightning.experiments.comparison import planned_runs, points
from bfc_lightning.experiments.pictures import comparison_figure
from bfc_lightning.experiments.results import (
    Row,
    as_csv,
    counts,
    final_band,
    read_row,
    table,
)
from tests.comparisons import parse, write


def made_up(comparison, folder: Path, value) -> list[Row]:
    """Rows as if the runs had been: `value(run)` is the final metric, None means diverged."""
    rows = []
    for run in planned_runs(comparison):
        final = value(run)
        own = folder / run.name
        own.mkdir(parents=True)
        last = float("nan") if final is None else final
        (own / "metrics.csv").write_text(f"step,val/nmse\n0,1.0\n10,{last}\n")
        status = "diverged" if final is None else "finished"
        content = {"status": status, "steps": 10, "metrics": {"val/nmse": final}}
        rows.append(Row(run, own, status, content))
    return rows


def test_medians_counts_and_empty_cells_by_hand(tmp_path):
    comparison = parse(write(tmp_path, seeds=[0, 1, 2, 3, 4]))
    values = {0: 0.5, 1: 0.1, 2: None, 3: 0.2, 4: 0.4}
    rows = made_up(comparison, tmp_path / "runs", lambda run: values[run.seed])
    point = points(comparison)[0]
    found = final_band(rows, point, "val/nmse")
    assert (found.middle, found.low, found.high) == (pytest.approx(0.3), 0.1, 0.5)
    titles, lines = table(comparison, rows)
    assert titles == ["learner", "runs finished", "steps", "val/nmse"]
    assert lines[0] == ["narrow", "4 of 5, 1 diverged", "10", "3.0e-01 [1.0e-01, 5.0e-01]"]
    empty = [line for line in as_csv(rows).splitlines() if "diverged" in line]
    assert empty[0] == "narrow,2,diverged,10,,,"


def test_status_of_a_run_comes_from_its_summary_unless_it_was_seen_to_fail(tmp_path):
    comparison = parse(write(tmp_path))
    run = planned_runs(comparison)[0]
    assert read_row(run, tmp_path).status == "missing"
    assert read_row(run, tmp_path, end="failed").status == "failed"
    (tmp_path / run.name).mkdir()
    for stored, status, failed in (
        ("running", "interrupted", "failed"),
        ("interrupted", "interrupted", "failed"),
        ("finished", "finished", "finished"),
        ("diverged", "diverged", "diverged"),
    ):
        (tmp_path / run.name / "summary.json").write_text(f'{{"status": "{stored}"}}')
        assert read_row(run, tmp_path).status == status
        assert read_row(run, tmp_path, end="failed").status == failed
    row = Row(run, tmp_path, "missing")
    assert counts([row, Row(run, tmp_path, "finished")]) == "1 of 2, 1 missing"


def test_curves_show_medians_of_finished_runs_over_steps(tmp_path):
    comparison = parse(write(tmp_path, seeds=[0, 1, 2]))
    values = {0: 0.5, 1: 0.05, 2: 0.2}
    rows = made_up(
        comparison,
        tmp_path / "runs",
        lambda run: None if run.name == "wide-seed0" else values[run.seed],
    )
    figure = comparison_figure(comparison, rows, title="few")
    assert len(figure.axes) == 1
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["narrow"].get_xdata()) == [0, 10]
    assert list(lines["narrow"].get_ydata()) == pytest.approx([
        1,
        statistics.median([0.5, 0.05, 0.2]),
    ])
    assert list(lines["wide (1 of 3 diverged)"].get_ydata()) == pytest.approx([1, 0.125])
    assert figure.axes[0].get_yscale() == "log"


def test_grid_figure_has_a_panel_for_each_metric_and_combination(tmp_path):
    grid = {
        "ratio": {"key": "target.init_args.level_scales", "values": [0.1, 1.0]},
        "depth": {"key": "target.init_args.widths", "values": {"one": [3], "two": [3, 2]}},
    }
    comparison = parse(write(tmp_path, seeds=[0], grid=grid))
    rows = made_up(
        comparison, tmp_path / "runs", lambda run: float(dict(run.point.labels)["ratio"])
    )
    figure = comparison_figure(comparison, rows, title="few")
    assert [panel.get_title() for panel in figure.axes] == [
        "val/nmse\ndepth = one",
        "val/nmse\ndepth = two",
    ]
    for panel in figure.axes:
        assert panel.get_xscale() == "log"
        line = panel.lines[0]
        assert list(line.get_xdata()) == list(line.get_ydata()) == [0.1, 1.0]
    swapped = parse(write(tmp_path, seeds=[0], grid=dict(reversed(grid.items()))))
    rows = made_up(swapped, tmp_path / "swapped", lambda run: 1.0)
    panel = comparison_figure(swapped, rows, title="few").axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["one", "two"]
