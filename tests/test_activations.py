"""Activations."""

import pytest
import torch

from bfc_lightning.activations import Huber, Quadratic, activation_vjp


def test_huber_worked_by_hand():
    # B (2|z| - B) with B = 2: z = 3 gives 2 (6 - 2) = 8, z = -5 gives 2 (10 - 2) = 16
    z = torch.tensor([3.0, -5.0, 2.0, -2.0, 1.5, -0.5])
    assert Huber(2.0)(z).tolist() == [8.0, 16.0, 4.0, 4.0, 2.25, 0.25]


# Without a graph


class Tripled(Quadratic):
    """3 z^2: the derivative of its parent does not belong to it."""

    def forward(self, z):
        return 3 * z * z


@pytest.mark.parametrize(
    "activation",
    [Quadratic(), Huber(0.5), torch.nn.ReLU(), torch.nn.ReLU(inplace=True), torch.sin, Tripled()],
)
def test_vector_jacobian_product_is_that_of_autograd(activation):
    random = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(7, 3, generator=random, dtype=torch.float64)
    z[0] = torch.tensor([0.0, 0.5, -0.5])  # kinks and joins
    grad = torch.randn(7, 3, generator=random, dtype=torch.float64)
    value, vjp = activation_vjp(activation, z)
    z.requires_grad_(True)
    expected = activation(z.clone())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-15, atol=0)
    (derivative,) = torch.autograd.grad(expected, z, grad)
    torch.testing.assert_close(vjp(grad), derivative, rtol=1e-14, atol=0)
