"""Which learners and optimizers the fast path can train."""

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, RMSprop

from bfc_lightning.activations import Huber, Quadratic
from bfc_lightning.fast_path import why_not_fast
from bfc_lightning.linearized import LinearizedDenseNet
from bfc_lightning.networks import DenseNet


class Doubting(SGD):
    """Looks at the loss again before it moves."""

    def step(self, closure):
        closure()
        return super().step(closure)


class Offset(Quadratic):
    """z^2 with an offset that is trained."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return z * z + self.offset

    def evaluate(self, z, *, out):
        torch.mul(z, z, out=out).add_(self.offset)

    def pull_back(self, z, gradient):
        gradient.mul_(2 * z)


@pytest.mark.parametrize(
    ("make_network", "make_optimizer", "reason"),
    [
        (DenseNet, Adam, None),
        (partial(DenseNet, activation=torch.nn.ReLU()), RMSprop, None),
        (partial(DenseNet, activation=Huber()), SGD, None),
        (partial(DenseNet, activation=torch.nn.SiLU()), Adam, "SiLU has no form in place"),
        (partial(DenseNet, activation=torch.square), Adam, "square has no form in place"),
        (partial(DenseNet, activation=Offset()), Adam, "Offset has parameters of its own"),
        (DenseNet, torch.optim.LBFGS, "LBFGS evaluates the loss by itself"),
        (DenseNet, Doubting, "Doubting evaluates the loss by itself"),
        (LinearizedDenseNet, Adam, "LinearizedDenseNet has no gradients by hand"),
    ],
)
def test_reasons_against_the_fast_path(make_network, make_optimizer, reason):
    network = make_network(3, [2, 2], level_scales=[1.0, 0.5])
    assert why_not_fast(network, make_optimizer(network.parameters(), lr=1e-3)) == reason
