"""Objectives: losses, scores and the penalty, by hand."""

import math
import re

import pytest
import torch

from bfc_lightning.inputs import Gaussian
from bfc_lightning.labels import Classification, Regression
from bfc_lightning.objectives import ClassificationObjective, RegressionObjective, objective_for
from bfc_lightning.seeds import generator
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch
from tests.tensors import numbers


class Doubled(Target):
    """G(x) = 2 x_1, so that Var G = 4 under N(0, 1)."""

    def __init__(self):
        super().__init__(Gaussian(2))
        self.mean.fill_(0.0)
        self.variance.fill_(4.0)

    def forward(self, x):
        return 2 * x[:, 0]


def batch(labels, signal):
    return Batch(torch.zeros(len(labels), 2, dtype=torch.float64), labels, signal)


def loss_of(objective, prediction, labels, progress=0.0):
    return objective.loss_and_grad(prediction, labels, objective.scales([progress])[0])[0]


def test_regression_objective_worked_by_hand():
    labels = Regression(Gaussian(2), noise_std=0.5)
    objective = objective_for(Doubled(), labels, temperature=0.25)
    samples = batch(labels=numbers(1, 5), signal=numbers(2, 4))
    # loss: ((1 - 1)^2 + (0 - 5)^2) / 2 / (4 * 1.25); score: ((1 - 2)^2 + (0 - 4)^2) / 2 / 4
    assert float(loss_of(objective, numbers(1, 0), samples.labels)) == pytest.approx(2.5, rel=1e-14)
    assert float(objective.score(numbers(1, 0), samples)) == pytest.approx(2.125, rel=1e-14)
    assert objective.score_name == "nmse"


def test_classification_objective_worked_by_hand():
    objective = objective_for(Doubled(), Classification(Gaussian(2)), temperature=0.25)
    prediction = numbers(math.log(3) / 2, math.log(3) / 2, -1.0, -1.0, -1.0)
    samples = batch(labels=numbers(1, 0, 0, 0, 1), signal=numbers(2, -3, -0.1, -0.2, 0.0))
    sure = math.log1p(math.exp(-2))
    expected = (-math.log(3 / 4) - math.log(1 / 4) + 2 * sure + (sure + 2)) / 5
    loss = loss_of(objective, prediction, samples.labels)
    assert float(loss) == pytest.approx(expected, rel=1e-14)
    assert float(objective.score(prediction, samples)) == pytest.approx(2 / 5)
    assert objective.score_name == "error"


def test_unknown_labels_are_refused():
    message = "labels must be Regression or Classification, got Ranking."
    with pytest.raises(ValueError, match=re.escape(message)):
        objective_for(Doubled(), type("Ranking", (), {})(), temperature=0.25)


# Gradients


def test_gradient_stays_finite_far_from_the_boundary():
    objective = ClassificationObjective(Doubled(), temperature=0.25)
    loss, grad = objective.loss_and_grad(numbers(1e6, -1e6), numbers(1, 1), 0.25)
    assert float(loss) == pytest.approx(2e6, rel=1e-12)
    assert grad.tolist() == [0.0, -2.0]


def objectives():
    labels = Regression(Gaussian(2), noise_std=0.5)
    return {
        "regression": RegressionObjective(Doubled(), labels),
        "classification": ClassificationObjective(Doubled(), temperature=0.25),
        "falling temperature": ClassificationObjective(Doubled(), 0.5, final_temperature=0.01),
    }


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", objectives())
def test_gradient_is_the_derivative_of_the_loss(name, progress):
    objective = objectives()[name]
    random = generator(0, "objectives test")
    prediction = torch.randn(40, generator=random, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(40, generator=random, dtype=torch.float64) < 0.5).double()
    [scale] = objective.scales([progress])
    loss, grad = objective.loss_and_grad(prediction, labels, scale)
    (derivative,) = torch.autograd.grad(loss, prediction)
    torch.testing.assert_close(grad.detach(), derivative, rtol=1e-13, atol=1e-18)
