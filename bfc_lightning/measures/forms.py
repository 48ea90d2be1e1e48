"""The quadratic form that a learner's first layer computes, beside that of the target."""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.networks import DenseNet
from bfc_lightning.targets import HierarchicalTarget


def learner_form(network: DenseNet) -> Float[Tensor, "d d"]:
    """The quadratic part of what layer 1 adds to f, for quadratic activations.

        A = a_1 m_1^(-1/2) V_{1,0}^T diag(v_1) V_{1,0}

    Source: f of `DenseNet`, biases left out.

    Args:
        network: the learner.

    Returns:
        A symmetric matrix.
    """
    layer = network.dense_layers()[0]
    seen = layer.block(0)
    return network.scales[0] * (seen.T * layer.readout) @ seen


def target_form(target: HierarchicalTarget) -> Float[Tensor, "d d"]:
    """The quadratic part of what level 1 adds to G.

        A = W_{1,0}^T diag(r) W_{1,0},   r the weight of each square of the first level in G

    Source: G of `HierarchicalTarget`.

    Args:
        target: G.

    Returns:
        A symmetric matrix of rank at most k_1.
    """
    weight = target.weight(1, 0)
    return (weight.T * target.square_weights(1)) @ weight


def form_error(learner: Float[Tensor, "d d"], target: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """How far the quadratic form of layer 1 is from that of level 1: `features/form_error_1`.

        |A_F - A_1|_F^2 / |A_1|_F^2

    with A_F of `learner_form` and A_1 of `target_form`. Unlike a probe of the neurons, it sees only
    what layer 1 adds to f: parts of the neurons that cancel in the readout do not count.

    Args:
        learner: A_F.
        target: A_1, not 0.

    Returns:
        0 where layer 1 computes level 1, apart from a linear function; 1 where it adds no form.
    """
    return (learner - target).square().sum() / target.square().sum()


def in_target_basis(
    learner: Float[Tensor, "d d"], target: Float[Tensor, "d d"], num_directions: int
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Both forms in a basis that shows what the learner looks at beside the target's directions.

    First the target's eigenvectors of largest absolute eigenvalue; then, in the space orthogonal to
    them, the eigenvectors of the learner's form, largest absolute eigenvalue first.

    Source: ours.

    Args:
        learner: symmetric.
        target: symmetric.
        num_directions: how many of the target's eigenvectors come first.

    Returns:
        The forms in that basis.
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
