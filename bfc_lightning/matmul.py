"""Matrix products of training, computed by the faster of MKL and oneDNN on this processor."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Minimum number of multiplications for which oneDNN is faster despite its calls and copies. On two
# Zen 5 cores at 2^23.6: forward 0.13 ms (MKL) and 0.10 ms (oneDNN), gradients 0.145 and 0.10 ms.
_FEWEST = 2**23


def _mkl_is_held_back() -> bool:
    """Whether MKL leaves half of the speed of this processor unused.

    MKL, the default for float32, has no AVX-512 code for AMD processors. AMD processors before Zen
    5 support AVX-512 without wider units, so nothing is lost on them. They lack the flag that is
    tested.
    """
    libraries = torch.backends.mkldnn, torch.backends.mkl
    has_both = all(each.is_available() for each in libraries)
    if not has_both or not hasattr(torch.cpu, "get_capabilities"):  # older versions have none
        return False
    known = torch.cpu.get_capabilities()
    return "AMD" in known.get("cpu_name", "") and bool(known.get("avx512_vp2intersect"))


LIBRARY = "onednn" if _mkl_is_held_back() else "default"
"""The library of large float32 products on the CPU. Results of the two differ in rounding."""


def is_large(like: Tensor, num_multiplications: int) -> bool:
    """Whether oneDNN computes a product: large ones in float32, on some processors.

    Args:
        like: a factor.
        num_multiplications: of the product.

    Returns:
        Whether it is faster.
    """
    if num_multiplications < _FEWEST or LIBRARY != "onednn":
        return False
    return like.device.type == "cpu" and like.dtype == torch.float32


def matmul(
    x: Float[Tensor, "n k"], weight: Float[Tensor, "k m"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "n m"]:
    """X W + b, by the faster library. It has no gradient and cannot be batched by `vmap`.

    Args:
        x: X.
        weight: W.
        bias: b.

    Returns:
        The result, in new memory.
    """
    if not is_large(x, x.shape[0] * weight.numel()):
        return _plain_matmul(x, weight, bias)
    result: Tensor = _linear(x.contiguous(), weight.mT.contiguous(), bias)  # slow otherwise
    return result


def add_matmul(
    total: Float[Tensor, "n m"], x: Float[Tensor, "n k"], weight: Float[Tensor, "k m"]
) -> None:
    """T <- T + X W, by the faster library.

    Args:
        total: T, modified.
        x: X.
        weight: W.
    """
    if is_large(x, x.shape[0] * weight.numel()):
        total.add_(matmul(x, weight))
    else:
        total.addmm_(x, weight)


def _plain_matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _plain_add(total: Tensor, x: Tensor, weight: Tensor) -> None:
    total.add_(torch.mm(x, weight))


class Products(NamedTuple):
    """How a learner computes X W + b, as `matmul`, and T <- T + X W, as `add_matmul`."""

    multiply: Callable[..., Tensor]
    add: Callable[[Tensor, Tensor, Tensor], None]


FASTEST = Products(matmul, add_matmul)
BATCHABLE = Products(_plain_matmul, _plain_add)
"""PyTorch's default products, which `vmap` can batch."""


def as_right_factor(x: Float[Tensor, "n k"], height: int) -> Float[Tensor, "n k"]:
    """X, stored by columns if products with it are large, so that no product copies it.

    Args:
        x: X.
        height: number of rows of the left factor.

    Returns:
        X or a copy.
    """
    return x.mT.contiguous().mT if is_large(x, x.numel() * height) else x


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return result


def _empty_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


# Inductor's own lowering of the operator refuses weights that are not constants. This one has less
# overhead than a `torch.library.custom_op`, 1.4 instead of 6.4 microseconds a call.
_OPERATOR = "bfc_lightning::linear"
torch.library.define(_OPERATOR, "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.impl(_OPERATOR, "CPU", _by_onednn)
torch.library.register_fake(_OPERATOR, _empty_product)
_linear = torch.ops.bfc_lightning.linear.default
