"""The hierarchical target: formula, normalization, moments, seeds."""

import numpy as np
import pytest
import torch
from reference import target_layers, target_levels

from bfc_lightning.inputs import Gaussian, GaussianMixture
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget, base

DENSE = [[0], [0, 1], [0, 1, 2]]
CHAIN = [[0], [1], [2]]
SKIPS = [[0], [0, 1], [0, 2]]


@pytest.fixture(scope="module")
def normalized():
    """Three levels of ratio 0.5 on N(0, 1) in eight dimensions."""
    return HierarchicalTarget(Gaussian(8), [4, 3, 2], seed=1)


@pytest.fixture(scope="module")
def on_mixture():
    parts = [Gaussian(6, mean=0.7, condition_number=5.0, seed=1), Gaussian(6, mean=-0.4)]
    distribution = GaussianMixture(parts, weights=[0.3, 0.7])
    return HierarchicalTarget(distribution, [3, 2], sources=[[0], [1]], seed=2)


def draw(distribution, num_samples, seed=0):
    return distribution.sample(num_samples, generator(seed, "target test"))


def by_hand(target, x):
    """The reference's S, G and level outputs, from the target's own numbers."""
    levels = range(1, target.depth + 1)
    weights = {
        (level, source): target.weight(level, source).numpy()
        for level in levels
        for source in target.sources[level - 1]
    }
    moments = {}
    if target.normalize:
        moments["means"] = [target.get_buffer(f"mean_{level}").numpy() for level in levels]
        moments["stds"] = [target.get_buffer(f"std_{level}").numpy() for level in levels]
    preactivations, features = target_layers(
        x.numpy(), weights=weights, sources=target.sources, **moments
    )
    columns = target_levels(
        features,
        signs=[target.get_buffer(f"signs_{level}").tolist() for level in levels],
        scales=target.level_scales,
        normalize=target.normalize,
    )
    return preactivations, features, columns


# The formula


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sources", [DENSE, CHAIN, SKIPS, "skip"])
def test_target_is_the_slow_formula(sources, normalize):
    distribution = Gaussian(6, mean=0.2, condition_number=4.0, seed=5)
    settings = {"sources": sources, "singular_values": (0.5, 1.5), "normalize": normalize}
    scales = [1.0, 0.4, 0.3]
    target = HierarchicalTarget(distribution, [4, 3, 2], level_scales=scales, seed=7, **settings)
    x = draw(distribution, 9)
    preactivations, features, columns = by_hand(target, x)
    for fast, slow in zip(target.preactivations(x), preactivations, strict=True):
        np.testing.assert_allclose(fast.numpy(), slow, rtol=1e-12, atol=1e-12)
    for fast, slow in zip(target.features(x), features, strict=True):
        np.testing.assert_allclose(fast.numpy(), slow, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(target.level_outputs(x).numpy(), columns, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(target(x).numpy(), columns.sum(axis=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("signs", "first"), [([[-1], [1]], -25.0), ("positive", 25.0)])
def test_raw_target_worked_by_hand(signs, first):
    # S_1 = 2 x_1 + x_2 = 5, G_1 = 25; S_2 = x_1 - x_2 + G_1 / 5 = 6, G_2 = 36; 0.5 * 36 = 18
    weights = [[[[2.0, 1.0]]], [[[1.0, -1.0]], [[0.2]]]]
    settings = {"level_scales": 0.5, "signs": signs, "normalize": False, "weights": weights}
    target = HierarchicalTarget(Gaussian(2), [1, 1], **settings)
    x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(target.level_outputs(x), x.new_tensor([[first, 18.0]]))
    torch.testing.assert_close(target(x), x.new_tensor([first + 18.0]))


def test_chain_sees_only_what_its_first_layer_sees():
    x = draw(Gaussian(6), 20)
    answers = {}
    for name, sources in (("chain", [[0], [1]]), ("dense", [[0], [0, 1]])):
        target = HierarchicalTarget(Gaussian(6), [3, 2], sources=sources, seed=3)
        first = target.weight(1, 0)
        unseen = x - x @ first.T @ torch.linalg.inv(first @ first.T) @ first
        answers[name] = (target(x) - target(x + 3 * unseen)).abs()
    assert float(answers["chain"].max()) < 1e-11
    assert float(answers["dense"].min()) > 1e-4


def test_weight_of_a_layer_that_is_not_read_is_zero():
    target = HierarchicalTarget(Gaussian(6), [4, 3, 2], sources=[[0], [1], [0, 2]], seed=1)
    assert target.weight(2, 0).shape == (3, 6)
    assert not target.weight(2, 0).any()
    assert target.weight(3, 1).shape == (2, 4)
    assert not target.weight(3, 1).any()
    for level, source in ((1, 0), (2, 1), (3, 0), (3, 2)):
        values = torch.linalg.svdvals(target.weight(level, source))
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-12)


# Normalization and moments


@pytest.mark.parametrize("name", ["normalized", "on_mixture"])
def test_moments_are_fixed_on_the_samples_that_the_seed_names(name, request):
    target = request.getfixturevalue(name)
    random = generator({"normalized": 1, "on_mixture": 2}[name], "moments")
    chunks = [
        target.inputs.sample(base.MOMENT_CHUNK, random) for _ in range(2**17 // base.MOMENT_CHUNK)
    ]
    x = torch.cat(chunks)
    for feature in target.features(x):
        torch.testing.assert_close(
            feature.mean(dim=0), torch.zeros_like(feature[0]), rtol=0, atol=1e-10
        )
        torch.testing.assert_close(
            feature.std(dim=0, correction=0), torch.ones_like(feature[0]), rtol=1e-10, atol=0
        )
    values = target(x)
    torch.testing.assert_close(target.mean, values.mean(), rtol=0, atol=1e-10)
    torch.testing.assert_close(target.variance, values.var(correction=0), rtol=1e-10, atol=0)


def test_normalized_level_has_a_standard_deviation_of_about_its_scale(normalized):
    stds = normalized.level_outputs(draw(normalized.inputs, 2**15)).std(dim=0)
    ratios = stds / torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    # level 1's features are independent here: exactly 1 but for sampling
    assert abs(float(ratios[0]) - 1) < 0.03
    assert float(ratios.min()) > 0.4
    assert float(ratios.max()) < 1.6


# Seeds, signs, what a target is made of


def test_state_dict_carries_the_whole_function(normalized):
    other = HierarchicalTarget(Gaussian(8), [4, 3, 2], seed=2)
    x = draw(normalized.inputs, 10)
    assert not torch.allclose(other(x), normalized(x), rtol=1e-3)
    other.load_state_dict(normalized.state_dict())
    assert torch.equal(other(x), normalized(x))
    assert torch.equal(other.mean, normalized.mean)
    assert torch.equal(other.variance, normalized.variance)


def test_target_has_nothing_to_train_and_is_kept_in_float64(normalized):
    assert list(normalized.parameters()) == []
    assert {tensor.dtype for tensor in normalized.buffers()} == {torch.float64}


def test_presets_reach_the_target():
    target = HierarchicalTarget(Gaussian(16), "roots", level_scales="roots", depth=3)
    # 16^(1/2) = 4, then max(2, 2), max(2, 1.41); alpha = 1, 1/4, 1/4 * 1/2
    assert target.widths == [4, 2, 2]
    assert target.level_scales == (1.0, 0.25, 0.125)
    assert target.sources == DENSE
    assert target.input_dim == 16
    assert target.level_outputs(draw(target.inputs, 5)).shape == (5, 3)
