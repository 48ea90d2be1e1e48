"""The matrix products of training, by the faster of PyTorch's two libraries on this processor."""

import functools

import torch
from torch import Tensor

# Multiplications from which oneDNN gains more than its calls and copies cost; more for the gradient
# by weights. Two cores of a Zen 5, ms: forward 0.120 become 0.080 with 2^23.6, gradients
# 0.204 become 0.181 with 2^24.3, but 0.125 become 0.130 with 2^23.6.
_FEWEST, _FEWEST_OF_GRADIENT = 2**23, 2**24
# Numbers that are copied at once. Fresh memory of tens of megabytes costs as much as the product.
_MOST_COPIED = 2**21


@functools.cache
def _is_held_back() -> bool:
    """Whether the processor is one on which MKL leaves half of its speed unused.

    MKL, PyTorch's own choice for float32, has no code with AVX-512 for processors of AMD. Those
    before Zen 5 have AVX-512 but no wider units for it; they lack the flag that is looked for.
    """
    libraries = torch.backends.mkldnn, torch.backends.mkl
    has_both = all(each.is_available() for each in libraries)
    if not has_both or not hasattr(torch.cpu, "get_capabilities"):  # older versions have none
        return False
    known = torch.cpu.get_capabilities()
    return "AMD" in known.get("cpu_name", "") and bool(known.get("avx512_vp2intersect"))


def library_of_large_products() -> str:
    """Which library multiplies large float32 matrices on the CPU: `onednn` or PyTorch's `default`.

    Source: ours.

    Returns:
        Its name, for records: numbers differ in rounding.
    """
    return "onednn" if _is_held_back() and torch.backends.mkldnn.enabled else "default"


def gains_by_onednn(weight: Tensor, num_samples: int, *, of_gradient: bool = False) -> bool:
    """Whether a product is faster by oneDNN: float32 on some processors, if it is large enough.

    The same at every call on one machine, so that a run that goes on repeats its numbers.

    Source: ours.

    Args:
        weight: W of the functions below; products of several networks at once gain nothing.
        num_samples: n.
        of_gradient: whether it is the gradient by W.

    Returns:
        Whether to ask the functions below for it; False while oneDNN is switched off.
    """
    fewest = _FEWEST_OF_GRADIENT if of_gradient else _FEWEST
    is_large = weight.dim() == 2 and num_samples * weight.numel() >= fewest
    is_float = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_large and is_float and library_of_large_products() == "onednn"


def affine(bias: Tensor, x: Tensor, weight: Tensor, *, out: Tensor, by_onednn: bool) -> None:
    """X W^T + b; PyTorch's batched product is faster without the bias.

    Source: ours.

    Args:
        bias: b, shape (..., m).
        x: X, shape (..., n, k).
        weight: W, shape (..., m, k).
        out: for the result, shape (..., n, m).
        by_onednn: from `gains_by_onednn`; two axes only.
    """
    if by_onednn:
        weight = weight.contiguous()
        for rows, result in in_parts(x, out):
            result.copy_(linear_by_onednn(rows.contiguous(), weight, bias))
    elif x.dim() == 2:
        torch.addmm(bias, x, weight.mT, out=out)
    else:
        torch.bmm(x, weight.mT, out=out)
        out += bias.unsqueeze(-2)


def weight_gradient(gradient: Tensor, x: Tensor, *, out: Tensor, by_onednn: bool) -> None:
    """G^T X; batched products into rows with gaps between them take a loop, a copy does not.

    Source: ours.

    Args:
        gradient: G, by the result of `affine`, shape (..., n, m).
        x: X, shape (..., n, k).
        out: for the gradient by W, shape (..., m, k).
        by_onednn: from `gains_by_onednn`; two axes only.
    """
    if by_onednn:
        out.zero_()
        for rows, slopes in in_parts(x, gradient):
            part = weight_gradient_by_onednn(slopes.to_mkldnn(), rows.to_mkldnn(), like=out)
            out += part.to_dense()
    elif gradient.dim() == 2:
        torch.mm(gradient.mT, x, out=out)
    else:
        out.copy_(torch.bmm(gradient.mT, x))


def add_input_gradient(total: Tensor, gradient: Tensor, weight: Tensor, *, by_onednn: bool) -> None:
    """Adds G W to a gradient by X.

    Source: ours.

    Args:
        total: is added to, shape (..., n, k).
        gradient: G, by the result of `affine`, shape (..., n, m).
        weight: W, shape (..., m, k).
        by_onednn: from `gains_by_onednn`; two axes only.
    """
    if by_onednn:
        transposed = weight.mT.contiguous()
        for sums, slopes in in_parts(total, gradient):
            sums += linear_by_onednn(slopes.contiguous(), transposed)
    elif total.dim() == 2:
        total.addmm_(gradient, weight)
    else:
        total += torch.bmm(gradient, weight)


def linear_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b in new memory.

    Source: ours.

    Args:
        x: X, without gaps, as the library is slow with them.
        weight: W, likewise, and in no transposed order.
        bias: b.

    Returns:
        The result.
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def weight_gradient_by_onednn(gradient: Tensor, x: Tensor, *, like: Tensor) -> Tensor:
    """G^T X in new memory.

    Source: ours.

    Args:
        gradient: G, from `Tensor.to_mkldnn`.
        x: X, likewise.
        like: of the shape of the result.

    Returns:
        The result, in the library's form.
    """
    backward = torch.ops.aten.mkldnn_linear_backward_weights
    weights: Tensor = backward(gradient, x, like, False)[0]
    return weights


def in_parts(left: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Some rows of two matrices at a time, as many as may be copied at once.

    Source: ours.

    Args:
        left: of n rows.
        right: likewise.

    Returns:
        Views of the same rows of both.
    """
    num_rows = max(1, _MOST_COPIED // max(left.shape[1], right.shape[1]))
    return list(zip(torch.split(left, num_rows), torch.split(right, num_rows), strict=True))
