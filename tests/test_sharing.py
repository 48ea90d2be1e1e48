"""Whether several learners share operations, or take their steps in turn."""

import pytest
import torch

from bfc_lightning.fast_path import Clipping, FastPath, InTurn, path_of
from bfc_lightning.networks import DenseNet


# A batch of 128 samples of x in R^4 with 2 x 62 neurons holds 2^14 numbers.
@pytest.mark.parametrize(
    ("threads", "dtype", "batch_size", "expected"),
    [
        (1, torch.float32, 2 * 128, FastPath),
        (1, torch.float32, 4 * 128, InTurn),
        (1, torch.float64, 128, FastPath),
        (1, torch.float64, 2 * 128, InTurn),
        (2, torch.float32, 8 * 128, FastPath),
        (2, torch.float32, 16 * 128, InTurn),
        (3, torch.float64, 4 * 128, FastPath),
    ],
)
def test_learners_share_operations_where_their_batches_are_small(
    monkeypatch, threads, dtype, batch_size, expected
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    networks = [DenseNet(4, [62, 62], seed=seed).to(dtype) for seed in range(2)]
    path = path_of(
        networks,
        [None] * 2,
        regularization=[[0.0] * 2] * 2,
        clipping=Clipping(),
        batch_size=batch_size,
    )
    assert type(path) is expected
