"""What a run compares with earlier steps, worked by hand."""

import copy

import pytest
import torch

from bfc_lightning import DenseNet
from bfc_lightning.milestones import Milestones, WeightMarks
from bfc_lightning.schemes import Joint, Layerwise, Progressive
from tests.runs import fit, summary

UNTRAINED = {"features/residual_1_untrained": 0.8, "features/residual_2_untrained": 0.9}


def residuals(*values: float) -> dict[str, float]:
    named = {f"features/residual_{level}": v for level, v in enumerate(values, start=1)}
    return {**UNTRAINED, **named}


def test_correction_is_the_residual_when_the_next_layer_joined_over_that_now():
    milestones = Milestones(Progressive(10).phases(3, 0))
    assert "features/correction_1" not in milestones.compare(5, residuals(0.5))
    assert milestones.compare(10, residuals(0.2))["features/correction_1"] == 1.0
    later = milestones.compare(15, residuals(0.05, 0.6))
    assert later["features/correction_1"] == pytest.approx(4.0)
    assert "features/correction_2" not in later
    milestones.compare(20, residuals(0.05, 0.3))
    last = milestones.compare(25, residuals(0.0, 0.1))
    assert last["features/correction_1"] == float("inf")
    assert last["features/correction_2"] == pytest.approx(3.0)


@pytest.mark.parametrize("scheme", [Joint(), Layerwise(10)])
def test_layers_that_do_not_train_on_have_no_correction(scheme):
    milestones = Milestones(scheme.phases(2, 20))
    for step in (10, 15):
        named = milestones.compare(step, residuals(0.2, 0.3))
        assert not [key for key in named if "correction" in key]


def test_halved_step_is_the_first_one_and_stays():
    milestones = Milestones(Joint().phases(2, 100))
    assert milestones.compare(1, {**residuals(0.5, 0.9), "levels/residual_1": 0.6}) == {}
    named = milestones.compare(7, {**residuals(0.4, 0.6), "levels/residual_1": 0.5})
    assert named == {"features/halved_step_1": 7, "levels/halved_step_1": 7}
    later = milestones.compare(9, {**residuals(0.7, 0.45), "levels/residual_1": 0.9})
    assert later == {**named, "features/halved_step_2": 9}


def test_fall_of_the_leakage_counts_from_the_first_low_error():
    milestones = Milestones(Joint().phases(2, 100))
    key = "features/consumed_leakage_1"
    assert milestones.compare(1, {"levels/nmse": 2e-3, key: 0.9}) == {}
    assert milestones.compare(2, {"levels/nmse": 1e-3, key: 0.4}) == {f"{key}_fall": 1.0}
    later = milestones.compare(3, {"levels/nmse": 5e-3, key: 0.1})
    assert later[f"{key}_fall"] == pytest.approx(4.0)


def test_weights_are_compared_with_those_before_the_next_layer_and_at_the_initialization():
    untrained = DenseNet(4, [2, 3])
    network = copy.deepcopy(untrained)
    marks = WeightMarks()
    network.active_depth = 1
    marks.update(network, 1)
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        untrained.layers[0].weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 0, 1.0, 0]]))
    assert marks.compare(network, untrained) == {
        "features/weight_correlation_initial_1": pytest.approx(0.5)
    }
    network.active_depth = 2
    marks.update(network, 2)
    with torch.no_grad():
        network.layers[0].weight[1] *= -3
    marks.update(network, 2)
    assert marks.compare(network, untrained) == {
        "features/weight_correlation_1": pytest.approx(0),
        "features/weight_correlation_initial_1": pytest.approx(0.5),
        "features/weight_correlation_initial_2": pytest.approx(1),
    }


def test_weights_are_marked_before_a_fresh_start(tmp_path):
    freeze = ["--scheme", "FreezeBelow", "--scheme.first", "1", "--scheme.steps", "[8, 12]"]
    for depth in (0, 1):
        argv = [*freeze, f"--scheme.depth={depth}", "--run.name", str(depth)]
        assert fit(tmp_path, *argv, "--num_measures", "3") == 0
        metrics = summary(tmp_path / str(depth))["metrics"]
        is_same = metrics["features/weight_correlation_1"] == pytest.approx(1, abs=1e-9)
        assert is_same == (depth == 0)  # frozen, or trained again from the initialization
        assert "features/weight_correlation_2" not in metrics
