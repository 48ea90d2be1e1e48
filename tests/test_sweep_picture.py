"""The picture of a sweep shows the numbers that it should, on fitting axes."""

import numpy as np
import pytest

from bfc_lightning.experiments.sweeps.maps import MOST_MAPS
from bfc_lightning.experiments.sweeps.picture import sweep_figure
from tests.sweeps import LR, WIDTHS, parse, rows_of, write

RATES = [0.1, 0.001, 0.01]


def figure_of(tmp_path, value, **content):
    sweep = parse(write(tmp_path, seeds=[0, 1, 2], **content))
    return sweep_figure(sweep, rows_of(sweep, value), title="few")


def words_in(panel) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_one_key_is_a_line_of_medians_with_a_band_on_logarithmic_axes(tmp_path):
    figure = figure_of(
        tmp_path, lambda labels, seed: float(labels["lr"]) * 10**seed, grid={LR: RATES}
    )
    (panel,) = figure.axes
    median, dots = panel.lines
    assert list(median.get_xdata()) == [0.001, 0.01, 0.1]
    assert list(median.get_ydata()) == pytest.approx([0.01, 0.1, 1.0])
    assert sorted(dots.get_ydata())[:2] == pytest.approx([0.001, 0.01])
    assert len(dots.get_ydata()) == 9
    low, high = panel.collections[0].get_paths()[0].vertices[:, 1].min(), 10.0
    assert low == pytest.approx(0.001)
    assert panel.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(high)
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert panel.get_xlabel() == "lr"
    assert figure.get_suptitle() == "few, median and range over 3 seeds"


def test_near_numbers_are_linear_and_runs_that_did_not_finish_are_told(tmp_path):
    def value(labels, seed):
        return "diverged" if labels["width"] == "8" and seed else 0.5 + 0.1 * seed

    figure = figure_of(tmp_path, value, grid={"model.width": [4, 8, 6]})
    (panel,) = figure.axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("linear", "linear")
    ticks = [label.get_text() for label in panel.get_xticklabels()]
    assert ticks == ["4", "6", "8\n2 diverged"]
    assert panel.get_xlim() == pytest.approx((3.76, 8.24))
    assert list(panel.lines[0].get_ydata()) == pytest.approx([0.6, 0.6, 0.5])


def test_words_stand_side_by_side_without_a_line(tmp_path):
    values = {"narrow": [3, 1], "wide": [3, 2], "lost": [2, 2]}
    found = {"narrow": 0.2, "wide": 0.1, "lost": "failed"}
    figure = figure_of(
        tmp_path, lambda labels, seed: found[labels["widths"]], grid={WIDTHS: values}
    )
    (panel,) = figure.axes
    ticks = [label.get_text() for label in panel.get_xticklabels()]
    assert ticks == ["narrow", "wide", "lost\n3 failed"]
    assert {line.get_linestyle() for line in panel.lines} == {"None"}
    assert list(panel.containers[0].lines[0].get_ydata()) == [0.2, 0.1]


def test_long_words_are_turned_and_have_room(tmp_path):
    values = {f"activation_number_{number}_of_a_long_name": [3, number] for number in (1, 2, 3)}
    figure = figure_of(tmp_path, lambda labels, seed: 0.1, grid={WIDTHS: values})
    (panel,) = figure.axes
    assert {label.get_rotation() for label in panel.get_xticklabels()} == {60.0}
    figure.canvas.draw()
    assert panel.get_window_extent().height > 0.4 * figure.bbox.height


def test_points_that_are_no_grid_stand_side_by_side(tmp_path):
    points = [{"model.width": 4, LR: 0.1}, {"model.width": 8, LR: 0.2}]
    figure = figure_of(tmp_path, lambda labels, seed: 0.1, points=points)
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["4\n0.1", "8\n0.2"]
    assert figure.axes[0].get_xlabel() == "width\nlr"


def test_two_keys_are_a_heat_map_of_medians(tmp_path):
    def value(labels, seed):
        if labels == {"lr": "0.001", "width": "8"}:
            return "missing"
        if labels == {"lr": "0.1", "width": "4"} and seed == 2:
            return "diverged"
        return float(labels["lr"]) * int(labels["width"]) * 3**seed

    figure = figure_of(tmp_path, value, grid={LR: RATES, "model.width": [8, 4]})
    panel = figure.axes[0]
    table = np.asarray(panel.images[0].get_array().filled(np.nan))
    expected = [[0.012, 0.12, 0.4 * 2], [np.nan, 0.24, 2.4]]
    np.testing.assert_allclose(table, expected, rtol=1e-12)
    assert panel.images[0].norm.__class__.__name__ == "LogNorm"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["4", "8"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("lr", "width")
    assert words_in(panel)[:4] == ["1.2e-02", "1.2e-01", "8.0e-01\n1 diverged", "3 missing"]
    assert figure.get_suptitle() == "few, median over 3 seeds"


def test_key_with_one_value_is_no_axis(tmp_path):
    grid = {LR: RATES, "model.width": [4], WIDTHS: [[3, 2]]}
    figure = figure_of(tmp_path, lambda labels, seed: 0.1, grid=grid)
    assert [panel.get_xlabel() for panel in figure.axes] == ["lr"]


def test_third_key_makes_a_map_for_each_of_its_values_on_one_scale(tmp_path):
    grid = {LR: RATES, "model.width": [4, 8], "data.batch_size": [16, 32]}
    figure = figure_of(tmp_path, lambda labels, seed: float(labels["batch_size"]), grid=grid)
    maps = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title() for panel in maps] == [
        "val/nmse\nbatch_size = 16",
        "val/nmse\nbatch_size = 32",
    ]
    assert [float(panel.images[0].get_array()[0, 0]) for panel in maps] == [16.0, 32.0]
    assert maps[0].images[0].norm is maps[1].images[0].norm


def test_more_maps_than_can_be_shown_are_told(tmp_path):
    sizes = [2**number for number in range(MOST_MAPS + 3)]
    grid = {LR: RATES, "model.width": [4, 8], "data.batch_size": sizes}
    figure = figure_of(tmp_path, lambda labels, seed: 0.1, grid=grid)
    assert sum(bool(panel.images) for panel in figure.axes) == MOST_MAPS
    assert "the first 12 of 15 combinations of batch_size; all are in" in figure.get_suptitle()


def test_nothing_to_show_is_no_figure(tmp_path):
    assert figure_of(tmp_path, lambda labels, seed: "diverged") is None
    assert figure_of(tmp_path, lambda labels, seed: 0.1, metrics=["val/nope"]) is None
