"""The empirical neural tangent kernel and its drift during training."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bfc_lightning.networks import DenseNet


class _Trace(NamedTuple):
    """All layers on the same n samples and the gradients of f with respect to them."""

    preactivations: list[Tensor]
    features: list[Tensor]
    preactivation_slopes: list[Tensor]
    feature_slopes: list[Tensor]


def empirical_ntk(
    network: DenseNet,
    x: Float[Tensor, "n d"],
    other: Float[Tensor, "m d"] | None = None,
    *,
    has_readout: bool = True,
) -> Float[Tensor, "n m"]:
    """K(x, x') = sum over all parameters theta of df(x)/dtheta df(x')/dtheta.

    The sum includes all layers and all parameters, frozen or not. No Jacobian is formed, and K is
    detached from the graph. With B_l = [x, F_1, ..., F_{l-1}] concatenated, D_l = df/dZ_l and r_l
    the factor of layer l in f,

        K = 1 + [x x^T] + sum_l ((D_l D_l^T) * (B_l B_l^T + 1) + r_l^2 F_l F_l^T)

    Here * is the elementwise product. The leading 1 is due to the constant c, [x x^T] to the linear
    readout if there is one, B_l B_l^T to V_l, the 1 next to it to b_l, and F_l F_l^T to the readout
    v_l. Parameters of an activation add the products of their per-sample gradients.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572, section 4; layer by layer as for dense
    networks in Novak, Sohl-Dickstein and Schoenholz, arXiv 2206.08720.

    Args:
        network: the learner. Its activation acts on each sample separately. It is not modified.
        x: the samples, in the network's dtype and on its device.
        other: the samples x'. Defaults to x.
        has_readout: whether the readouts v_l are among the parameters.
    """
    left = _trace(network, x)
    right, other = (left, x) if other is None else (_trace(network, other), other)
    with torch.no_grad():
        below = x @ other.T
        kernel = 1 + below if network.linear is not None else torch.ones_like(below)
        below += 1
        for level, layer in enumerate(network.dense_layers()):
            slopes = left.preactivation_slopes[level] @ right.preactivation_slopes[level].T
            seen = left.features[level] @ right.features[level].T
            kernel.addcmul_(slopes, below)
            if has_readout:
                kernel.add_(seen, alpha=network.scales[level] ** 2)
            below += seen
            if isinstance(layer.activation, nn.Module) and list(layer.activation.parameters()):
                own = [
                    _activation_jacobian(layer.activation, side, level) for side in (left, right)
                ]
                kernel.addmm_(own[0], own[1].T)
        return kernel


def kernel_drift(kernel: Float[Tensor, "n n"], initial: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """1 - <K, K_0>_F / (|K|_F |K_0|_F), the cosine distance of two kernels: `ntk/drift`.

    Computed as |K/|K|_F - K_0/|K_0|_F|_F^2 / 2, which avoids cancellation for similar kernels.

    It is 0 for positive multiples of each other, and at most 1 for positive semi-definite kernels.

    Source: Fort et al., arXiv 2010.15110, kernel distance.
    """
    norm, initial_norm = torch.linalg.norm(kernel), torch.linalg.norm(initial)
    difference: Tensor = kernel / norm - initial / initial_norm
    return difference.square().sum() / 2


def _trace(network: DenseNet, x: Tensor) -> _Trace:
    """Runs all layers forward and backward, even inside `no_grad` or inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        inputs = x.detach().clone().requires_grad_()
        preactivations: list[Tensor] = []
        features: list[Tensor] = []
        output = inputs.new_zeros(())
        for scale, layer in zip(network.scales, network.dense_layers(), strict=True):
            preactivations.append(layer.preactivation(torch.cat([inputs, *features], dim=1)))
            # clone, since activations may work in place
            features.append(layer.activation(preactivations[-1].clone()))
            output = output + scale * (features[-1] @ layer.readout).sum()
        slopes = torch.autograd.grad(output, [*preactivations, *features])
    depth = len(features)
    return _Trace(preactivations, features, list(slopes[:depth]), list(slopes[depth:]))


def _activation_jacobian(
    activation: nn.Module, trace: _Trace, level: int
) -> Float[Tensor, "n parameters"]:
    """Per-sample gradient of f with respect to the activation's parameters in layer level + 1."""
    preactivations, slopes = trace.preactivations[level], trace.feature_slopes[level]
    parameters = {name: own.detach() for name, own in activation.named_parameters()}

    def output(values: dict[str, Tensor], row: Tensor, slope: Tensor) -> Tensor:
        feature: Tensor = functional_call(activation, values, (row[None],))
        return feature[0] @ slope

    jacobians = vmap(grad(output), in_dims=(None, 0, 0))(parameters, preactivations, slopes)
    return torch.cat([part.flatten(start_dim=1) for part in jacobians.values()], dim=1)
