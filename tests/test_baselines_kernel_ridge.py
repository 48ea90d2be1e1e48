"""Kernel ridge regression against the equation, solved as it stands."""

import numpy as np
import pytest

from bfc_lightning import KernelRidge
from tests.baseline_tasks import kernel_ridge, make_task, polynomial, rbf


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
    expected = kernel_ridge([kernel], task, [1e-3], new)
    np.testing.assert_allclose(baseline.predict(new), expected, rtol=1e-10, atol=1e-11)


def test_ridge_lost_in_rounding_is_rejected():
    task = make_task(lambda x: x[:, 0], num_samples=100, input_dim=2)
    with pytest.raises(ValueError, match="ridge must be larger, got 1e-30: "):
        KernelRidge("polynomial", ridge=1e-30).fit(task)
