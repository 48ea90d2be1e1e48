"""Matrix products of training, computed by the faster of MKL and oneDNN on this processor."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[..., Tensor]
"""(X, W, A) -> X W + A, as `matmul`. A is optional."""

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
    x: Float[Tensor, "n k"],
    weight: Float[Tensor, "k m"],
    addend: Float[Tensor, "*rows m"] | None = None,
) -> Float[Tensor, "n m"]:
    """X W + A, by the faster library. It has no gradient and cannot be batched by `vmap`.

    Args:
        x: X.
        weight: W.
        addend: A, a vector that is added to every row, or a matrix. 0 by default.

    Returns:
        The result, in new memory.
    """
    if not is_large(x, x.shape[0] * weight.numel()):
        return plain_matmul(x, weight, addend)
    if addend is not None and addend.ndim > 1:
        return matmul(x, weight).add_(addend)
    result: Tensor = _linear(x.contiguous(), weight.mT.contiguous(), addend)  # slow otherwise
    return result


def plain_matmul(x: Tensor, weight: Tensor, addend: Tensor | None = None) -> Tensor:
    """X W + A by PyTorch's default library, as `vmap` requires; see `matmul`."""
    return torch.mm(x, weight) if addend is None else torch.addmm(addend, x, weight)


def fusable(product: Product) -> Product:
    """X W + A as X W - (-A), the same number, for functions that Inductor compiles.

    Inductor turns a product plus a matrix into `addmm`, which copies A first. It fuses a difference
    with the elementwise operations that follow.

    Args:
        product: computes X W + A.

    Returns:
        A function of the same arguments.
    """

    def multiply(x: Tensor, weight: Tensor, addend: Tensor | None = None) -> Tensor:
        return product(x, weight) if addend is None else product(x, weight) - (-addend)

    return multiply


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
