"""The learner itself, infinitely wide."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.activations import Quadratic
from bfc_lightning.kernels.moments import linear_covariance, squared
from bfc_lightning.networks import FEATURE_STD, DenseNet


def learner_ntk(
    x: Float[Tensor, "n d"],
    other: Float[Tensor, "m d"],
    scales: Sequence[float],
    *,
    train_readout: bool = True,
    linear_readout: bool = False,
) -> Float[Tensor, "n m"]:
    """The tangent kernel of an infinitely wide DenseNet with quadratic activations.

        Z_l = d^(-1/2) U_{l,0} x + 0.3 sum_{1<=j<l} m_j^(-1/2) U_{l,j} F_j + b_l,   F_l = Z_l^2
        f(x) = c + [<u, x>] + sum_l a_l m_l^(-1/2) v_l^T F_l(x)

    This is the learner with V written as its standard deviation times U, and trained in U (NTK
    parameterisation), b, c and, where they are, u and v; U from N(0, 1), the rest 0 at the start,
    but v half +1 and half -1. Wide layers first, from the bottom:

    1. Neurons of layer l are independent Gaussians with covariance Sigma_l, and the mean of
       F_l F_l' over neurons is K_l, by Isserlis' theorem:

           Sigma_l = <x, x'> / d + 0.09 sum_{1<=j<l} K_j
           K_l     = 2 Sigma_l(x,x')^2 + Sigma_l(x,x) Sigma_l(x',x')

    2. Theta_l, the product of the gradients of one neuron Z_{l,i} at x and x', has a part from
       U_l, which is Sigma_l, one from b_l, which is 1, and those through the neurons k of lower
       layers, each 0.09 U_{l,j}[i,k]^2 / m_j times the slopes 2 Z_{j,k} 2 Z'_{j,k}. Products of two
       different neurons k, k' carry two independent signs of U, and vanish:

           Theta_l = Sigma_l + 1 + 0.36 sum_{1<=j<l} Sigma_j Theta_j

    3. In f, c gives 1, u gives <x, x'>, v_l gives a_l^2 K_l. Through Z_l comes the mean over
       neurons of (2 Z_l)(2 Z_l') Theta_l. Two different neurons of a layer have a product of
       gradients of order 1/m_l, times their signs in v; these sum to nothing because v is balanced
       (all-positive signs leave a term of order 1, which is not covered):

           Theta_f = 1 + [<x,x'>] + sum_l a_l^2 (4 Sigma_l Theta_l + [v trained] K_l)

    Source: ours, along Jacot, Gabriel and Hongler, arXiv 1806.07572, theorem 1.

    Args:
        x: points.
        other: points.
        scales: a_1, ..., a_L.
        train_readout: v is trained.
        linear_readout: <u, x> is part of f.

    Returns:
        Theta_f(x, x').
    """
    inputs = linear_covariance(x, other)
    kernel = torch.ones_like(inputs.cross)
    if linear_readout:
        kernel += x.shape[1] * inputs.cross
    covariance, through = inputs, torch.zeros_like(kernel)
    for scale in scales:
        squares = squared(covariance)
        slopes = covariance.cross * (covariance.cross + 1 + 4 * FEATURE_STD**2 * through)
        kernel += scale**2 * (4 * slopes + squares.cross if train_readout else 4 * slopes)
        covariance = covariance.plus(FEATURE_STD**2, squares)
        through += slopes
    return kernel


def learner_nngp(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], scales: Sequence[float]
) -> Float[Tensor, "n m"]:
    """The covariance of the infinitely wide learner's output at its start.

    The signs v are fixed and sum to 0. Given the layers below, the terms of v_l^T F_l are therefore
    independent and centred by the sum, so that what remains of E F_l F_l' = K_l is the covariance
    of two squares, and two layers have none in common:

        Cov(f(x), f(x')) = sum_l a_l^2 2 Sigma_l(x,x')^2

    with Sigma_l as in `learner_ntk`. c and u are 0 at the start.

    Source: ours, along Lee et al., arXiv 1711.00165, section 2.2.

    Args:
        x: points.
        other: points.
        scales: a_1, ..., a_L.

    Returns:
        The covariance at all pairs.
    """
    covariance = linear_covariance(x, other)
    kernel = torch.zeros_like(covariance.cross)
    for scale in scales:
        kernel += 2 * scale**2 * covariance.cross.square()
        covariance = covariance.plus(FEATURE_STD**2, squared(covariance))
    return kernel


def readout_scales(network: DenseNet) -> list[float]:
    """a_1, ..., a_L of a learner whose wide limit is known.

    Source: ours.

    Args:
        network: the learner at its start.

    Returns:
        a_l, without the factor m_l^(-1/2).

    Raises:
        ValueError: if its activation is not the square, or a readout is not balanced.
    """
    for level, layer in enumerate(network.dense_layers(), start=1):
        if not isinstance(layer.activation, Quadratic):
            name = type(layer.activation).__name__
            raise ValueError(f"activation must be Quadratic for the kernel's formula, got {name}.")
        if layer.width > 1 and abs(float(layer.readout.detach().sum())) > layer.width % 2:
            raise ValueError(
                "readout must be half +1 and half -1 for the kernel's formula, got the sum "
                f"{float(layer.readout.detach().sum()):g} over {layer.width} in layer {level}."
            )
    return [
        scale * math.sqrt(layer.width)
        for scale, layer in zip(network.scales, network.dense_layers(), strict=True)
    ]
