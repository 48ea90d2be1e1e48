"""Figures show the numbers that they should, on fitting axes."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from bfc_lightning.experiments import plots
from bfc_lightning.experiments.plots import comparison_figure, write_figures
from bfc_lightning.experiments.spec import Scaling
from tests.results import experiment, results

SCALING = Scaling("d", "n", 0.1)
RATES = ["0.1", "0.001", "0.01"]


def write_history(folder, run, **columns):
    path = folder / "runs" / run / "metrics.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame(columns).to_csv(path, index=False)


def figure_of(spec, value):
    return comparison_figure(spec, results(spec, value))


def lines_of(panel):
    """Lines with data, by label."""
    return {line.get_label(): line for line in panel.lines if len(line.get_xdata())}


def ticks_of(panel):
    return [label.get_text() for label in panel.get_xticklabels()]


def band_of(panel):
    heights = panel.collections[0].get_paths()[0].vertices[:, 1]
    return heights.min(), heights.max()


def test_published_ranges_are_bars_at_the_values_of_the_axis():
    ranges = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    spec = replace(experiment(["a"], rate=RATES), published={"val/nmse": ranges})
    (panel,) = figure_of(spec, lambda *_: 1.0).axes
    bars = [line for line in panel.lines if line.get_label() == "published"]
    assert [[float(rate)] * 2 for rate in RATES] == [list(bar.get_xdata()) for bar in bars]
    assert ranges == [list(bar.get_ydata()) for bar in bars]


def test_curves_are_medians_with_ranges_over_steps(tmp_path):
    spec, final = experiment(seeds=[0, 1, 2], folder=tmp_path), {0: 0.5, 1: 0.05, 2: 0.2}
    rows = results(spec, lambda name, seed: "diverged" if (name, seed) == ("b", 0) else final[seed])
    for run, seed in zip(rows["run"], rows["seed"], strict=True):
        write_history(tmp_path, run, step=[0, 5, 10], **{"val/nmse": [1.0, None, final[seed]]})
    figure = comparison_figure(spec, rows)
    (panel,) = figure.axes
    lines = lines_of(panel)
    assert list(lines["a"].get_xdata()) == [0, 10]
    assert list(lines["a"].get_ydata()) == pytest.approx([1, 0.2])
    assert list(lines["b (1 diverged)"].get_ydata()) == pytest.approx([1, 0.125])
    assert band_of(panel) == pytest.approx((0.05, 1))
    assert panel.get_yscale() == "log"
    assert panel.get_ylabel() == "E(f - G)² / Var G"
    assert figure.get_suptitle() == f"{tmp_path.name}, median and range over 3 seeds"


def test_learner_without_a_history_is_constant(tmp_path):
    metrics = ["val/nmse", "test/nmse"]  # test scores have no history
    spec = experiment(seeds=[0], metrics=metrics, folder=tmp_path)
    write_history(tmp_path, "a-seed0", step=[0, 10], **{"val/nmse": [1.0, 0.5]})
    panel, scores = figure_of(spec, lambda name, seed: dict.fromkeys(metrics, 0.4)).axes
    assert ticks_of(scores) == ["a", "b"]
    assert list(lines_of(panel)["b"].get_xdata()) == [0, 10]
    assert list(lines_of(panel)["b"].get_ydata()) == [0.4, 0.4]


def test_reference_is_dotted(tmp_path):
    metric, key = "features/richness_1", "features/richness_1_untrained"
    spec = experiment(seeds=[0], metrics=[metric], folder=tmp_path)
    for learner in spec.learners:
        write_history(tmp_path, f"{learner}-seed0", step=[0, 10], **{metric: [1.0, 0.5]})
    figure = figure_of(spec, lambda name, seed: {metric: 0.5, key: 0.3})
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in dotted] == [[0.3, 0.3], [0.3, 0.3]]
    assert "untrained" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_final_values_without_any_history_stand_side_by_side():
    spec = experiment(["bad", "good", "lost"], seeds=[0, 1, 2])
    values = {"bad": 0.3, "good": 0.01}
    (panel,) = figure_of(spec, lambda name, seed: values.get(name, "failed")).axes
    assert ticks_of(panel) == ["bad", "good", "lost"]
    lines = lines_of(panel)
    assert [list(lines[name].get_ydata()) for name in values] == [[0.3], [0.01]]
    assert panel.get_yscale() == "log"


def test_long_labels_of_points_have_a_setting_per_line():
    labels = ["depth=3,num_train_samples=null", "depth=3,num_train_samples=600"]
    (panel,) = figure_of(experiment(seeds=[0], point=labels), lambda *_: 0.5).axes
    assert ticks_of(panel) == [label.replace(",", "\n") for label in labels]


def test_numeric_axis_is_logarithmic_and_in_order():
    spec = experiment([""], lr=RATES)
    (panel,) = figure_of(spec, lambda name, lr, seed: float(lr) * 10**seed).axes
    (line,) = lines_of(panel).values()
    assert list(line.get_xdata()) == [0.001, 0.01, 0.1]
    assert list(line.get_ydata()) == pytest.approx([0.01, 0.1, 1.0])
    assert band_of(panel) == pytest.approx((0.001, 10))
    assert (panel.get_xscale(), panel.get_yscale(), panel.get_xlabel()) == ("log", "log", "lr")


def test_close_numbers_are_linear_and_unfinished_runs_are_counted():
    spec = experiment([""], width=["4", "8", "6"])
    lost = ("8", 1), ("8", 2)
    figure = figure_of(spec, lambda _, *at: "diverged" if at in lost else 0.5 + 0.1 * at[1])
    (panel,) = figure.axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("linear", "linear")
    assert ticks_of(panel) == ["4", "6", "8"]
    (line,) = lines_of(panel).values()
    assert list(line.get_ydata()) == pytest.approx([0.6, 0.6, 0.5])
    assert line.get_label() == "2 diverged"


def test_learners_on_a_grid_have_a_panel_for_each_metric_and_combination():
    spec = experiment(metrics=["val/nmse", "x"], ratio=["0.1", "1.0"], depth=["one", "two"])
    figure = figure_of(spec, lambda name, ratio, depth, seed: {"val/nmse": float(ratio), "x": 2.0})
    assert [panel.get_title() for panel in figure.axes] == [
        f"{metric}\ndepth = {depth}" for metric in spec.metrics for depth in ("one", "two")
    ]
    for panel in figure.axes[:2]:
        assert panel.get_xscale() == "log"
        for line in lines_of(panel).values():
            assert list(line.get_xdata()) == list(line.get_ydata()) == [0.1, 1.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_two_axes_of_a_sweep_are_a_heat_map_of_medians():
    spec = experiment([""], lr=RATES, width=["8", "4"])

    def value(name, lr, width, seed):
        if (lr, width) == ("0.001", "8"):
            return "missing"
        is_lost = (lr, width, seed) == ("0.1", "4", 2)
        return "diverged" if is_lost else float(lr) * int(width) * 3**seed

    figure = figure_of(spec, value)
    panel = figure.axes[0]
    table = np.ma.filled(panel.collections[0].get_array(), np.nan)
    np.testing.assert_allclose(table, [[np.nan, 0.24, 2.4], [0.012, 0.12, 0.4 * 2]], rtol=1e-12)
    assert type(panel.collections[0].norm).__name__ == "LogNorm"
    assert ticks_of(panel) == ["0.001", "0.01", "0.1"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["8", "4"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("lr", "width")
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["3 missing", "2.4e-01", "2.4e+00", "1.2e-02", "1.2e-01", "8.0e-01\n1 diverged"]
    assert figure.get_suptitle() == "few, median over 3 seeds"


def test_nothing_to_show_is_no_figure():
    spec = experiment(["a"])
    assert figure_of(spec, lambda *_: "diverged") is None
    assert figure_of(spec, lambda *_: {"other": 0.1}) is None
    assert figure_of(spec, lambda *_: float("nan")) is None


def test_files_are_written_and_pyplot_keeps_no_figure(tmp_path):
    spec = experiment(n=["10", "100"], d=["4", "8"], scaling=SCALING, folder=tmp_path)
    rows = results(spec, lambda learner, n, d, seed: float(d) / float(n))
    write_figures(spec, rows, ["png", "svg"])
    names = {f"{name}.{form}" for name in ("compare", "scaling") for form in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_figure_that_fails_is_a_warning(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(plots, "comparison_figure", fail)
    spec = experiment(["a"], folder=tmp_path)
    with pytest.warns(UserWarning, match="figure compare could not be drawn.*no fonts"):
        write_figures(spec, results(spec, lambda *_: 0.1), ["png"])
    assert list(tmp_path.iterdir()) == []
