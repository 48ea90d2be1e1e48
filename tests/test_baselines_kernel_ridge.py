"""Kernel ridge regression against a slow version that computes every kernel entry by itself."""

import math

import numpy as np
import pytest

from bfc_lightning import KernelRidge
from tests.baseline_tasks import make_task


def slow(kernel, task, ridge: float, new) -> list[float]:
    """f(x) = mean(y) + sum_i c_i K(x, x_i) with (K + n ridge) c = y - mean(y)."""
    x, y = task.train.inputs.tolist(), task.train.labels.tolist()
    n, mean = len(y), sum(y) / len(y)
    gram = [[kernel(a, b) + n * ridge * (i == j) for j, b in enumerate(x)] for i, a in enumerate(x)]
    weights = np.linalg.solve(np.array(gram), np.array(y) - mean).tolist()
    return [
        mean + sum(c * kernel(point, z) for c, z in zip(weights, x, strict=True))
        for point in new.tolist()
    ]


def polynomial(degree):
    return lambda a, b: (1 + sum(u * v for u, v in zip(a, b, strict=True)) / len(a)) ** degree


def rbf(bandwidth):
    def kernel(a, b):
        square = sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
        return math.exp(-square / (2 * len(a) * bandwidth**2))

    return kernel


@pytest.mark.parametrize(
    ("baseline", "kernel"),
    [
        (KernelRidge("polynomial", ridge=1e-3, degree=2), polynomial(2)),
        (KernelRidge("polynomial", ridge=1e-3, degree=4), polynomial(4)),
        (KernelRidge("rbf", ridge=1e-3), rbf(1.0)),
        (KernelRidge("rbf", ridge=1e-3, bandwidth=0.5), rbf(0.5)),
    ],
)
def test_predictions_solve_the_equation(baseline, kernel):
    task = make_task(lambda x: x[:, 0] * x[:, 1] + 3, num_samples=70, input_dim=4)
    baseline.fit(task)
    new = task.holdout.inputs[:100]
    expected = slow(kernel, task, 1e-3, new)
    np.testing.assert_allclose(baseline.predict(new), expected, rtol=1e-10, atol=1e-11)


def test_ridge_lost_in_rounding_is_rejected():
    task = make_task(lambda x: x[:, 0], num_samples=100, input_dim=2)
    with pytest.raises(ValueError, match="ridge must be larger, got 1e-30: "):
        KernelRidge("polynomial", ridge=1e-30).fit(task)
