"""Objectives: losses, scores and the penalty, by hand."""

import math
import re

import pytest
import torch
from reference import penalty

from bfc_lightning.inputs import Gaussian
from bfc_lightning.labels import Classification, Labels, Regression
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import (
    ClassificationObjective,
    RegressionObjective,
    classification_loss,
    classification_slope,
    objective_for,
    regression_loss,
    regression_slope,
    weight_penalty,
)
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget, Target
from bfc_lightning.types import Batch


class Doubled(Target):
    """G(x) = 2 x_1, so that Var G = 4 under N(0, 1)."""

    def __init__(self):
        super().__init__(Gaussian(2))
        self.mean.fill_(0.0)
        self.variance.fill_(4.0)

    def forward(self, x):
        return 2 * x[:, 0]


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def batch(labels, signal):
    return Batch(torch.zeros(len(labels), 2, dtype=torch.float64), labels, signal)


def test_regression_loss_worked_by_hand():
    # ((1 - 0)^2 + (2 - 4)^2) / 2 / 2
    loss = regression_loss(numbers(1, 2), numbers(0, 4), label_variance=2.0)
    assert float(loss) == 1.25


def test_classification_loss_worked_by_hand():
    # scale 0.25 * sqrt(4) = 1/2: f = ln(3)/2 says 3/4; f = 0 says 1/2
    prediction = numbers(math.log(3) / 2, math.log(3) / 2, 0.0)
    loss = classification_loss(prediction, numbers(1, 0, 1), target_variance=4.0, temperature=0.25)
    expected = -(math.log(3 / 4) + math.log(1 / 4) + math.log(1 / 2)) / 3
    assert float(loss) == pytest.approx(expected, rel=1e-14)


def test_classification_loss_stays_finite_far_from_the_boundary():
    loss = classification_loss(
        numbers(1e6, -1e6), numbers(1, 1), target_variance=1.0, temperature=0.25
    )
    assert float(loss) == pytest.approx(2e6, rel=1e-12)


@pytest.mark.parametrize("coefficients", [[0.1], [0.0, 0.3], [0.1, 0.2, 0.3]])
def test_penalty_is_the_sum_over_all_weights(coefficients):
    widths = [4, 3, 2][: len(coefficients)]
    network = DenseNet(3, widths, linear_readout=True).double()
    blocks = {
        (level, source): layer.block(source).detach().numpy()
        for level, layer in enumerate(network.layers, start=1)
        for source in range(level)
    }
    expected = penalty(blocks, coefficients)
    assert float(weight_penalty(network, coefficients).detach()) == pytest.approx(
        expected, rel=1e-12
    )


def test_penalty_pulls_on_weights_only():
    network = DenseNet(3, [4, 2], linear_readout=True).double()
    weight_penalty(network, [0.5, 0.1]).backward()
    for coefficient, layer in zip([0.5, 0.1], network.layers, strict=True):
        torch.testing.assert_close(layer.weight.grad, 2 * coefficient * layer.weight.detach())
        assert layer.bias.grad is None
        assert layer.readout.grad is None
    assert network.constant.grad is None
    assert network.linear.grad is None


def test_penalty_needs_one_coefficient_a_layer():
    with pytest.raises(ValueError, match="zip"):
        weight_penalty(DenseNet(3, [4, 2]), [0.1])


def test_regression_objective_worked_by_hand():
    objective = RegressionObjective(Doubled(), Regression(Gaussian(2), noise_std=0.5))
    samples = batch(labels=numbers(1, 5), signal=numbers(2, 4))
    # loss: ((1 - 1)^2 + (0 - 5)^2) / 2 / (4 * 1.25); score: ((1 - 2)^2 + (0 - 4)^2) / 2 / 4
    assert float(objective.loss(numbers(1, 0), samples)) == pytest.approx(2.5, rel=1e-14)
    assert float(objective.score(numbers(1, 0), samples)) == pytest.approx(2.125, rel=1e-14)
    assert objective.score_name == "nmse"


def test_classification_objective_worked_by_hand():
    objective = ClassificationObjective(Doubled(), temperature=0.25)
    prediction = numbers(math.log(3) / 2, math.log(3) / 2, -1.0, -1.0, -1.0)
    samples = batch(labels=numbers(1, 0, 0, 0, 1), signal=numbers(2, -3, -0.1, -0.2, 0.0))
    sure = math.log1p(math.exp(-2))
    expected = (-math.log(3 / 4) - math.log(1 / 4) + 2 * sure + (sure + 2)) / 5
    assert float(objective.loss(prediction, samples)) == pytest.approx(expected, rel=1e-14)
    assert float(objective.score(prediction, samples)) == pytest.approx(2 / 5)
    assert objective.score_name == "error"


def test_best_constant_has_loss_and_score_one():
    labels = Regression(Gaussian(5), noise_std=0.4)
    target = HierarchicalTarget(labels.inputs, [3, 2], seed=1)
    x = labels.inputs.sample(2**15, generator(0, "objectives test"))
    signal = labels.signal(target, x)
    noisy = labels.observe(target, signal, generator(0, "noise"))
    objective = RegressionObjective(target, labels)
    constant = target.mean.expand(len(x))
    # heavy tails: the standard error of a variance is 2 % at n = 2^15
    assert float(objective.loss(constant, Batch(x, noisy, signal))) == pytest.approx(1, abs=0.1)
    assert float(objective.score(constant, Batch(x, noisy, signal))) == pytest.approx(1, abs=0.1)


def test_perfect_learner_has_score_zero_and_the_noise_as_its_loss():
    labels = Regression(Gaussian(2), noise_std=0.5)
    target = Doubled()
    x = labels.inputs.sample(20000, generator(0, "objectives test"))
    samples = Batch(x, labels.observe(target, target(x), generator(0, "noise")), target(x))
    objective = RegressionObjective(target, labels)
    assert float(objective.score(target(x), samples)) == 0
    # rho^2 / (1 + rho^2) = 0.2; n = 20000: standard error 0.002
    assert float(objective.loss(target(x), samples)) == pytest.approx(0.2, abs=0.01)


def test_labels_choose_their_objective():
    target = Doubled()
    regression = objective_for(target, Regression(Gaussian(2)), temperature=0.25)
    classification = objective_for(target, Classification(Gaussian(2)), temperature=0.5)
    assert isinstance(regression, RegressionObjective)
    assert isinstance(classification, ClassificationObjective)
    assert classification.temperature == 0.5


class Ranking(Labels):
    """Labels of an unknown kind."""

    target_distribution = property(lambda self: self.inputs)

    def target_argument(self, x):
        return x

    def level_signals(self, target, x):
        return target.level_outputs(x)

    def observe(self, target, signal, random):
        return signal


def test_unknown_labels_are_refused():
    message = "labels must be Regression or Classification, got Ranking."
    with pytest.raises(ValueError, match=re.escape(message)):
        objective_for(Doubled(), Ranking(Gaussian(2)), temperature=0.25)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    message = f"temperature must be positive, got {temperature}."
    with pytest.raises(ValueError, match=re.escape(message)):
        ClassificationObjective(Doubled(), temperature)


# Slopes


def test_regression_slope_worked_by_hand():
    # errors 1 and -2: loss (1 + 4) / 2 / 2, slopes 2 e / (2 * 2)
    loss, slope = regression_slope(numbers(1, 2), numbers(0, 4), label_variance=2.0)
    assert float(loss) == 1.25
    assert slope.tolist() == [0.5, -1.0]


def test_classification_slope_worked_by_hand():
    # scale 1/2: f = ln(3)/2 says 3/4; slopes (p - y) / (3 / 2)
    prediction = numbers(math.log(3) / 2, math.log(3) / 2, 0.0)
    loss, slope = classification_slope(
        prediction, numbers(1, 0, 1), target_variance=4.0, temperature=0.25
    )
    expected = -(math.log(3 / 4) + math.log(1 / 4) + math.log(1 / 2)) / 3
    assert float(loss) == pytest.approx(expected, rel=1e-14)
    assert slope.tolist() == pytest.approx([-1 / 6, 1 / 2, -1 / 3], rel=1e-14)


def test_classification_slope_stays_finite_far_from_the_boundary():
    loss, slope = classification_slope(
        numbers(1e6, -1e6), numbers(1, 1), target_variance=1.0, temperature=0.25
    )
    assert float(loss) == pytest.approx(2e6, rel=1e-12)
    assert slope.tolist() == [0.0, -2.0]


def objectives():
    labels = Regression(Gaussian(2), noise_std=0.5)
    return {
        "regression": RegressionObjective(Doubled(), labels),
        "classification": ClassificationObjective(Doubled(), temperature=0.25),
        "falling temperature": ClassificationObjective(Doubled(), 0.5, final_temperature=0.01),
    }


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", objectives())
def test_slope_is_the_derivative_of_the_loss(name, progress):
    objective = objectives()[name]
    random = generator(0, "objectives test")
    prediction = torch.randn(40, generator=random, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(40, generator=random, dtype=torch.float64) < 0.5).double()
    expected = objective.loss(prediction, batch(labels, labels), progress)
    (derivative,) = torch.autograd.grad(expected, prediction)
    loss, slope = objective.loss_and_slope(prediction.detach(), labels, progress)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-14)
    torch.testing.assert_close(slope, derivative, rtol=1e-13, atol=1e-18)


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_slopes_of_several_learners_are_those_of_each(name):
    random = generator(0, "objectives test")
    prediction = torch.randn(3, 8, generator=random, dtype=torch.float64)
    labels = (torch.rand(3, 8, generator=random, dtype=torch.float64) < 0.5).double()
    variances = [0.5, 1.0, 4.0]

    def slopes(prediction, labels, variance):
        if name == "regression":
            return regression_slope(prediction, labels, label_variance=variance)
        return classification_slope(prediction, labels, target_variance=variance, temperature=0.25)

    losses, together = slopes(prediction, labels, numbers(*variances)[:, None])
    for row, variance in enumerate(variances):
        loss, alone = slopes(prediction[row], labels[row], variance)
        assert float(losses[row]) == pytest.approx(float(loss), rel=1e-14)
        torch.testing.assert_close(together[row], alone, rtol=1e-14, atol=0)
