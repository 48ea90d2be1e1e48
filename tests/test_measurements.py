"""Measurements: at which steps, which numbers, and that they do not change the learner."""

import copy
import itertools
import math

import pytest
import torch

from bfc_lightning import (
    Classification,
    DenseNet,
    Gaussian,
    HierarchicalTarget,
    PaperTarget,
    Regression,
    SingleIndex,
)
from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.measures.battery import MEASURES, reference_levels, take_sample, take_snapshot
from bfc_lightning.schemes import Joint, Layerwise, Progressive
from tests.runs import fit, same_weights, summary


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


def test_undefined_measures_of_a_wide_level_without_weight_are_absent():
    law = Gaussian(45)
    target = PaperTarget(law, [2])
    network = DenseNet(45, [4, 4], level_scales=target.level_scales)
    named = measured(network, take_sample(draw(law, 512), target, Regression(law), network))
    absent = {"levels/residual_1", "levels/function_error_1", "features/richness_1"}
    assert absent.isdisjoint(named)
    present = {name.replace("_1", "_2") for name in absent}
    assert present | {"features/residual_1", "features/leakage_1"} <= named.keys()
    assert all(math.isfinite(value) for value in named.values())


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


def test_untrained_network_has_its_own_reference_levels(problem):
    law, target, labels = problem
    network = DenseNet(8, [16, 16], seed=3)
    sample = take_sample(draw(law), target, labels, network)
    references, named = reference_levels(sample), measured(network, sample)
    for level in (1, 2):
        untrained = references[f"features/residual_{level}_untrained"]
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


def test_classes_are_measured_in_the_subspace_of_the_target(problem):
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
    references = reference_levels(take_sample(x, target, labels, network))
    errors = [references[f"reference/truncated_error_{level}"] for level in range(3)]
    assert errors[0] > errors[1] > errors[2] == 0
    assert references["reference/without_last_level"] == errors[1]


def test_target_without_layers_has_levels_and_kernel_only():
    law = Gaussian(8)
    target = SingleIndex(law, link="tanh")
    network = DenseNet(8, [16])
    sample = take_sample(draw(law), target, Regression(law), network)
    assert set(measured(network, sample)) == {"levels/nmse", "levels/residual_1", "ntk/drift"}
    assert set(reference_levels(sample)) == {"reference/share_1", "reference/without_last_level"}


def test_float32_learner_has_the_measures_of_its_float64_copy(problem):
    law, target, labels = problem
    network = DenseNet(8, [16, 16], seed=3)
    sample = take_sample(draw(law), target, labels, network)
    single, exact = (measured(each, sample) for each in (network, copy.deepcopy(network).double()))
    assert single == pytest.approx(exact, rel=1e-5, abs=1e-12)
    snapshot = take_snapshot(network, sample)
    layers = [*snapshot.preactivations, *snapshot.features]
    assert {layer.dtype for layer in (*layers, snapshot.prediction)} == {torch.float64}


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


def test_measures_are_logged_at_their_steps(tmp_path):
    assert fit(tmp_path, "--scheme", "Progressive", "--scheme.steps", "30") == 0
    rows = {int(row["step"]): row for row in read_metrics(tmp_path / "tiny" / "metrics.csv")}
    due = measure_steps(Progressive(30).phases(2, 0), 8)
    for level, first in ((1, 0), (2, 31)):
        key = f"features/residual_{level}"
        assert {step for step, row in rows.items() if key in row} == {n for n in due if n >= first}
    joined, last = (rows[step]["features/residual_1"] for step in (30, 60))
    assert rows[60]["features/correction_1"] == pytest.approx(joined / last)
    content = summary(tmp_path / "tiny")
    assert content["metrics"]["features/residual_1"] == last
    assert 0 < content["measure_seconds"] < content["wall_seconds"]


def test_measuring_changes_no_weight_however_often(tmp_path):
    assert fit(tmp_path, "--run.name", "measured", "--num_measures", "3") == 0
    rows = read_metrics(tmp_path / "measured" / "metrics.csv")
    assert len([row for row in rows if "features/residual_1" in row]) in (3, 4)
    assert fit(tmp_path, "--run.name", "unmeasured", "--num_measures", "0") == 0
    assert same_weights(tmp_path / "measured", tmp_path / "unmeasured")
    content = summary(tmp_path / "unmeasured")
    assert content["measure_seconds"] == 0
    assert {key.partition("/")[0] for key in content["metrics"]} == {"train", "val"}


def test_classes_with_positive_signs_are_measured(tmp_path):
    argv = ["--labels", "Classification", "--model.linear_readout", "true"]
    argv += ["--target.signs", "positive", "--model.positive_readout", "true"]
    assert fit(tmp_path, *argv) == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert 0 < metrics["features/consumed_leakage_1"] <= 1
    assert metrics["reference/truncated_error_2"] == 0
