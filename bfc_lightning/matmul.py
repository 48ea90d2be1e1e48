"""Matrix products of training, computed by the faster of MKL and oneDNN on this processor."""

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
    is_float = like.device.type == "cpu" and like.dtype == torch.float32
    return LIBRARY == "onednn" and is_float and num_multiplications >= _FEWEST


def linear(
    x: Float[Tensor, "n k"], weight: Float[Tensor, "m k"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "n m"]:
    """X W^T + b, by the faster library. It has no gradient and cannot be batched by `vmap`.

    Args:
        x: X.
        weight: W.
        bias: b.

    Returns:
        The result, in new memory.
    """
    if not is_large(x, len(x) * weight.numel()):
        return torch.nn.functional.linear(x, weight, bias)
    multiply = _traceable if torch.compiler.is_compiling() else _by_onednn
    return multiply(x.contiguous(), weight.contiguous(), bias)  # slow for other layouts


def transposed(x: Float[Tensor, "n k"], width: int) -> Float[Tensor, "k n"]:
    """X^T, copied once if products with it are large; its first rows are then contiguous, too.

    Args:
        x: X.
        width: number of rows of the other factor.

    Returns:
        A view or a copy.
    """
    return x.mT.contiguous() if is_large(x, x.numel() * width) else x.mT


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


# Inductor's own lowering of the operator refuses weights that are not constants.
_traceable = torch.library.custom_op("bfc_lightning::linear", _by_onednn, mutates_args=())


@_traceable.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))
