"""Recursive feature machines, where xrfm is installed; what is said where it is not."""

import importlib
import importlib.util

import pytest
import torch

from bfc_lightning import KernelRidge, RecursiveFeatureMachine
from bfc_lightning.runs.folder import RunError
from tests.baseline_tasks import error, make_task

needs_xrfm = pytest.mark.skipif(
    importlib.util.find_spec("xrfm") is None, reason="xrfm is not installed (the extra rfm)"
)


def low_rank(x: torch.Tensor) -> torch.Tensor:
    """Two of 16 directions."""
    return torch.sin(1.5 * x[:, 0]) * x[:, 1]


@pytest.fixture(scope="module")
def task():
    return make_task(low_rank, num_samples=1000, input_dim=16)


def fitted(task) -> RecursiveFeatureMachine:
    machine = RecursiveFeatureMachine(bandwidth=2.0)
    machine.fit(task)
    return machine


@needs_xrfm
def test_same_task_same_numbers_and_the_global_generator_is_left_alone(task):
    state = torch.get_rng_state()
    first, second = (fitted(task).predict(task.holdout.inputs) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), state)


@needs_xrfm
def test_learned_metric_beats_every_rbf_kernel_on_a_low_rank_target(task):
    machine = fitted(task)
    fixed = []
    for bandwidth in (1.0, 3.0, 10.0):
        for ridge in (1e-8, 1e-5, 1e-3):
            kernel = KernelRidge("rbf", ridge=ridge, bandwidth=bandwidth)
            kernel.fit(task)
            fixed.append(error(kernel, task))
    assert error(machine, task) < min(fixed) / 100
    assert 1 <= machine.chosen()["iterations"] <= 3


@needs_xrfm
def test_first_iteration_is_the_kernel_regression_that_is_written_down(task):
    """Before its metric is learned: K = exp(-(|x - x'| / 5)^1.5)."""
    machine = RecursiveFeatureMachine(bandwidth=5.0, exponent=1.5, ridge=1e-3)
    machine.iterations = 0
    machine.fit(task)
    x, y, _ = task.train

    def kernel(left, right):
        return torch.exp(-((torch.cdist(left, right) / 5) ** 1.5))

    gram = kernel(x, x) + len(x) * 1e-3 * torch.eye(len(x), dtype=torch.float64)
    weights = torch.linalg.solve(gram, y - y.mean())
    expected = y.mean() + kernel(task.holdout.inputs, x) @ weights
    torch.testing.assert_close(machine.predict(task.holdout.inputs), expected, rtol=1e-4, atol=1e-4)
    assert machine.features(x) == []


@needs_xrfm
def test_features_are_products_of_the_few_coordinates_that_matter(task):
    (layer,) = fitted(task).features(task.holdout.inputs)
    assert layer.shape == (512, 5)  # two coordinates, three products
    x = task.holdout.inputs
    wanted = (x[:, 0] * x[:, 1])[:, None]  # among the products of any basis of the two
    columns = torch.cat([torch.ones(512, 1, dtype=torch.float64), layer], dim=1)
    rest = wanted - columns @ torch.linalg.lstsq(columns, wanted).solution
    assert rest.square().mean() / wanted.var() < 0.01


def test_missing_package_is_one_clear_line(monkeypatch):
    def refuse(name, *rest):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(
        RunError, match=r"xrfm must be installed .*: pip install 'bfc_lightning\[rfm\]'"
    ):
        RecursiveFeatureMachine()
