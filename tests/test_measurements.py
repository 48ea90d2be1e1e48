"""The callback that measures: when, what, and that the learner is left alone."""

import csv
import itertools
import json

import pytest
import torch

from bfc_lightning import (
    Classification,
    DenseNet,
    Gaussian,
    HierarchicalTarget,
    Regression,
    SingleIndex,
)
from bfc_lightning.callbacks.measurements import Measurements, measure_steps
from bfc_lightning.measures.battery import MEASURES, reference_levels, take_sample, take_snapshot
from bfc_lightning.schemes import Joint, Layerwise, Progressive
from tests.runs import fit, intervene, same_weights, summary


@pytest.fixture
def problem():
    law = Gaussian(8)
    target = HierarchicalTarget(law, widths=[3, 2], level_scales=0.5, seed=1)
    return law, target, Regression(law)


def measured(network, sample) -> dict[str, float]:
    named = {}
    with torch.no_grad():
        for measure in MEASURES:
            named |= measure(take_snapshot(network, sample))
    return named


def draw(law, n: int = 4096):
    return law.sample(n, torch.Generator().manual_seed(0))


def as_learner(target: HierarchicalTarget) -> DenseNet:
    """The target itself as a network: its features are the learner's, up to shift and scale."""
    network = DenseNet(8, target.widths, level_scales=target.level_scales).double()
    below = [torch.zeros(8, dtype=torch.float64)]
    spread = [torch.ones(8, dtype=torch.float64)]
    with torch.no_grad():
        for level, layer in enumerate(network.dense_layers(), start=1):
            gain = len(target.sources[level - 1]) ** -0.5
            layer.bias.zero_()
            for source in range(level):
                block = gain * target.weight(level, source) / spread[source]
                layer.block(source).copy_(block)
                layer.bias -= block @ below[source]
            scale = target.square_weights(level) / network.scales[level - 1]
            layer.readout.copy_(scale)
            below.append(target.get_buffer(f"mean_{level}"))
            spread.append(target.get_buffer(f"std_{level}"))
            network.constant -= (target.square_weights(level) * below[-1]).sum()
    return network


def test_target_itself_has_nothing_missing_and_nothing_leaking(problem):
    law, target, labels = problem
    network = as_learner(target)
    x = draw(law)
    assert torch.allclose(network(x), target(x), atol=1e-10)
    named = measured(network, take_sample(x, target, labels, network))
    for key, value in named.items():
        if "probe" not in key and "richness" not in key:
            assert value == pytest.approx(0, abs=1e-8), key
    assert named["features/probe_1_2"] > 0.01
    assert named["features/probe_2_1"] > 0.01


def test_untrained_network_scores_its_own_control(problem):
    law, target, labels = problem
    network = DenseNet(8, [16, 16], seed=3)
    sample = take_sample(draw(law), target, labels, network)
    marks, named = reference_levels(sample), measured(network, sample)
    for level in (1, 2):
        untrained = marks[f"features/residual_{level}_untrained"]
        assert named[f"features/residual_{level}"] == pytest.approx(untrained, rel=1e-9)
        assert untrained > 0.05
    assert named["ntk/drift"] == pytest.approx(0, abs=1e-12)
    assert named["levels/nmse"] > 0.5


def test_drift_is_from_the_initialization_at_scale_1(problem):
    law, target, labels = problem
    network = DenseNet(8, [16, 16], init_scale=0.1, seed=3)
    sample = take_sample(draw(law), target, labels, network)
    assert measured(network.rescaled(1.0), sample)["ntk/drift"] == pytest.approx(0, abs=1e-12)
    assert measured(network, sample)["ntk/drift"] > 0.1


def test_layer_that_has_not_joined_has_no_keys_but_is_in_the_kernel(problem):
    law, target, labels = problem
    network = DenseNet(8, [16, 16], seed=3)
    sample = take_sample(draw(law), target, labels, network)
    network.active_depth = 1
    named = measured(network, sample)
    assert not [key for key in named if key.endswith("_2") and "levels" not in key]
    assert "features/probe_2_1" in named
    assert named["ntk/drift"] == pytest.approx(0, abs=1e-12)
    assert network.active_depth == 1


def test_classes_are_measured_where_the_target_looks(problem):
    law, _, _ = problem
    labels = Classification(law, seed=2)
    target = HierarchicalTarget(labels.target_distribution, widths=[3, 2], level_scales=0.5, seed=1)
    network = DenseNet(8, [16, 16], linear_readout=True, seed=3)
    x = draw(law)
    named = measured(network, take_sample(x, target, labels, network))
    assert not [key for key in named if key.startswith("levels/")]
    moved = x + 3.0 * (law.covariance @ labels.direction)[None]
    same = measured(network, take_sample(moved, target, labels, network))
    assert named["features/residual_1"] == pytest.approx(same["features/residual_1"], rel=1e-8)
    marks = reference_levels(take_sample(x, target, labels, network))
    errors = [marks[f"reference/truncated_error_{level}"] for level in range(3)]
    assert errors[0] > errors[1] > errors[2] == 0
    assert marks["reference/without_last_level"] == errors[1]


def test_target_without_layers_has_levels_and_kernel_only():
    law = Gaussian(8)
    target = SingleIndex(law, link="tanh")
    network = DenseNet(8, [16])
    sample = take_sample(draw(law), target, Regression(law), network)
    assert set(measured(network, sample)) == {"levels/nmse", "levels/residual_1", "ntk/drift"}
    assert set(reference_levels(sample)) == {"reference/without_last_level"}


def test_looking_leaves_the_learner_as_it_is(problem):
    law, target, labels = problem
    network = DenseNet(8, [16, 16], seed=3)
    network.train_layers([2])
    before = {k: v.clone() for k, v in network.state_dict().items()}
    measured(network, take_sample(draw(law), target, labels, network))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert not network.dense_layers()[0].weight.requires_grad


def test_joint_runs_are_measured_at_about_thirty_log_spaced_steps():
    steps = sorted(measure_steps(Joint().phases(3, 4000)))
    assert steps[0] == 0
    assert steps[-1] == 4000
    assert 25 <= len(steps) <= 32
    late = [step for step in steps if step >= 20]
    ratios = [b / a for a, b in itertools.pairwise(late)]
    assert max(ratios) < 1.4


@pytest.mark.parametrize("scheme", [Progressive(100), Layerwise([50, 200, 70])])
def test_phased_runs_are_measured_at_both_ends_of_every_phase(scheme):
    phases = scheme.phases(3, 0)
    steps = measure_steps(phases)
    for phase in phases:
        assert {phase.start, phase.start + 1, phase.stop} <= steps
    assert max(steps) == phases[-1].stop


def test_measures_land_in_every_file_at_the_steps_that_are_due(tmp_path):
    words = ["--scheme", "Progressive", "--scheme.steps", "30", "--run.figures", "true"]
    assert fit(tmp_path, "--run.name", "run", *words) == 0
    folder = tmp_path / "run"
    with (folder / "metrics.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    due = measure_steps(Progressive(30).phases(2, 0))
    assert {step for step, row in rows.items() if row["features/residual_1"]} == due
    assert {step for step, row in rows.items() if row["features/residual_2"]} == {
        step for step in due if step > 30
    }
    joined = float(rows[30]["features/residual_1"])
    last = float(rows[60]["features/residual_1"])
    assert float(rows[60]["features/correction_1"]) == pytest.approx(joined / last)
    told = json.loads((folder / "summary.json").read_text())
    assert told["metrics"]["features/residual_1"] == last
    assert 0 < told["measure_seconds"] < told["wall_seconds"]
    names = {path.name for path in (folder / "figures").glob("*.png")}
    assert names == {
        *("learning_curves.png", "feature_residuals.png", "probes.png"),
        *("leakage.png", "quadratic_form.png"),
    }


def test_measuring_changes_no_weight(tmp_path, monkeypatch):
    assert fit(tmp_path, "--run.name", "measured") == 0
    monkeypatch.setattr(Measurements, "_measure", lambda *_, **__: None)
    assert fit(tmp_path, "--run.name", "left") == 0
    assert "features/residual_1" not in summary(tmp_path / "left")["metrics"]
    assert same_weights(tmp_path / "measured", tmp_path / "left")


def test_classes_with_positive_signs_are_measured(tmp_path):
    words = ["--labels", "Classification", "--model.linear_readout", "true"]
    words += ["--target.signs", "positive", "--run.name", "run"]
    words += ["--model.positive_readout", "true"]
    assert fit(tmp_path, *words) == 0
    marks = summary(tmp_path / "run")["metrics"]
    assert 0 < marks["features/consumed_leakage_1"] <= 1
    assert marks["reference/truncated_error_2"] == 0


def test_run_that_goes_on_in_another_folder_has_its_marks_and_figures_there(tmp_path):
    words = ["--scheme", "Progressive", "--scheme.steps", "10"]
    cut = intervene("SignalAt", step=10)
    assert fit(tmp_path, "--run.name", "cut", *words, *cut) == 130
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    words += ["--resume", str(last), "--run.name", "other", "--run.figures", "true"]
    assert fit(tmp_path, *words) == 0
    told = summary(tmp_path / "other")
    assert told["status"] == "finished"
    assert told["metrics"]["features/residual_2_untrained"] > 0
    assert (tmp_path / "other" / "figures" / "probes.png").is_file()


def test_measure_may_not_take_the_name_of_another(tmp_path, capsys):
    assert fit(tmp_path, "--measures+", "tests.interventions.Usurper") == 2
    assert "Usurper must give names of its own" in capsys.readouterr().err


def test_no_measures_leave_the_error_alone(tmp_path):
    assert fit(tmp_path, "--run.name", "run", "--num_measures", "0") == 0
    told = summary(tmp_path / "run")
    assert told["measure_seconds"] == 0
    assert {key.partition("/")[0] for key in told["metrics"]} == {"train", "val"}


def test_measures_are_taken_as_often_as_asked_for(tmp_path):
    assert fit(tmp_path, "--run.name", "run", "--num_measures", "3") == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        measured = [row for row in csv.DictReader(file) if row["features/residual_1"]]
    assert len(measured) in (3, 4)
