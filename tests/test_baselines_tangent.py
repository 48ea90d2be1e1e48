"""Tangent kernels and random features as baselines, against the equations written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bfc_lightning import EmpiricalNTK, LearnerNTK, QuadraticChainNTK, RandomFeatures, ReLUChainNTK
from bfc_lightning.baselines.base import Task
from bfc_lightning.kernels.chains import quadratic_chain_ntk, relu_chain_ntk
from bfc_lightning.kernels.learner import learner_ntk
from bfc_lightning.networks import DenseNet
from bfc_lightning.runs.folder import RunError
from tests.baseline_tasks import error, kernel_ridge, make_task
from tests.reference import tangent_kernel


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0] * x[:, 1] + 0.3 * x[:, 2] + 2


@pytest.mark.parametrize(
    ("baseline", "kernel"),
    [
        (LearnerNTK(1e-3), lambda x, y: learner_ntk(x, y, [1.0, 1.0])),
        (QuadraticChainNTK(1e-3), lambda x, y: quadratic_chain_ntk(x, y, 2, 1.0)),
        (QuadraticChainNTK(1e-3, depth=1), lambda x, y: quadratic_chain_ntk(x, y, 1, 1.0)),
        (ReLUChainNTK(1e-3, bias_std=0.5), lambda x, y: relu_chain_ntk(x, y, 2, 0.5)),
    ],
)
def test_predictions_are_those_of_kernel_ridge_regression(baseline, kernel):
    task = make_task(quadratic, num_samples=60, input_dim=5, depth=2)
    baseline.fit(task)
    new = task.holdout.inputs[:20]
    expected = kernel_ridge([kernel], task, [1e-3], new)
    np.testing.assert_allclose(baseline.predict(new), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("train_readout", [True, False])
def test_empirical_kernel_is_that_of_full_jacobians(train_readout):
    task = make_task(quadratic, num_samples=40, input_dim=5, depth=3)
    learner = DenseNet(5, [4, 4, 4], train_readout=train_readout).double()
    task = replace(task, learner=learner)
    new = task.holdout.inputs[:15]
    baseline = EmpiricalNTK(1e-3)
    baseline.fit(task)

    def kernel(x, y):
        trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        whole = tangent_kernel(learner(torch.cat([x, y])), trained)
        return torch.from_numpy(whole[: len(x), len(x) :])

    expected = kernel_ridge([kernel], task, [1e-3], new)
    np.testing.assert_allclose(baseline.predict(new), expected, rtol=1e-10, atol=1e-11)


def test_tiles_do_not_change_the_fit(monkeypatch):
    task = make_task(quadratic, num_samples=50, input_dim=4)
    whole, parts = LearnerNTK(1e-4), LearnerNTK(1e-4)
    whole.fit(task)
    monkeypatch.setattr("bfc_lightning.baselines.kernel_fit._TILE", 7)
    parts.fit(task)
    x = task.holdout.inputs
    torch.testing.assert_close(parts.predict(x), whole.predict(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "quadratic"])
def test_random_features_are_kernel_ridge_regression_with_their_kernel(activation):
    task = make_task(quadratic, num_samples=60, input_dim=5)
    baseline = RandomFeatures(width=30, activation=activation, ridge=1e-4)
    baseline.fit(task)
    new = task.holdout.inputs[:20]

    def kernel(x, y):
        return baseline.features(x)[0] @ baseline.features(y)[0].T

    expected = kernel_ridge([kernel], task, [1e-4], new)
    np.testing.assert_allclose(baseline.predict(new), expected, rtol=1e-7, atol=1e-8)


def test_random_features_follow_the_seed_and_the_formula():
    task = make_task(quadratic, num_samples=60, input_dim=5)
    first, again, other = (RandomFeatures(width=2000, activation="relu") for _ in range(3))
    first.fit(task)
    again.fit(task)
    other.fit(Task(task.train, task.holdout, task.learner, seed=1))
    x = task.holdout.inputs
    assert torch.equal(first.predict(x), again.predict(x))
    assert not torch.isclose(first.features(x)[0], other.features(x)[0]).all()
    # E relu(z)^2 = Var(z) / 2 with Var(z) = |x|^2 / d + 1
    norms = first.features(x)[0].square().sum(dim=1)
    expected = (x.square().sum(dim=1) / 5 + 1) / 2
    assert float((norms / expected - 1).abs().max()) < 0.2


def test_quadratic_random_features_learn_what_is_quadratic():
    task = make_task(quadratic, num_samples=400, input_dim=5)
    baseline = RandomFeatures(width=200, activation="quadratic", ridge=1e-10)
    baseline.fit(task)
    assert error(baseline, task) < 1e-8


def test_learner_that_the_formula_does_not_cover_is_a_mistake_of_the_user():
    task = make_task(quadratic, num_samples=10, input_dim=3)
    learner = DenseNet(3, [4, 6], positive_readout=True).double()
    with pytest.raises(RunError, match="width must be the same"):
        LearnerNTK().fit(Task(task.train, task.holdout, learner, 0))
