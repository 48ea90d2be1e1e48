"""The staircase: monomials on the cube as a target with layers."""

import numpy as np
import pytest
import torch

from bfc_lightning.inputs import Hypercube
from bfc_lightning.measures.levels import level_shares
from bfc_lightning.targets import Staircase
from tests.runs import fit, summary


def corners(dim):
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * dim)


@pytest.fixture(scope="module")
def target():
    return Staircase(Hypercube(5), depth=4, level_scales=[1.0, 0.5, 2.0, 0.25], seed=1)


def test_staircase_is_the_slow_formula_on_every_corner(target):
    x = corners(5)
    slow = (x.cumprod(dim=1)[:, :4] * x.new_tensor(target.level_scales)).numpy()
    np.testing.assert_allclose(target.level_outputs(x).numpy(), slow, rtol=1e-14)
    np.testing.assert_allclose(target(x).numpy(), slow.sum(axis=1), rtol=1e-14)


def test_features_are_squares_of_the_preactivations_up_to_constants(target):
    x = corners(5)
    pairs = zip(target.preactivations(x), target.features(x), strict=True)
    for level, (preactivation, feature) in enumerate(pairs, start=1):
        assert preactivation.shape == feature.shape == (32, 1)
        assert torch.equal((preactivation**2 - 2) / 2, feature)
        assert torch.equal(feature[:, 0], x[:, :level].prod(dim=1))


def test_levels_are_orthogonal_and_have_the_variance_of_their_scale(target):
    levels = target.level_outputs(corners(5))
    energy = torch.tensor(target.level_scales, dtype=torch.float64) ** 2
    torch.testing.assert_close(levels.T @ levels / 32, energy.diag(), rtol=0, atol=1e-14)
    assert float(target.variance) == pytest.approx(float(energy.sum()), rel=0.02)
    torch.testing.assert_close(level_shares(levels), energy / energy.sum(), rtol=1e-12, atol=0)


def test_learner_learns_a_staircase(tmp_path):
    config = tmp_path / "staircase.yaml"
    config.write_text(
        "inputs: {class_path: Hypercube, init_args: {input_dim: 8}}\n"
        "target: {class_path: Staircase, init_args: {depth: 3, level_scales: 0.5}}\n"
    )
    argv = ["-c", str(config), "--model.width", "16", "--trainer.max_steps", "300"]
    assert fit(tmp_path, *argv) == 0
    assert summary(tmp_path / "tiny")["metrics"]["val/nmse"] < 0.01
