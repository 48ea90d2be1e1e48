"""Figures show the numbers of the rows, with titles, units and legends."""

import io
import math

import matplotlib
import numpy as np

from bfc_lightning.figures.curves import feature_residuals, leakages, learning_curves
from bfc_lightning.figures.matrices import probe_heat_maps, quadratic_forms
from bfc_lightning.figures.style import bands, own_style

ROWS = [
    {"step": 0, "levels/residual_1": 1.0, "levels/residual_2": 1.0},
    {"step": 0, "reference/without_last_level": 0.05},
    {"step": 10, "val/nmse": 0.5, "levels/residual_1": 0.1},
    {"step": 20, "val/nmse": 0.1, "levels/residual_2": math.nan},
]


def test_curves_carry_the_numbers_of_the_rows():
    figure = learning_curves([ROWS], score_key="val/nmse", title="a run")
    left, right = figure.axes
    assert list(left.lines[0].get_xdata()) == [10, 20]
    assert list(left.lines[0].get_ydata()) == [0.5, 0.1]
    assert list(left.lines[1].get_ydata()) == [0.05, 0.05]
    assert list(right.lines[0].get_xdata()) == [1, 11]


def test_every_panel_has_title_labels_and_legend():
    figure = learning_curves([ROWS], score_key="val/nmse", title="a run")
    assert figure.get_suptitle() == "a run"
    for panel in figure.axes:
        assert panel.get_title()
        assert panel.get_xlabel()
        assert panel.get_ylabel()
        assert panel.get_legend().get_texts()
        assert panel.get_yscale() == "log"


PHASED = [
    {"step": 0, "scheme/active_layers": 1, "features/residual_1_untrained": 0.9},
    {"step": 0, "features/residual_1": 0.9, "features/probe_1_1": 0.9, "levels/nmse": 1.0},
    {"step": 10, "features/residual_1": 0.2, "scheme/active_layers": 2, "levels/nmse": 0.3},
    {"step": 10, "features/probe_1_1": 0.2, "features/leakage_weights_1": 0.5},
    {"step": 20, "features/residual_1": 0.01, "features/residual_2": 0.3},
    {"step": 20, "features/correction_1": 20.0, "features/probe_1_1": 0.01, "levels/nmse": 0.1},
    {"step": 20, "features/probe_2_2": 0.3, "features/leakage_weights_1": 0.1},
]


def merged(rows):
    steps = sorted({row["step"] for row in rows})
    return [{k: v for row in rows if row["step"] == s for k, v in row.items()} for s in steps]


def test_bands_are_median_and_range_where_half_of_the_runs_have_a_value():
    runs = [
        [{"step": 0, "a": 1.0}, {"step": 5, "a": 2.0}],
        [{"step": 0, "a": 3.0}, {"step": 7, "a": 9.0}],
        [{"step": 0, "a": 8.0}, {"step": 5, "a": 4.0}],
    ]
    assert bands(runs, "a") == ([0, 5], [3.0, 3.0], [1.0, 2.0], [8.0, 4.0])


def test_feature_figure_marks_joins_and_untrained_layers():
    figure = feature_residuals(merged(PHASED), title="a run")
    (panel,) = figure.axes
    assert panel.get_xscale() == "linear"
    marks = [text.get_text().strip() for text in panel.texts]
    assert marks == ["layer 1 alone", "layer 2 joins"]
    first = panel.lines[2]  # after the two marks
    assert list(first.get_xdata()) == [0, 10, 20]
    assert list(first.get_ydata()) == [0.9, 0.2, 0.01]
    assert [0.9, 0.9] in [list(line.get_ydata()) for line in panel.lines]
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["level 1", "level 2", "untrained"]


def test_joint_runs_are_drawn_over_the_logarithm_of_the_steps():
    rows = [{"step": s, "features/residual_1": 0.5} for s in (0, 1, 10)]
    (panel,) = feature_residuals(rows, title="a run").axes
    assert panel.get_xscale() == "log"
    assert list(panel.lines[0].get_xdata()) == [1, 2, 11]


def test_heat_maps_show_the_probes_at_several_steps_and_leave_out_absent_layers():
    figure = probe_heat_maps(merged(PHASED), title="a run")
    panels = figure.axes[:-1]
    assert [panel.get_title() for panel in panels] == ["step 0", "step 10", "step 20"]
    assert [text.get_text() for text in panels[0].texts] == ["0.90"]
    assert [text.get_text() for text in panels[2].texts] == ["0.01", "0.30"]
    assert figure.axes[-1].get_ylabel() == "1 - R²"


def test_leakage_is_drawn_if_it_was_measured():
    figure = leakages(merged(PHASED), title="a run")
    left, right = figure.axes
    assert 0.5 in list(right.lines[-1].get_ydata())
    assert 0.3 in list(left.lines[-1].get_ydata())


def test_quadratic_forms_share_one_scale_and_mark_the_targets_directions():
    target, learner = np.diag([1.0, -0.5, 0.0]), np.diag([0.9, -0.5, 0.1])
    figure = quadratic_forms(learner, target, num_directions=2, title="forms")
    panels = figure.axes[:3]
    titles = [panel.get_title() for panel in panels]
    assert titles == ["target, level 1", "learner, layer 1", "difference"]
    assert {panel.images[0].get_clim() for panel in panels} == {(-1.0, 1.0)}
    assert np.allclose(panels[2].images[0].get_array(), learner - target)
    assert list(panels[0].lines[0].get_ydata()) == [1.5, 1.5]


def png() -> bytes:
    buffer = io.BytesIO()
    with own_style():
        learning_curves([ROWS], score_key="val/nmse", title="a run").savefig(buffer, format="png")
    return buffer.getvalue()


def test_own_style_does_not_depend_on_the_users_configuration(caplog):
    expected = png()
    users = {"font.family": "No Such Font", "lines.linewidth": 9.0, "savefig.dpi": 30}
    with matplotlib.rc_context(users):
        assert png() == expected
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert "findfont" not in caplog.text
