"""The spectral method: directions that it must find, at the rate at which it must find them."""

import pytest
import torch

from bfc_lightning import Gaussian, HierarchicalTarget, SpectralMethod
from bfc_lightning.baselines.base import second_moment
from bfc_lightning.baselines.spectral import gap
from bfc_lightning.runs.folder import RunError
from tests.baseline_tasks import error, make_task
from tests.tensors import draw


def frame(input_dim: int, rank: int) -> torch.Tensor:
    return torch.linalg.qr(draw(input_dim, rank))[0]


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """A quadratic of rank 3 in R^20."""
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    return (x @ frame(20, 3)).square() @ signs + 0.5


def subspace(method: SpectralMethod) -> torch.Tensor:
    """The directions that were found, in the space of the raw inputs."""
    return torch.linalg.qr(method._whitening @ method._directions)[0]


def sine(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the largest principal angle."""
    return float(torch.linalg.svdvals(found - wanted @ (wanted.T @ found))[0])


def test_matrix_is_the_mean_hessian():
    """r = x^T A x + b x_1^3 has mean Hessian 2 A; 10^6 samples leave an error of 0.03."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(10**6, 3, generator=random, dtype=torch.float64)
    form = torch.tensor([[1.0, 0.5, 0], [0.5, -1, 0], [0, 0, 0]], dtype=torch.float64)
    r = torch.einsum("na,ab,nb->n", x, form, x) + x[:, 0] ** 3
    torch.testing.assert_close(second_moment(x, r), 2 * form, rtol=0, atol=0.03)


def test_angle_to_the_true_subspace_shrinks_like_one_over_root_n():
    """Medians over 7 draws at n and 16 n: a quarter, within a factor of 1.4 either way."""
    medians = []
    for n in (2000, 32000):
        sines = []
        for seed in range(7):
            method = SpectralMethod([3], refinements=0)
            method.fit(make_task(quadratic, num_samples=n, input_dim=20, seed=seed))
            sines.append(sine(subspace(method), frame(20, 3)))
        medians.append(float(torch.tensor(sines).median()))
    assert medians[0] < 0.3
    assert 4 / 1.4 < medians[0] / medians[1] < 4 * 1.4


def test_refinement_makes_an_exact_quadratic_exact():
    task = make_task(quadratic, num_samples=1000, input_dim=20)
    plain, refined = SpectralMethod([3], refinements=0), SpectralMethod([3], ridge=1e-9)
    plain.fit(task)
    refined.fit(task)
    assert sine(subspace(plain), frame(20, 3)) > 0.05
    assert sine(subspace(refined), frame(20, 3)) < 1e-5
    assert error(plain, task) > 1e-2
    assert error(refined, task) < 1e-9


def test_subspace_is_of_the_raw_inputs_where_they_are_stretched():
    stretch = torch.linspace(0.5, 2, 20, dtype=torch.float64)
    task = make_task(lambda z: quadratic(z * stretch), num_samples=4000, input_dim=20)
    stretched = task.train._replace(inputs=task.train.inputs * stretch + 3)
    method = SpectralMethod([3], ridge=1e-9)
    method.fit(task.__class__(stretched, task.holdout, task.learner, 0))
    assert sine(subspace(method), frame(20, 3)) < 1e-4


def test_two_levels_are_found_one_after_the_other_without_being_told_how_wide():
    target = HierarchicalTarget(Gaussian(16), [4, 2], level_scales=0.5, seed=1)
    task = make_task(target, num_samples=6000, input_dim=16, depth=2)
    method = SpectralMethod(ridge=1e-6)
    method.fit(task)
    wanted = torch.linalg.qr(torch.cat([target.weight(1, 0), target.weight(2, 0)]).T)[0]
    assert method.chosen() == {"directions_1": 4, "directions_2": 2}
    assert sine(subspace(method), wanted) < 1e-4
    assert error(method, task) < 1e-6
    assert [layer.shape for layer in method.features(task.holdout.inputs)] == [
        (512, 27),
        (512, 209),
    ]


def test_what_no_polynomial_fits_is_left_to_the_kernel():
    """Degree 8 in 9 variables has 24,310 monomials: halved to 4, and 2^3 by the kernel."""
    task = make_task(quadratic, num_samples=800, input_dim=20)
    kernels = SpectralMethod([7, 1, 1], refinements=0)
    kernels.fit(task)
    z = kernels._variables(task.holdout.inputs)
    assert kernels._polynomial.degree == 4
    assert not torch.equal(kernels.predict(task.holdout.inputs), kernels._polynomial(z))
    one = SpectralMethod([3], refinements=0)
    one.fit(task)
    z = one._variables(task.holdout.inputs)
    assert torch.equal(one.predict(task.holdout.inputs), one._polynomial(z))


def test_gap_is_the_largest_ratio_among_the_first_quarter():
    values = [8.0, 7, 3, 2.9, 2.8, 2.7, 2.6, 2.5, 0.1, 0.001, 1e-9, 1e-9]
    assert gap(torch.tensor(values)) == 2
    assert gap(torch.tensor([2.0])) == 1
    assert gap(torch.tensor([])) == 0


def test_problems_that_it_cannot_take_are_refused():
    task = make_task(quadratic, num_samples=100, input_dim=20)
    with pytest.raises(RunError, match=r"widths must add up to at most 20, got \[20, 1\]"):
        SpectralMethod([20, 1]).fit(task)
    few = make_task(quadratic, num_samples=20, input_dim=20)
    with pytest.raises(RunError, match="num_train_samples must be above 20, got 20"):
        SpectralMethod([3]).fit(few)
