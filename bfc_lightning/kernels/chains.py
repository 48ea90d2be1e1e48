"""Tangent kernels of plain chains of layers with quadratic or ReLU activations."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from bfc_lightning.kernels.moments import Covariance, linear_covariance, rectified, squared
from bfc_lightning.types import as_integer

_Step = Callable[[Covariance], tuple[Covariance, Tensor]]


def quadratic_chain_ntk(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], depth: int, bias_std: float = 0.0
) -> Float[Tensor, "n m"]:
    """Tangent kernel Theta_{L+1} of an infinitely wide chain of quadratic layers.

        Z_1 = d^(-1/2) V_1 x + s b_1,   Z_{l+1} = m_l^(-1/2) V_{l+1} Z_l^2 + s b_{l+1}
        f = Z_{L+1}

    All entries of V and b are drawn from N(0, 1) and trained (NTK parameterization). The neurons
    of layer l become independent Gaussians with covariance K_l. The gradient of Z_{l+1} in V_{l+1}
    and b_{l+1} contributes K_{l+1}. Its gradient through Z_l contains V_{l+1} and the factor 2 Z_l:

        K_1     = Theta_1 = <x, x'> / d + s^2
        K_{l+1} = 2 K_l(x,x')^2 + K_l(x,x) K_l(x',x') + s^2
        Theta_{l+1} = K_{l+1} + 4 K_l Theta_l

    Without biases, the kernel is homogeneous of degree 2^L in x.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572, theorem 1, with the moments of a square.

    Args:
        x: points.
        other: points x'.
        depth: L, the number of hidden layers, at least 1.
        bias_std: s, at least 0.
    """
    return _chain_ntk(_quadratic_step, linear_covariance(x, other), depth, bias_std)


def relu_chain_ntk(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], depth: int, bias_std: float = 0.0
) -> Float[Tensor, "n m"]:
    """Tangent kernel Theta_{L+1} of an infinitely wide chain of ReLU layers, scaled as by He et al.

        Z_1 = (2/d)^(1/2) V_1 x + s b_1,   Z_{l+1} = (2/m_l)^(1/2) V_{l+1} relu(Z_l) + s b_{l+1}
        f = Z_{L+1}

    All entries of V and b are drawn from N(0, 1) and trained. As in `quadratic_chain_ntk`,

        K_1     = Theta_1 = 2 <x, x'> / d + s^2
        K_{l+1} = 2 E relu(z) relu(z') + s^2,                  (z, z') ~ N(0, K_l)
        Theta_{l+1} = K_{l+1} + 2 E relu'(z) relu'(z') Theta_l

    Without biases, the kernel is homogeneous of degree 1 in x. It is computed in float64.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572, theorem 1; Cho and Saul (2009) for the
    moments.

    Args:
        x: points.
        other: points x'.
        depth: L, the number of hidden layers, at least 1.
        bias_std: s, at least 0.
    """
    dtype = x.dtype
    if x.device.type != "mps":  # MPS has no float64
        x, other = x.double(), other.double()  # an angle loses half of the digits of its cosine
    inputs = linear_covariance(x, other, variance=2.0)
    return _chain_ntk(rectified, inputs, depth, bias_std).to(dtype)


def _quadratic_step(before: Covariance) -> tuple[Covariance, Tensor]:
    return squared(before), 4 * before.cross


def _chain_ntk(step: _Step, inputs: Covariance, depth: int, bias_std: float) -> Tensor:
    """Theta after `depth` layers.

    Raises:
        ValueError: if bias_std is negative.
    """
    if not bias_std >= 0:
        raise ValueError(f"bias_std must not be negative, got {bias_std}.")
    covariance = inputs.shifted(bias_std**2)
    tangent = covariance.cross
    for _ in range(as_integer(depth, "depth", least=1)):
        after, derivatives = step(covariance)
        covariance = after.shifted(bias_std**2)
        tangent = covariance.cross + derivatives * tangent
    return tangent
