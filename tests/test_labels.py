"""Labels: noise, classes, and what each level adds to them."""

import numpy as np
import pytest
import torch
from reference import standard_errors_off
from scipy import stats

from bfc_lightning.inputs import Gaussian, GaussianMixture, ProjectedLaw
from bfc_lightning.labels import Classification, Regression
from bfc_lightning.measures.levels import truncation_errors
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget, RichRepresentation


def mixture():
    parts = [
        Gaussian(8, mean=1.0, condition_number=6.0, seed=1),
        Gaussian(8, mean=-0.5, condition_number=3.0, seed=2),
        Gaussian(8, mean=0.2),
    ]
    return GaussianMixture(parts, weights=[0.3, 0.5, 0.2])


LAWS = {
    "isotropic": lambda: Gaussian(8),
    "condition number": lambda: Gaussian(8, condition_number=10.0, seed=1),
    "power law": lambda: Gaussian(8, power_law_exponent=1.0, seed=1),
    "shifted": lambda: Gaussian(8, mean=1.0),
    "mixture": mixture,
}


class Case:
    """A classification problem and a sample of it."""

    def __init__(self, name):
        self.labels = Classification(LAWS[name](), seed=3)
        self.target = HierarchicalTarget(self.labels.target_distribution, [4, 3, 2], seed=3)
        self.x = self.labels.inputs.sample(2**14, generator(0, "labels test"))
        self.levels = self.labels.level_signals(self.target, self.x)


@pytest.fixture(scope="module", params=LAWS)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def isotropic():
    return Case("isotropic")


@pytest.fixture(scope="module")
def regression_target():
    return HierarchicalTarget(Gaussian(6), [3, 2], level_scales=[2.0, 1.0], seed=1)


# Classification


def test_classes_are_balanced(case):
    signal = case.labels.signal(case.target, case.x)
    classes = case.labels.observe(case.target, signal, generator(0, "unused"))
    assert set(classes.tolist()) == {0.0, 1.0}
    # n = 2^14: standard error 0.004
    assert abs(float(classes.mean()) - 0.5) <= 0.05


def test_target_is_normalized_under_the_projected_distribution(case):
    assert isinstance(case.labels.target_distribution, ProjectedLaw)
    outputs = case.target(case.labels.projected.project(case.x))
    assert float(standard_errors_off(outputs, case.target.mean)) < 5
    squares = (outputs - case.target.mean) ** 2
    assert float(standard_errors_off(squares, case.target.variance)) < 5


@pytest.mark.parametrize("raw", [False, True])
def test_score_is_its_formula(case, raw):
    # a raw target, whose mean is far from 0, beside the normalized one
    target = RichRepresentation(case.labels.target_distribution) if raw else case.target
    distribution = case.labels.inputs
    mean, sigma = distribution.mean.numpy(), distribution.covariance.numpy()
    direction = case.labels.direction.numpy()
    length = np.sqrt(float(target.variance) / (direction @ sigma @ direction))
    w = length * direction
    x = case.x[:50].numpy()
    projected = np.stack([row - sigma @ w * (w @ (row - mean)) / (w @ sigma @ w) for row in x])
    outputs = target(torch.from_numpy(projected)).numpy()
    expected = (x - mean) @ w + outputs - float(target.mean)
    signal = case.labels.signal(target, case.x[:50])
    np.testing.assert_allclose(signal.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_levels_of_the_score_sum_to_it(case):
    assert case.levels.shape == (2**14, 4)
    signal = case.labels.signal(case.target, case.x)
    torch.testing.assert_close(case.levels.sum(dim=1), signal, rtol=1e-12, atol=1e-12)


def test_cutting_the_score_off_later_errs_less_often(case):
    errors = truncation_errors(case.levels)
    assert (torch.diff(errors) < 0).all()
    assert float(errors[-1]) == 0
    # the linear part alone misses about a quarter, the levels' scales are 1, 1/2, 1/4
    assert 0.1 < float(errors[0]) < 0.35
    assert float(errors[2]) < 0.1


def test_linear_part_says_nothing_of_the_target_for_gaussian_inputs(isotropic):
    linear = isotropic.levels[:, 0]
    rest = isotropic.levels[:, 1:].sum(dim=1)
    # n = 2^14: the correlation of independent numbers has standard deviation 0.008
    for one, other in ((linear, rest), (linear**2, rest), (linear.abs(), rest.abs())):
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.04


def test_direction_is_a_unit_vector_of_its_seed():
    one, again, other = (Classification(Gaussian(8), seed=seed).direction for seed in (1, 1, 2))
    assert float(one.norm()) == pytest.approx(1, abs=1e-14)
    assert torch.equal(one, again)
    assert not torch.allclose(one.abs(), other.abs(), rtol=1e-2)
    none, zero = (Classification(Gaussian(8), seed=seed).direction for seed in (None, 0))
    assert torch.equal(none, zero)


def test_directions_are_uniform_on_the_sphere():
    drawn = torch.stack([Classification(Gaussian(3), seed=s).direction for s in range(500)])
    for coordinate in drawn.T:
        # uniform on [-1, 1] (Archimedes); n = 500
        assert stats.kstest(coordinate.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


# Regression


def test_regression_signal_is_the_target_and_its_levels(regression_target):
    labels = Regression(regression_target.inputs)
    x = labels.inputs.sample(100, generator(0, "labels test"))
    signal = labels.signal(regression_target, x)
    assert torch.equal(signal, regression_target(x))
    levels = labels.level_signals(regression_target, x)
    assert levels.shape == (100, 3)
    assert not levels[:, 0].any()
    assert torch.equal(levels[:, 1:], regression_target.level_outputs(x))
    assert labels.target_distribution is labels.inputs


def test_noise_is_gaussian_of_the_stated_size_and_independent_of_the_signal(regression_target):
    labels = Regression(regression_target.inputs, noise_std=0.3)
    x = labels.inputs.sample(10000, generator(0, "labels test"))
    signal = labels.signal(regression_target, x)
    noisy = labels.observe(regression_target, signal, generator(0, "noise"))
    scale = 0.3 * float(regression_target.variance) ** 0.5
    # n = 10000
    noise = ((noisy - signal) / scale).numpy()
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise, signal.numpy())[0, 1]) < 0.05
    again = labels.observe(regression_target, signal, generator(0, "noise"))
    assert torch.equal(noisy, again)


# Whose labels may be drawn for many batches at once


class Quartered(Regression):
    """y = G(x) + a noise of its own, though `noise_std` is 0."""

    def observe(self, target, signal, random):
        return signal + torch.rand(signal.shape, generator=random, dtype=signal.dtype) / 4


class Flipped(Classification):
    """One class in ten is wrong."""

    def observe(self, target, signal, random):
        kept = torch.rand(signal.shape, generator=random, dtype=signal.dtype) > 0.1
        return ((signal >= 0) == kept).to(signal.dtype)


@pytest.mark.parametrize(
    ("labels", "draws"),
    [
        (Regression(Gaussian(3)), False),
        (Regression(Gaussian(3), noise_std=0.3), True),
        (Classification(Gaussian(3)), False),
        (Quartered(Gaussian(3)), True),
        (Flipped(Gaussian(3)), True),
    ],
)
def test_labels_say_whether_they_draw(labels, draws):
    assert labels.is_random is draws
    target = HierarchicalTarget(labels.target_distribution, [2], seed=0)
    random = generator(0, "labels test")
    before = random.get_state()
    labels.observe(target, torch.linspace(-1, 1, 50, dtype=torch.float64), random)
    assert torch.equal(before, random.get_state()) is not draws
