"""Earlier values and present ones, by hand."""

import pytest

from bfc_lightning.callbacks.milestones import Milestones
from bfc_lightning.schemes import Joint, Layerwise, Progressive

MARKS = {"features/residual_1_untrained": 0.8, "features/residual_2_untrained": 0.9}


def residuals(*values: float) -> dict[str, float]:
    named = {f"features/residual_{level}": v for level, v in enumerate(values, start=1)}
    return {**MARKS, **named}


def test_correction_is_the_residual_at_the_join_over_the_present_one():
    milestones = Milestones(Progressive(10).phases(3, 0))
    assert "features/correction_1" not in milestones.compare(5, residuals(0.5))
    assert milestones.compare(10, residuals(0.2))["features/correction_1"] == 1.0
    later = milestones.compare(15, residuals(0.05, 0.6))
    assert later["features/correction_1"] == pytest.approx(4.0)
    assert "features/correction_2" not in later
    milestones.compare(20, residuals(0.05, 0.3))
    last = milestones.compare(25, residuals(0.01, 0.1))
    assert last["features/correction_1"] == pytest.approx(20.0)
    assert last["features/correction_2"] == pytest.approx(3.0)


@pytest.mark.parametrize("scheme", [Joint(), Layerwise(10), Progressive(10, freeze={1: 10})])
def test_layers_that_stay_as_they_are_have_no_correction(scheme):
    milestones = Milestones(scheme.phases(2, 20))
    for step in (10, 15):
        named = milestones.compare(step, residuals(0.2, 0.3))
        assert not [key for key in named if "correction" in key]


def test_residual_that_has_gone_is_an_infinite_correction():
    milestones = Milestones(Progressive(10).phases(2, 0))
    milestones.compare(10, residuals(0.2))
    assert milestones.compare(20, residuals(0.0))["features/correction_1"] == float("inf")


def test_halved_step_is_the_first_one_and_stays():
    milestones = Milestones(Joint().phases(2, 100))
    assert milestones.compare(1, {**residuals(0.5, 0.9), "levels/residual_1": 0.6}) == {}
    named = milestones.compare(7, {**residuals(0.4, 0.6), "levels/residual_1": 0.5})
    assert named == {"features/halved_step_1": 7, "levels/halved_step_1": 7}
    named = milestones.compare(9, {**residuals(0.7, 0.45), "levels/residual_1": 0.9})
    assert named == {
        "features/halved_step_1": 7,
        "features/halved_step_2": 9,
        "levels/halved_step_1": 7,
    }


def test_fall_of_the_leakage_counts_from_the_first_low_error():
    milestones = Milestones(Joint().phases(2, 100))
    key = "features/consumed_leakage_1"
    assert milestones.compare(1, {"levels/nmse": 2e-3, key: 0.9}) == {}
    assert milestones.compare(2, {"levels/nmse": 1e-3, key: 0.4}) == {f"{key}_fall": 1.0}
    later = milestones.compare(3, {"levels/nmse": 5e-3, key: 0.1})
    assert later[f"{key}_fall"] == pytest.approx(4.0)


def test_milestones_go_on_from_their_state():
    phases = Progressive(10).phases(2, 0)
    first, second = Milestones(phases), Milestones(phases)
    first.compare(10, residuals(0.2))
    second.load_state_dict(first.state_dict())
    now = residuals(0.1, 0.2)
    assert second.compare(12, now) == first.compare(12, now)
    assert second.compare(12, now)["features/correction_1"] == pytest.approx(2.0)
