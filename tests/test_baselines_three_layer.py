"""Networks in stages: the steps against autograd, samples of their own, and who gets further."""

import numpy as np
import pytest
import torch

from bfc_lightning import (
    DenseNet,
    Gaussian,
    QuadraticFeature,
    SteppedThreeLayer,
    ThreeLayer,
    TwoLayer,
)
from bfc_lightning.baselines.base import Task
from bfc_lightning.baselines.readout import fit_readout
from bfc_lightning.baselines.three_layer import gradient_steps
from bfc_lightning.seeds import generator
from bfc_lightning.types import Batch
from tests.baseline_tasks import error, make_task

ALL = [TwoLayer, ThreeLayer, SteppedThreeLayer]


def form(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0] * x[:, 1] + 0.5 * (x[:, 2] ** 2 - 1) + 1


def test_gradient_step_is_that_of_autograd():
    task = make_task(form, num_samples=50, input_dim=4)
    x, y = task.train.inputs, task.train.labels - 1
    neurons = torch.randn(6, 4, generator=generator(0, "w"), dtype=torch.float64).requires_grad_()
    z = x @ neurons.T
    correlation = (y[:, None] * (z.square() - neurons.square().sum(dim=1))).mean(dim=0).sum()
    (slope,) = torch.autograd.grad(correlation, neurons)
    expected = slope / slope.norm(dim=1, keepdim=True)
    found = gradient_steps(x, y, neurons.detach())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    twice = gradient_steps(x, y, neurons.detach(), num_steps=2)
    torch.testing.assert_close(twice, gradient_steps(x, y, found), rtol=1e-10, atol=1e-10)


def test_readout_is_ridge_regression(monkeypatch):
    monkeypatch.setattr("bfc_lightning.baselines.readout._CHUNK", 7)
    task = make_task(form, num_samples=30, input_dim=4)
    x, y = task.train.inputs, task.train.labels
    found = fit_readout(torch.tanh, x, y, ridge=1e-2)
    phi = np.tanh(x.numpy())
    expected = np.linalg.solve(phi.T @ phi + 30 * 1e-2 * np.eye(4), phi.T @ y.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_middle_layer_is_one_gradient_step_from_zero():
    task = make_task(form, num_samples=40, input_dim=4)
    baseline = ThreeLayer(width=16)
    baseline.fit(task)
    x, y = task.train.inputs, task.train.labels
    inner = baseline.features(x)[0]
    neurons, d = baseline._neurons, 4
    for row, point in zip(inner, x, strict=True):
        values = [(float(v @ point) ** 2 - float(point @ point) / d) / 4 for v in neurons]
        np.testing.assert_allclose(row, values, rtol=1e-9, atol=1e-12)
    weights = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    half = slice(0, 20)
    loss = -((y[half] - y.mean()) * (inner[half] @ weights)).mean()
    (slope,) = torch.autograd.grad(loss, weights)
    expected = -slope / (inner[half] @ -slope).std()
    torch.testing.assert_close(baseline._weights, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "parts"), [(TwoLayer, 2), (ThreeLayer, 2), (SteppedThreeLayer, 3)]
)
def test_each_stage_has_samples_of_its_own(kind, parts):
    task = make_task(form, num_samples=60, input_dim=4)
    whole, changed = kind(width=16), kind(width=16)
    whole.fit(task)
    size = 60 // parts
    labels = torch.cat([task.train.labels[:-size], task.train.labels[-size:].flip(0)])
    shuffled = Batch(task.train.inputs, labels, task.train.signal)
    changed.fit(Task(shuffled, task.holdout, task.learner, task.seed))
    x = task.holdout.inputs
    for before, after in zip(whole.features(x), changed.features(x), strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(whole.predict(x), changed.predict(x))


def test_stages_take_the_samples_that_their_shares_say():
    task = make_task(form, num_samples=60, input_dim=4)
    baseline = SteppedThreeLayer(width=16, shares=[0.7, 0.25, 0.05])
    parts = baseline.begin(task)
    assert [len(part.labels) for part in parts] == [42, 15, 3]
    assert torch.equal(torch.cat([part.inputs for part in parts]), task.train.inputs)
    assert torch.equal(torch.cat([part.labels for part in parts]), task.train.labels)
    assert [len(part.labels) for part in SteppedThreeLayer(width=16).begin(task)] == [20, 20, 20]


@pytest.mark.parametrize("kind", ALL)
def test_seed_decides_the_start(kind):
    task = make_task(form, num_samples=60, input_dim=4)
    other = Task(task.train, task.holdout, task.learner, seed=1)
    fitted = [kind(width=16) for _ in range(3)]
    for baseline, given in zip(fitted, (task, task, other), strict=True):
        baseline.fit(given)
    x = task.holdout.inputs
    first, again, different = (baseline.predict(x) for baseline in fitted)
    assert torch.equal(first, again)
    assert not torch.equal(first, different)


def test_three_layers_get_further_than_two_on_a_function_of_a_quadratic_form():
    target = QuadraticFeature(Gaussian(16), link="relu", seed=7)

    def batch(size: int, name: str) -> Batch:
        x = target.inputs.sample(size, generator(7, name))
        return Batch(x, target(x), target(x))

    learner = DenseNet(16, [4, 4]).double()
    task = Task(batch(6000, "train"), batch(2000, "holdout"), learner, seed=7)
    errors = []
    for baseline in (ThreeLayer(1024), TwoLayer(512, 1e-5)):
        baseline.fit(task)
        errors.append(error(baseline, task))
    assert errors[0] < 0.9 * errors[1], errors
