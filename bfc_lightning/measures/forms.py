"""Quadratic forms computed by layer 1 of the learner and by level 1 of the target."""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.networks import DenseNet
from bfc_lightning.targets import HierarchicalTarget


def learner_form(network: DenseNet) -> Float[Tensor, "d d"]:
    """The quadratic part of the contribution of layer 1 to f, for quadratic activations.

        A = a_1 m_1^(-1/2) V_{1,0}^T diag(v_1) V_{1,0}

    Source: the definition of f in `DenseNet`, without biases.
    """
    layer = network.dense_layers()[0]
    seen = layer.block(0)
    return network.scales[0] * (seen.T * layer.readout) @ seen


def target_form(target: HierarchicalTarget) -> Float[Tensor, "d d"]:
    """The quadratic part of the contribution of level 1 to G.

        A = W_{1,0}^T diag(r) W_{1,0},   r the weight of each square of the first level in G

    Source: the definition of G in `HierarchicalTarget`.
    """
    weight = target.weight(1, 0)
    return (weight.T * target.square_weights(1)) @ weight


def form_error(learner: Float[Tensor, "d d"], target: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Distance between the quadratic forms of layer 1 and level 1: `features/form_error_1`.

        |A_F - A_1|_F^2 / |A_1|_F^2

    A_F is `learner_form` and A_1 is `target_form`. Unlike a probe of the neurons, the error depends
    only on the contribution of layer 1 to f. Parts of the neurons that cancel in the readout do not
    count. The error is 0 if layer 1 computes level 1 up to a linear function, and 1 if A_F is 0.
    """
    return (learner - target).square().sum() / target.square().sum()


def in_target_basis(
    learner: Float[Tensor, "d d"], target: Float[Tensor, "d d"], num_directions: int
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Both forms in a basis adapted to the target and then to the learner.

    The basis starts with the target's eigenvectors of largest absolute eigenvalue. It continues
    with the eigenvectors of the learner's form restricted to the orthogonal complement, in order of
    decreasing absolute eigenvalue.

    Args:
        learner: symmetric.
        target: symmetric.
        num_directions: number of eigenvectors of the target at the start of the basis.
    """
    own = _eigenvectors(target)
    directions, rest = own[:, :num_directions], own[:, num_directions:]
    rest = rest @ _eigenvectors(rest.T @ learner @ rest)
    basis = torch.cat([directions, rest], dim=1)
    return basis.T @ learner @ basis, basis.T @ target @ basis


def _eigenvectors(form: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(form)
    ordered: Tensor = vectors[:, values.abs().argsort(descending=True)]
    return ordered
