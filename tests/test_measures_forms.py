"""Layer 1's quadratic form and the target's."""

import torch

from bfc_lightning import DenseNet, Gaussian, HierarchicalTarget
from bfc_lightning.measures.forms import in_target_basis, learner_form, target_form


def hessian(function, dim: int) -> torch.Tensor:
    return torch.autograd.functional.hessian(function, torch.zeros(dim, dtype=torch.float64))


def test_learner_form_is_half_the_hessian_of_what_layer_1_adds():
    network = DenseNet(5, [7, 3], level_scales=(1.0, 0.5), seed=1).double()
    network.active_depth = 1
    expected = hessian(lambda x: network(x[None])[0], 5) / 2
    assert torch.allclose(learner_form(network), expected, atol=1e-12)


def test_target_form_is_half_the_hessian_of_the_first_level():
    target = HierarchicalTarget(Gaussian(6), widths=[3, 2], seed=2)
    expected = hessian(lambda x: target.level_outputs(x[None])[0, 0], 6) / 2
    assert torch.allclose(target_form(target), expected, atol=1e-12)
    assert torch.linalg.matrix_rank(target_form(target)) == 3


def test_basis_shows_the_target_first_and_then_the_largest_leak():
    target = torch.diag(torch.tensor([0.0, 2.0, 0.0, -3.0], dtype=torch.float64))
    learner = torch.diag(torch.tensor([0.1, 2.0, -0.7, -3.0], dtype=torch.float64))
    shown, wanted = in_target_basis(learner, target, 2)
    assert torch.allclose(wanted.diagonal(), torch.tensor([-3.0, 2.0, 0.0, 0.0]).double())
    assert torch.allclose(shown.diagonal(), torch.tensor([-3.0, 2.0, -0.7, 0.1]).double())
