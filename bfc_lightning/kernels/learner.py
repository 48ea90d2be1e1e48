"""Kernels of the infinitely wide learner."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.activations import Quadratic
from bfc_lightning.kernels.moments import cubic_products, linear_covariance, squared
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
    """Tangent kernel Theta_f of an infinitely wide DenseNet with quadratic activations.

        Z_l = d^(-1/2) U_{l,0} x + 0.3 sum_{1<=j<l} m_j^(-1/2) U_{l,j} F_j + b_l,   F_l = Z_l^2
        f(x) = c + [<u, x>] + sum_l a_l m_l^(-1/2) v_l^T F_l(x)

    This is the learner with V written as its standard deviation times U (NTK parameterization).
    U, b, c and, if present, u and v are trained. U is initialized from N(0, 1), and b, c and u are
    initialized to 0. Half of v is +1 and half is -1, or all of v is +1.

    1. Forward pass. In the limit, the neurons of layer l are independent Gaussians with covariance
       Sigma_l. By Isserlis' theorem, the mean of F_l F_l' over neurons is K_l:

           Sigma_l = <x, x'> / d + 0.09 sum_{1<=j<l} K_j
           K_l     = 2 Sigma_l(x,x')^2 + Sigma_l(x,x) Sigma_l(x',x')

    2. Backward pass. m_l^(1/2) df/dZ_{l,i} is 2 Z_{l,i} times the derivative in F_{l,i}. The latter
       is a_l v_{l,i} plus, for each layer l' > l, the sum over its neurons k of their derivatives
       times 0.3 U_{k,i}. With balanced signs, the terms of this sum are independent and centered,
       so its product at x and x' has mean 0.09 P_{l'}. P_l is the mean over neurons of the products
       of derivatives:

           P_l = 4 Sigma_l (a_l^2 + 0.09 sum_{l'>l} P_{l'})

    3. With positive signs, this sum has a nonzero mean. Z_k contains 0.3 m_l^(-1/2) U_{k,i} F_i.
       By Stein's lemma, E U_{k,i} D(Z_k) = 0.3 m_l^(-1/2) F_i E D'(Z_k). If layers have equal
       widths, the mean of the sum is of the order of a_l. Derivatives thus contain a deterministic
       function of the neuron's value, D_l(z) = 2 (a_l z + c_l z^3). Lower layers depend on it only
       through its mean derivative:

           c_l(x) = 0.09 sum_{l'>l} E D_{l'}',   E D_l' = 2 (a_l + 3 c_l Sigma_l(x,x))
           P_l    = E D_l(z) D_l(z') + 4 Sigma_l 0.09 sum_{l'>l} P_{l'},   (z, z') ~ N(0, Sigma_l)

    4. The gradient in U_l is the gradient in Z_l times the inputs of the layer. The gradient in b_l
       equals the gradient in Z_l. c contributes 1, u contributes <x, x'>, and v_l contributes
       a_l^2 K_l:

           Theta_f = 1 + [<x,x'>] + sum_l (P_l (Sigma_l + 1) + [v trained] a_l^2 K_l)

    Source: derived here, following Jacot, Gabriel and Hongler, arXiv 1806.07572, theorem 1.

    Args:
        x: points.
        other: points x'.
        scales: a_1, ..., a_L.
        train_readout: whether v is trained.
        linear_readout: whether <u, x> is part of f.
        positive_readout: whether v is initialized to +1. All layers must have the same width then.
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
    higher = torch.zeros_like(kernel)
    cubic = [torch.zeros_like(side) for side in inputs[1:]]  # c_l at x and at x'
    for scale, covariance, squares in reversed(layers):
        if positive_readout:
            products = cubic_products(covariance, scale, cubic)
            pairs = zip(cubic, covariance[1:], strict=True)
            cubic = [c + FEATURE_STD**2 * 2 * (scale + 3 * c * variance) for c, variance in pairs]
        else:
            products = 4 * scale**2 * covariance.cross
        products = products + 4 * covariance.cross * higher
        higher += FEATURE_STD**2 * products
        kernel += products * (covariance.cross + 1)
        if train_readout:
            kernel += scale**2 * squares.cross
    return kernel


def readout_scales(network: DenseNet) -> list[float]:
    """Returns a_1, ..., a_L, without m_l^(-1/2), of a learner with a known infinite-width limit.

    Args:
        network: the learner at initialization.

    Raises:
        ValueError: if the activation is not `Quadratic`, the initialization scale is not 1, the
            readouts are neither balanced nor all +1, or they are all +1 and the widths differ.
    """
    if network.init_scale != 1:
        raise ValueError(
            f"model.init_scale must be 1 for the kernel's formula, got {network.init_scale}."
        )
    is_positive = has_positive_readout(network)
    widths = [layer.width for layer in network.dense_layers()]
    if is_positive and len(set(widths)) > 1:
        raise ValueError(
            "width must be the same in every layer for the kernel's formula if all readouts are "
            f"+1, got {widths}."
        )
    for level, layer in enumerate(network.dense_layers(), start=1):
        if not isinstance(layer.activation, Quadratic):
            name = type(layer.activation).__name__
            raise ValueError(f"activation must be Quadratic for the kernel's formula, got {name}.")
        if not is_positive and abs(float(layer.readout.detach().sum())) > layer.width % 2:
            raise ValueError(
                "readout must be half +1 and half -1, or all +1, for the kernel's formula, got "
                f"{layer.width} numbers with sum {float(layer.readout.detach().sum()):g} in layer "
                f"{level}."
            )
    return [
        scale * math.sqrt(layer.width)
        for scale, layer in zip(network.scales, network.dense_layers(), strict=True)
    ]


def has_positive_readout(network: DenseNet) -> bool:
    """Returns whether all readouts are +1 and at least one layer has several neurons."""
    layers = network.dense_layers()
    is_positive = all(bool((layer.readout == 1).all()) for layer in layers)
    return is_positive and any(layer.width > 1 for layer in layers)
