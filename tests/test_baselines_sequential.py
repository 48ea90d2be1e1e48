"""Sequential kernels against the same thing written out."""

import numpy as np
import pytest
import torch

from bfc_lightning import SequentialKernels
from bfc_lightning.runs.folder import RunError
from tests.baseline_tasks import error, kernel_ridge, make_task, polynomial


def cubic(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0] * x[:, 1] + 0.3 * x[:, 0] ** 3 + 2


@pytest.mark.parametrize("ridge", [1e-3, [1e-1, 1e-3, 1e-4]])
def test_equals_the_stages_written_out(ridge):
    task = make_task(cubic, num_samples=40, input_dim=5, depth=3)
    fitted = SequentialKernels(ridge)
    fitted.fit(task)
    ridges = ridge if isinstance(ridge, list) else [ridge] * 3
    new = task.holdout.inputs[:20]
    expected = kernel_ridge([polynomial(2**stage) for stage in (1, 2, 3)], task, ridges, new)
    np.testing.assert_allclose(fitted.predict(new), expected, rtol=1e-10, atol=1e-10)


def test_depth_is_the_learners_or_the_users():
    task = make_task(cubic, num_samples=200, input_dim=5, depth=2)
    errors = []
    for depth in (1, 2, None):
        fitted = SequentialKernels(1e-8, depth=depth)
        fitted.fit(task)
        errors.append(error(fitted, task))
    assert errors[1] == errors[2] < 1e-3 < 0.1 < errors[0]


def test_one_ridge_a_stage_and_none_too_small():
    task = make_task(cubic, num_samples=100, input_dim=2, depth=3)
    with pytest.raises(RunError, match=r"one for each of 3 stages, got \[0.1, 0.1\]"):
        SequentialKernels([0.1, 0.1]).fit(task)
    with pytest.raises(RunError, match="ridge must be larger, got 1e-30: "):
        SequentialKernels(1e-30).fit(task)
