"""Input distributions: moments, marginals, and the distribution with one direction taken out."""

from functools import partial

import numpy as np
import pytest
import torch
from reference import standard_errors_off
from scipy import stats

from bfc_lightning.inputs import Gaussian, GaussianMixture, Hypercube, ProjectedLaw, haar_orthogonal
from bfc_lightning.seeds import generator

GAUSSIANS = {
    "isotropic": {},
    "shifted": {"mean": 1.0},
    "mean per coordinate": {"mean": [0.0, 1.0, -2.0, 0.5]},
    "condition number": {"condition_number": 20.0, "mean": 0.3},
    "power law": {"power_law_exponent": 1.5},
    "explicit": {"eigenvalues": [4.0, 1.0, 0.5, 0.1]},
    "unrotated": {"condition_number": 5.0, "rotation": "identity"},
}


def gaussian(name):
    return Gaussian(4, **GAUSSIANS[name], seed=3)


def mixture():
    parts = [
        Gaussian(4, mean=2.0, condition_number=8.0, seed=1),
        Gaussian(4, mean=[-1.0, 0.0, 1.0, 0.0], power_law_exponent=1.0, seed=2),
        Gaussian(4, mean=-0.5),
    ]
    return GaussianMixture(parts, weights=[0.5, 0.3, 0.2])


def draw(distribution, num_samples, seed=0):
    return distribution.sample(num_samples, generator(seed, "inputs test"))


def assert_moments(distribution, num_samples):
    """Mean and every entry of the covariance within 5 standard errors."""
    x = draw(distribution, num_samples).numpy()
    assert (standard_errors_off(x, distribution.mean) < 5).all()
    centered = x - distribution.mean.numpy()
    products = (centered[:, :, None] * centered[:, None, :]).reshape(num_samples, -1)
    assert (standard_errors_off(products, distribution.covariance.numpy().flatten()) < 5).all()


# Haar


@pytest.mark.parametrize("size", [1, 2, 7])
def test_haar_matrix_is_orthogonal(size):
    q = haar_orthogonal(size, generator(0, "haar"))
    torch.testing.assert_close(q.T @ q, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)


def test_haar_entries_in_three_dimensions_are_uniform_and_both_orientations_equally_likely():
    # A coordinate of a uniform point on the sphere in R^3 is uniform on [-1, 1] (Archimedes).
    random = generator(0, "haar")
    drawn = torch.stack([haar_orthogonal(3, random) for _ in range(2000)])
    for row in range(3):
        for column in range(3):
            entries = drawn[:, row, column].numpy()
            # n = 2000; nine tests, so p above 1e-4
            assert stats.kstest(entries, stats.uniform(-1, 2).cdf).pvalue > 1e-4
    proper = int((torch.linalg.det(drawn) > 0).sum())
    assert stats.binomtest(proper, 2000).pvalue > 1e-3  # plain QR gives one orientation only


# Gaussian


def cube():
    return Hypercube(4)


@pytest.mark.parametrize("make", [*(partial(gaussian, name) for name in GAUSSIANS), mixture])
def test_distribution_has_the_mean_and_covariance_it_states(make):
    assert_moments(make(), 2**15)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_gaussian_is_standard_normal_once_whitened(name):
    distribution = gaussian(name)
    values, axes = torch.linalg.eigh(distribution.covariance)
    white = (((draw(distribution, 5000) - distribution.mean) @ axes) / values.sqrt()).numpy()
    # n = 5000; five tests a distribution, so p above 1e-4
    for column in white.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
    assert stats.kstest((white**2).sum(axis=1), stats.chi2(4).cdf).pvalue > 1e-4


def test_condition_number_gives_log_spaced_eigenvalues_of_trace_d():
    values = torch.linalg.eigvalsh(Gaussian(5, condition_number=16.0).covariance)
    # ratios of neighbors are 16^(1/4) = 2: eigenvalues c (1, 2, 4, 8, 16) with 31 c = 5
    expected = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64) * 5 / 31
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)


def test_power_law_eigenvalues_worked_by_hand():
    covariance = Gaussian(3, power_law_exponent=1.0, rotation="identity").covariance
    # c (1, 1/2, 1/3) with 11 c / 6 = 3
    expected = torch.tensor([1.0, 1 / 2, 1 / 3], dtype=torch.float64).diag() * 18 / 11
    torch.testing.assert_close(covariance, expected, rtol=1e-12, atol=1e-15)


def test_rotation_follows_its_seed_and_none_is_zero():
    def covariance(seed):
        return Gaussian(4, condition_number=10.0, seed=seed).covariance

    assert torch.equal(covariance(1), covariance(1))
    assert torch.equal(covariance(None), covariance(0))
    assert not torch.allclose(covariance(1), covariance(2), atol=0.01)


class Doubled(Gaussian):
    def sample(self, num_samples, random):
        return 2 * super().sample(num_samples, random)


@pytest.mark.parametrize(
    "distribution",
    [
        *(Gaussian(4), Gaussian(4, mean=[1.0, 0.0, -2.0, 3.0]), gaussian("power law")),
        *(mixture(), Hypercube(4)),
    ],
    ids=["isotropic", "shifted", "power law", "mixture", "cube"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_samples", [1, 33])
def test_parts_are_the_samples_of_each_generator_to_the_bit(distribution, dtype, num_samples):
    distribution = distribution.to(dtype)
    one, other = ([generator(seed, "part") for seed in range(3)] for _ in range(2))
    parts = torch.cat([distribution.sample(num_samples, random) for random in one])
    assert parts.dtype == dtype
    assert torch.equal(distribution.sample_parts(num_samples, other), parts)
    moved = zip(one, other, strict=True)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in moved)


def test_parts_of_a_custom_distribution_are_its_samples():
    one, other = ([generator(seed, "part") for seed in range(2)] for _ in range(2))
    parts = torch.cat([Gaussian(4).sample(5, random) for random in one])
    assert torch.equal(Doubled(4).sample_parts(5, other), 2 * parts)


# Mixture


def test_mixture_moments_worked_by_hand():
    parts = [Gaussian(1, eigenvalues=[1.0]), Gaussian(1, mean=4.0, eigenvalues=[9.0])]
    distribution = GaussianMixture(parts, weights=[0.25, 0.75])
    # mean 3; within 0.25 * 1 + 0.75 * 9 = 7; between 0.25 * 9 + 0.75 * 1 = 3
    torch.testing.assert_close(distribution.mean, torch.tensor([3.0], dtype=torch.float64))
    torch.testing.assert_close(distribution.covariance, torch.tensor([[10.0]], dtype=torch.float64))


def test_mixture_draws_each_component_as_often_and_as_wide_as_stated():
    centers = [-100.0, 0.0, 100.0]
    parts = [
        Gaussian(3, mean=center, condition_number=9.0, seed=seed)
        for seed, center in enumerate(centers)
    ]
    x = draw(GaussianMixture(parts, weights=[0.2, 0.5, 0.3]), 30000)
    chosen = (x[:, 0] / 100).round() + 1
    counts = [int((chosen == number).sum()) for number in range(3)]
    assert stats.chisquare(counts, [6000, 15000, 9000]).pvalue > 1e-3
    for number, part in enumerate(parts):
        centered = (x[chosen == number] - part.mean).numpy()
        products = (centered[:, :, None] * centered[:, None, :]).reshape(len(centered), -1)
        assert (standard_errors_off(products, part.covariance.flatten()) < 5).all()


# The cube


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cube_draws_every_corner_equally_often(dtype):
    distribution = Hypercube(3).to(dtype)
    assert torch.equal(distribution.mean, torch.zeros(3, dtype=dtype))
    assert torch.equal(distribution.covariance, torch.eye(3, dtype=dtype))
    x = draw(distribution, 8000)
    assert x.dtype == dtype
    assert set(x.flatten().tolist()) == {-1.0, 1.0}
    corners = ((x + 1) / 2 @ torch.tensor([1.0, 2.0, 4.0], dtype=dtype)).long()
    counts = corners.bincount(minlength=8).tolist()
    assert stats.chisquare(counts).pvalue > 1e-3  # n = 8000, 1000 a corner


# The distribution without one direction


def projected(distribution):
    return ProjectedLaw(distribution, torch.tensor([0.3, -1.2, 0.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("make", [lambda: gaussian("condition number"), mixture, cube])
def test_projected_distribution_has_the_mean_and_covariance_it_states(make):
    distribution = projected(make())
    assert_moments(distribution, 2**15)
    values = torch.linalg.eigvalsh(distribution.covariance)
    assert float(values[0].abs()) < 1e-13
    assert float(values[1]) > 0.05


def test_projected_gaussian_is_independent_of_the_direction():
    distribution = projected(gaussian("condition number"))
    x = draw(distribution.inputs, 20000)
    along = (x - distribution.mean) @ distribution.direction
    for column in distribution.project(x).T:
        # n = 20000: the correlation of independent squares has standard deviation 0.007
        squares = torch.stack([(column - column.mean()) ** 2, along**2])
        assert abs(float(torch.corrcoef(squares)[0, 1])) < 0.03
        for half in (along.abs() > along.abs().median(), along > 0):
            assert stats.ks_2samp(column[half].numpy(), column[~half].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("make", [lambda: gaussian("condition number"), mixture, cube])
def test_projection_is_its_formula(make):
    distribution = projected(make())
    x = draw(distribution.inputs, 50)
    inputs, w = distribution.inputs, distribution.direction.numpy()
    sigma, mean = inputs.covariance.numpy(), inputs.mean.numpy()
    expected = [row - sigma @ w * (w @ (row - mean)) / (w @ sigma @ w) for row in x.numpy()]
    np.testing.assert_allclose(distribution.project(x).numpy(), expected, rtol=0, atol=1e-12)
