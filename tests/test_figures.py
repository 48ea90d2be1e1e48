"""Figures show what the rows say, with titles, units and legends."""

import math

from bfc_lightning.figures import COLOURS, learning_curves, series

ROWS = [
    {"step": 0, "levels/residual_1": 1.0, "levels/residual_2": 1.0},
    {"step": 0, "reference/without_last_level": 0.05},
    {"step": 10, "val/nmse": 0.5, "levels/residual_1": 0.1},
    {"step": 20, "val/nmse": 0.1, "levels/residual_2": math.nan},
]


def test_series_leaves_out_what_is_missing_or_not_finite():
    assert series(ROWS, "val/nmse") == ([10, 20], [0.5, 0.1])
    assert series(ROWS, "levels/residual_2") == ([0], [1.0])


def test_curves_carry_the_numbers_of_the_rows():
    figure = learning_curves(ROWS, score_key="val/nmse", title="a run")
    left, right = figure.axes
    assert list(left.lines[0].get_xdata()) == [10, 20]
    assert list(left.lines[0].get_ydata()) == [0.5, 0.1]
    assert list(left.lines[1].get_ydata()) == [0.05, 0.05]
    assert list(right.lines[0].get_xdata()) == [1, 11]


def test_every_panel_says_what_it_shows():
    figure = learning_curves(ROWS, score_key="val/nmse", title="a run")
    assert figure.get_suptitle() == "a run"
    for panel in figure.axes:
        assert panel.get_title()
        assert panel.get_xlabel()
        assert panel.get_ylabel()
        assert panel.get_legend().get_texts()
        assert panel.get_yscale() == "log"


def test_run_without_levels_has_one_panel():
    rows = [{"step": 10, "val/error": 0.5}]
    figure = learning_curves(rows, score_key="val/error", title="classes")
    assert len(figure.axes) == 1
    assert "wrong classes" in figure.axes[0].get_ylabel()


def test_colours_are_all_different():
    assert len(set(COLOURS)) == len(COLOURS) == 7
