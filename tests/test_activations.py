"""Activations."""

import re

import pytest
import torch

from bfc_lightning.activations import Huber, Quadratic, in_place


def test_quadratic_squares():
    z = torch.tensor([[-3.0, 0.0], [0.5, 2.0]])
    assert torch.equal(Quadratic()(z), torch.tensor([[9.0, 0.0], [0.25, 4.0]]))


def test_huber_is_the_square_inside():
    z = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(Huber(4.0)(z), z**2, rtol=1e-15, atol=0)


def test_huber_outside_worked_by_hand():
    # B (2|z| - B) with B = 2: z = 3 gives 2 (6 - 2) = 8, z = -5 gives 2 (10 - 2) = 16
    z = torch.tensor([3.0, -5.0, 2.0, -2.0])
    assert Huber(2.0)(z).tolist() == [8.0, 16.0, 4.0, 4.0]


@pytest.mark.parametrize("threshold", [0.5, 4.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_huber_joins_with_value_and_slope(threshold, sign):
    at = sign * threshold
    z = torch.tensor([at * (1 - 1e-9), at, at * (1 + 1e-9)], dtype=torch.float64)
    z.requires_grad_(True)
    values = Huber(threshold)(z)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    torch.testing.assert_close(values, torch.full_like(values, threshold**2), rtol=1e-8, atol=0)
    torch.testing.assert_close(slopes, torch.full_like(slopes, 2 * at), rtol=1e-8, atol=0)


def test_huber_has_slope_at_most_twice_its_threshold():
    z = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(Huber(3.0)(z).sum(), z)
    torch.testing.assert_close(slopes, 2 * z.detach().clamp(-3, 3), rtol=1e-14, atol=1e-14)


def test_huber_prints_its_threshold():
    assert str(Huber(2.5)) == "Huber(threshold=2.5)"


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_threshold_must_be_positive(threshold):
    with pytest.raises(
        ValueError, match=re.escape(f"threshold must be positive, got {threshold}.")
    ):
        Huber(threshold)


# Without a graph


class Tripled(Quadratic):
    """3 z^2, by autograd only: what it inherits belongs to z^2."""

    def forward(self, z):
        return 3 * z * z


class Cubed(Quadratic):
    """z^3, with all that belongs to it."""

    def forward(self, z):
        return z**3

    def evaluate(self, z, *, out):
        torch.pow(z, 3, out=out)

    def pull_back(self, z, gradient):
        gradient.mul_(3 * z * z)


class Gated(torch.nn.ReLU):
    """max(z, 0)^2."""

    def forward(self, z):
        return super().forward(z) ** 2


IN_PLACE = [Quadratic(), Huber(0.5), Huber(3.0), torch.nn.ReLU(), Cubed()]


@pytest.mark.parametrize("activation", IN_PLACE, ids=str)
@pytest.mark.parametrize("shape", [(41,), (7, 3), (2, 5, 4)])
def test_form_in_place_is_the_activation_and_its_slope(activation, shape):
    random = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(shape, generator=random, dtype=torch.float64)
    z.flatten()[:5] = torch.tensor([0.0, 0.5, -0.5, 3.0, -3.0])  # kinks and joins
    gradient = torch.randn(shape, generator=random, dtype=torch.float64)
    z.requires_grad_(True)
    value = activation(z)
    (expected,) = torch.autograd.grad(value, z, gradient)
    form, out = in_place(activation), torch.full(shape, float("nan"), dtype=torch.float64)
    with torch.no_grad():
        form.evaluate(z, out=out)
        form.pull_back(z, gradient)
    torch.testing.assert_close(out, value.detach(), rtol=1e-15, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("activation", IN_PLACE, ids=str)
def test_form_in_place_writes_into_part_of_a_larger_buffer_and_nowhere_else(activation):
    z = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
    buffer = torch.full((4, 5), 7.0, dtype=torch.float64)
    in_place(activation).evaluate(z, out=buffer[:, 1:4])
    torch.testing.assert_close(buffer[:, 1:4], activation(z), rtol=1e-15, atol=0)
    assert (buffer[:, [0, 4]] == 7).all()
    gradients = torch.ones(4, 5, dtype=torch.float64)
    in_place(activation).pull_back(z, gradients[:, 1:4])
    assert (gradients[:, [0, 4]] == 1).all()


@pytest.mark.parametrize(
    "activation", [torch.nn.SiLU(), torch.nn.PReLU(), torch.square, torch.relu]
)
def test_what_knows_no_slope_of_its_own_has_no_form_in_place(activation):
    assert in_place(activation) is None


@pytest.mark.parametrize("activation", [Tripled(), Gated()])
def test_class_that_changes_the_value_alone_has_not_the_form_in_place_of_its_parent(activation):
    assert in_place(activation) is None
