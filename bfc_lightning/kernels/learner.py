"""The learner itself, infinitely wide."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.activations import Quadratic
from bfc_lightning.kernels.moments import (
    Covariance,
    Sides,
    cubic_products,
    linear_covariance,
    squared,
)
from bfc_lightning.networks import FEATURE_STD, DenseNet


def learner_ntk(
    x: Float[Tensor, "n d"],
    other: Float[Tensor, "m d"],
    scales: Sequence[float],
    *,
    train_readout: bool = True,
    linear_readout: bool = False,
    positive_readout: bool = False,
) -> Float[Tensor, "n m"]:
    """The tangent kernel of an infinitely wide DenseNet with quadratic activations.

        Z_l = d^(-1/2) U_{l,0} x + 0.3 sum_{1<=j<l} m_j^(-1/2) U_{l,j} F_j + b_l,   F_l = Z_l^2
        f(x) = c + [<u, x>] + sum_l a_l m_l^(-1/2) v_l^T F_l(x)

    This is the learner with V written as its standard deviation times U, and trained in U (NTK
    parameterization), b, c and, where they are, u and v; U from N(0, 1), the rest 0 at the start,
    but v half +1 and half -1, or all +1.

    1. Forward, wide layers first: neurons of layer l are independent Gaussians with covariance
       Sigma_l, and the mean of F_l F_l' over neurons is K_l, by Isserlis' theorem:

           Sigma_l = <x, x'> / d + 0.09 sum_{1<=j<l} K_j
           K_l     = 2 Sigma_l(x,x')^2 + Sigma_l(x,x) Sigma_l(x',x')

    2. Backward: m_l^(1/2) df/dZ_{l,i} is 2 Z_{l,i} times what comes down on F_{l,i}: a_l v_{l,i} of
       its own, and from the neurons k of each layer l' > l the sum of their own derivatives times
       0.3 U_{k,i}. With balanced signs the terms of that sum are independent and centered, so its
       product at x and x' has the mean 0.09 P_{l'}, where P_l is the mean over neurons of the
       products of derivatives:

           P_l = 4 Sigma_l (a_l^2 + 0.09 sum_{l'>l} P_{l'})

    3. All-positive signs add a mean to that sum. Z_k contains 0.3 m_l^(-1/2) U_{k,i} F_i, hence by
       Stein's lemma E U_{k,i} D(Z_k) = 0.3 m_l^(-1/2) F_i E D'(Z_k), and over as many neurons k as
       there are i the mean is of the order of a_l. So derivatives have a part that the neuron's own
       value decides, D_l(z) = 2 (a_l z + c_l z^3), of which only the mean slope goes further down:

           c_l(x) = 0.09 sum_{l'>l} E D_{l'}',   E D_l' = 2 (a_l + 3 c_l Sigma_l(x,x))
           P_l    = E D_l(z) D_l(z') + 4 Sigma_l 0.09 sum_{l'>l} P_{l'},   (z, z') ~ N(0, Sigma_l)

    4. The gradient in U_l is that in Z_l times its inputs, that in b_l is that in Z_l, c gives 1,
       u gives <x, x'>, and v_l gives a_l^2 K_l:

           Theta_f = 1 + [<x,x'>] + sum_l (P_l (Sigma_l + 1) + [v trained] a_l^2 K_l)

    Source: ours, along Jacot, Gabriel and Hongler, arXiv 1806.07572, theorem 1.

    Args:
        x: points.
        other: points.
        scales: a_1, ..., a_L.
        train_readout: v is trained.
        linear_readout: <u, x> is part of f.
        positive_readout: v is all +1 at the start, and all layers have the same width.

    Returns:
        Theta_f(x, x').
    """
    inputs = linear_covariance(x, other)
    kernel = torch.ones_like(inputs.cross)
    if linear_readout:
        kernel += x.shape[1] * inputs.cross
    layers, covariance = [], inputs
    for scale in scales:
        squares = squared(covariance)
        layers.append((scale, covariance, squares))
        covariance = covariance.plus(FEATURE_STD**2, squares)
    from_above = torch.zeros_like(kernel)
    cubic = Sides(torch.zeros_like(inputs.left), torch.zeros_like(inputs.right))
    for scale, covariance, squares in reversed(layers):
        if positive_readout:
            products = cubic_products(covariance, scale, cubic)
            cubic = _below(cubic, scale, covariance)
        else:
            products = 4 * scale**2 * covariance.cross
        products = products + 4 * covariance.cross * from_above
        from_above += FEATURE_STD**2 * products
        kernel += products * (covariance.cross + 1)
        if train_readout:
            kernel += scale**2 * squares.cross
    return kernel


def _below(cubic: Sides, scale: float, covariance: Covariance) -> Sides:
    """The c of the layer below, from a layer's own: one more mean slope comes down."""
    left, right = (
        own + FEATURE_STD**2 * 2 * (scale + 3 * own * variance)
        for own, variance in zip(cubic, covariance[1:], strict=True)
    )
    return Sides(left, right)


def learner_nngp(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], scales: Sequence[float]
) -> Float[Tensor, "n m"]:
    """The covariance of the infinitely wide learner's output at its start.

    The signs v are fixed and sum to 0. Given the layers below, the terms of v_l^T F_l are therefore
    independent and centered by the sum, so that what remains of E F_l F_l' = K_l is the covariance
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
        ValueError: if its activation is not the square, its weights are not initialized at scale
            1, or its readouts are neither balanced nor all +1, or that with different widths.
    """
    if network.init_scale != 1:
        raise ValueError(
            f"model.init_scale must be 1 for the kernel's formula, got {network.init_scale}."
        )
    is_positive = has_positive_readout(network)
    widths = [layer.width for layer in network.dense_layers()]
    if is_positive and len(set(widths)) > 1:
        raise ValueError(
            f"width must be the same in every layer for the kernel's formula, got {widths}, with "
            "readouts that are all +1."
        )
    for level, layer in enumerate(network.dense_layers(), start=1):
        if not isinstance(layer.activation, Quadratic):
            name = type(layer.activation).__name__
            raise ValueError(f"activation must be Quadratic for the kernel's formula, got {name}.")
        if not is_positive and abs(float(layer.readout.detach().sum())) > layer.width % 2:
            raise ValueError(
                "readout must be half +1 and half -1, or all +1, for the kernel's formula, got the "
                f"sum {float(layer.readout.detach().sum()):g} over {layer.width} in layer {level}."
            )
    return [
        scale * math.sqrt(layer.width)
        for scale, layer in zip(network.scales, network.dense_layers(), strict=True)
    ]


def has_positive_readout(network: DenseNet) -> bool:
    """Whether the readouts of all layers are all +1, and not for want of a second neuron.

    Source: ours.

    Args:
        network: the learner at its start.
    """
    layers = network.dense_layers()
    is_positive = all(bool((layer.readout == 1).all()) for layer in layers)
    return is_positive and any(layer.width > 1 for layer in layers)
