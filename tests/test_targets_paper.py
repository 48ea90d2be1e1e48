"""The target of the theorem and its two hard instances."""

import numpy as np
import pytest
import torch
from reference import paper_layers, standard_errors_off
from scipy import stats

from bfc_lightning.baselines import KernelRidge
from bfc_lightning.baselines.scores import measures_of
from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.inputs import Gaussian, GaussianMixture
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HardForKernels, HardForTwoLayers, PaperTarget
from tests.runs import fit, summary


def draw(distribution, num_samples, seed=0):
    return distribution.sample(num_samples, generator(seed, "target test"))


def assert_is_the_slow_formula(target, x, sources, signs):
    """S, G and the level outputs, from the target's own weights and stated sources and signs."""
    weights = {
        (level, source): target.weight(level, source).tolist()
        for level, read in sources.items()
        for source in read
    }
    means = target.inputs.covariance.diagonal() + target.inputs.mean**2
    preactivations, features = paper_layers(
        x.tolist(), weights=weights, sources=sources, square_means=means.tolist()
    )
    close = {"rtol": 1e-10, "atol": 1e-10}
    for fast, slow in zip(target.preactivations(x), preactivations, strict=True):
        np.testing.assert_allclose(fast.numpy(), slow, **close)
    for fast, slow in zip(target.features(x), features, strict=True):
        np.testing.assert_allclose(fast.numpy(), slow, **close)
    columns = [np.zeros(len(x))]
    for scale, sign, feature in zip(target.level_scales[1:], signs, features[1:], strict=True):
        columns.append(scale * (feature * np.array(sign)).sum(axis=1))
    np.testing.assert_allclose(target.level_outputs(x).numpy(), np.stack(columns, axis=1), **close)
    np.testing.assert_allclose(target(x).numpy(), sum(columns), **close)


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        ("skip", {2: [1], 3: [0, 2], 4: [0, 1, 3], 5: [0, 1, 2, 4]}),
        ("theorem", {2: [1], 3: [0, 2], 4: [0, 1, 3], 5: [0, 1, 4]}),
        ([[1], [2, 0], [1, 3], [4, 2]], {2: [1], 3: [0, 2], 4: [1, 3], 5: [2, 4]}),
    ],
)
def test_target_is_the_slow_formula(given, sources):
    settings = {"sources": given, "kappa": 1.5, "signs": "balanced", "seed": 7}
    inputs, scales = Gaussian(5, mean=0.3, condition_number=4.0, seed=5), [1.0, 0.3, 0.02, 1e-4]
    target = PaperTarget(inputs, [3, 2, 2, 1], level_scales=scales, **settings)
    signs = [[1, 1, -1], [1, -1], [1, -1], [1]]
    assert_is_the_slow_formula(target, 0.5 * draw(target.inputs, 6), sources, signs)


def test_target_worked_by_hand():
    # x = (2, 1): G_1 = (3, 0); S_2 = 3 + 2 * 0 = 3, G_2 = 9; S_3 = 2 - 1 + 9 / 3 = 4, G_3 = 16
    target = PaperTarget(
        Gaussian(2),
        [1, 1],
        level_scales=[1.0, 0.5],
        weights=[[[[1.0, 2.0]]], [[[1.0, -1.0]], [[1 / 3]]]],
    )
    x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    assert [level.tolist() for level in target.features(x)] == [[[3.0, 0.0]], [[9.0]], [[16.0]]]
    assert target.level_outputs(x).tolist() == [[0.0, 9.0, 8.0]]
    assert target(x).tolist() == [17.0]
    assert target.level_scales == (0.0, 1.0, 0.5)
    assert target.depth == 3


def test_first_level_is_centered_for_every_distribution():
    parts = [Gaussian(4, mean=2.0, condition_number=8.0, seed=1), Gaussian(4, mean=-0.5)]
    for inputs in (parts[0], GaussianMixture(parts, weights=[0.3, 0.7])):
        feature = PaperTarget(inputs, [1]).features(draw(inputs, 2**15))[0]
        assert (standard_errors_off(feature, 0.0) < 5).all()  # n = 2^15


@pytest.mark.parametrize("kappa", [1.0, 3.0])
def test_singular_values_lie_between_the_inverse_of_kappa_and_kappa(kappa):
    target = PaperTarget(Gaussian(8), [6, 4], kappa=kappa, seed=3)
    values = torch.cat([
        torch.linalg.svdvals(target.weight(*block)) for block in ((2, 1), (3, 0), (3, 2))
    ])
    assert float(values.min()) >= 1 / kappa - 1e-12
    assert float(values.max()) <= kappa + 1e-12
    assert (float(values.max() - values.min()) > 0.5) == (kappa > 1)


def test_presets_of_the_theorem_reach_the_target():
    arguments = {"widths": "theorem", "level_scales": "theorem", "sources": "theorem"}
    target = PaperTarget(Gaussian(16), depth=4, constants=(4, 2), **arguments)
    assert target.widths == [1, 1, 1]
    # 16^(-1/16) and 16^(-1/64)
    assert target.level_scales == pytest.approx((0, 1, 2**-0.25, 2 ** (-0.25 - 1 / 16)), rel=1e-14)
    assert target.sources == [[1], [0, 2], [0, 1, 3]]


def test_signs_are_positive_or_half_negative():
    assert PaperTarget(Gaussian(4), [3, 2]).has_positive_signs
    target = PaperTarget(Gaussian(4), [3, 2], [1.0, 0.5], signs="balanced")
    assert not target.has_positive_signs
    assert target.get_buffer("readout_2").tolist() == [1.0, 1.0, -1.0]
    assert target.get_buffer("readout_3").tolist() == [0.5, -0.5]


# The hard instances


def test_hard_instance_for_kernels_is_its_formula():
    target = HardForKernels(Gaussian(9), depth=4, level_scales=[1.0, 0.1, 0.01], seed=2)
    sources = {2: [1], 3: [0, 1, 2], 4: [0, 1, 3]}
    assert target.widths == [1, 1, 1]
    for block in ((2, 1), (3, 0), (3, 1), (4, 0), (4, 1)):
        entries = target.weight(*block)[0].tolist()
        assert sorted(entries) == [0.0] + [8**-0.5] * 8
    for block in ((3, 2), (4, 3)):
        assert target.weight(*block).tolist() == [[1.0]]
    assert_is_the_slow_formula(target, 0.3 * draw(target.inputs, 5), sources, [[1]] * 3)


def test_hard_instance_for_kernels_draws_every_set_of_coordinates_equally_often(few_moments):
    # depth 2: 2 of 4 coordinates, 6 sets; n = 300, 50 a set
    sets = [
        tuple(HardForKernels(Gaussian(4), depth=2, seed=seed).weight(2, 1)[0].nonzero()[:, 0])
        for seed in range(300)
    ]
    numbers = [tuple(int(each) for each in chosen) for chosen in sets]
    counts = [numbers.count(chosen) for chosen in set(numbers)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_hard_instance_for_two_layers_is_its_formula():
    target = HardForTwoLayers(Gaussian(4), depth=5, level_scales=0.01)
    sources = {2: [1], 3: [0, 1, 2], 4: [0, 1, 2, 3], 5: [0, 1, 2, 4]}
    assert target.widths == [4, 1, 1, 1]
    assert torch.equal(target.weight(2, 1), torch.eye(4, dtype=torch.float64))
    for level, read in sources.items():
        for source in read[:-1] if level > 3 else [0, 1, 2] if level == 3 else []:
            expected = [[0.5] * 4] if source <= 2 else [[1.0]]
            assert target.weight(level, source).tolist() == expected
    signs = [[1] * 4, [1], [1], [1]]
    assert_is_the_slow_formula(target, 0.3 * draw(target.inputs, 5), sources, signs)


# Learning it


def test_learner_learns_the_target_and_level_1_has_no_residual(tmp_path):
    config = tmp_path / "paper.yaml"
    config.write_text(
        "inputs: {class_path: Gaussian, init_args: {input_dim: 6}}\n"
        "target: {class_path: PaperTarget, init_args: {widths: [1, 1], level_scales: 0.03}}\n"
        "model: {width: 16}\n"
        "data: {batch_size: 128}\n"
    )
    assert fit(tmp_path, "-c", str(config), "--trainer.max_steps", "600") == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    # a learner without the last level has 0.14; measured 0.004
    assert metrics["val/nmse"] < 0.03
    names = {name for row in read_metrics(tmp_path / "tiny" / "metrics.csv") for name in row}
    of_levels = {name for name in names if name.startswith("levels/")}
    assert {name for name in of_levels if name.endswith("_1")} == set()
    assert {"levels/residual_2", "levels/residual_3", "levels/function_error_2"} <= of_levels
    assert {"features/residual_1", "features/leakage_1", "features/richness_1"} <= names
    assert all(np.isfinite(value) for value in metrics.values() if isinstance(value, float))


def test_target_can_be_given_by_the_presets_of_the_theorem(tmp_path):
    config = tmp_path / "theorem.yaml"
    config.write_text(
        "target:\n"
        "  class_path: PaperTarget\n"
        "  init_args:\n"
        "    {depth: 3, widths: theorem, level_scales: theorem, sources: theorem,\n"
        "     constants: [3, 2], signs: balanced, kappa: 2.0}\n"
    )
    assert fit(tmp_path, "-c", str(config), "--trainer.max_steps", "2") == 0


class Zero(KernelRidge):
    def __init__(self):
        pass

    def predict(self, x):
        return torch.zeros_like(x[:, 0])

    def features(self, x):
        return []


def test_baseline_has_no_residual_of_level_1():
    target = PaperTarget(Gaussian(4), [2, 1])
    measures = measures_of(Zero(), target, draw(target.inputs, 200))
    assert measures == {f"levels/residual_{level}": pytest.approx(1) for level in (2, 3)}
