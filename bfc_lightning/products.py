"""The matrix products of training, by the faster of PyTorch's two libraries on this processor."""

import functools

import torch
from torch import Tensor

# Multiplications from which oneDNN gains more than its calls and copies cost. Two cores of a Zen 5,
# ms: with 2^23.6 forward 0.13 become 0.10, gradients 0.145 become 0.10.
_FEWEST = 2**23
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


def gains_by_onednn(weight: Tensor, num_samples: int) -> bool:
    """Whether a product is faster by oneDNN: float32 on some processors, if it is large enough.

    The same at every call on one machine, so that a run that goes on repeats its numbers.

    Source: ours.

    Args:
        weight: W of the functions below; products of several networks at once gain nothing.
        num_samples: n.

    Returns:
        Whether to take the functions that are named for it; False while oneDNN is switched off.
    """
    is_large = weight.dim() == 2 and num_samples * weight.numel() >= _FEWEST
    is_float = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_large and is_float and library_of_large_products() == "onednn"


def affine(bias: Tensor, x: Tensor, weight: Tensor, *, out: Tensor) -> None:
    """X W^T + b; PyTorch's batched product is faster without the bias.

    Source: ours.

    Args:
        bias: b, shape (..., m).
        x: X, shape (..., n, k).
        weight: W, shape (..., m, k).
        out: for the result, shape (..., n, m).
    """
    if x.dim() == 2:
        torch.addmm(bias, x, weight.mT, out=out)
    else:
        torch.bmm(x, weight.mT, out=out)
        out += bias.unsqueeze(-2)


def affine_by_onednn(bias: Tensor, x: Tensor, weight: Tensor, *, out: Tensor) -> None:
    """`affine` of one network, for large products.

    Source: ours.

    Args:
        bias: b, shape (m,).
        x: X, shape (n, k).
        weight: W, shape (m, k).
        out: for the result, shape (n, m).
    """
    weight = weight.contiguous()
    for rows, result in in_parts(x, out):
        result.copy_(linear_by_onednn(rows.contiguous(), weight, bias))


def weight_gradient(gradient: Tensor, x: Tensor, *, out: Tensor) -> None:
    """G^T X; batched products into rows with gaps between them take a loop, a copy does not.

    Source: ours.

    Args:
        gradient: G, by the result of `affine`, shape (..., n, m).
        x: X, shape (..., n, k).
        out: for the gradient by W, shape (..., m, k).
    """
    if gradient.dim() == 2:
        torch.mm(gradient.mT, x, out=out)
    else:
        out.copy_(torch.bmm(gradient.mT, x))


def weight_gradient_by_onednn(gradient: Tensor, x: Tensor, *, out: Tensor) -> None:
    """`weight_gradient` of one network, for large products; both factors turned by `transpose`.

    Source: ours.

    Args:
        gradient: G^T, shape (m, n).
        x: X^T, shape (k, n).
        out: for the gradient by W, shape (m, k).
    """
    out.copy_(linear_by_onednn(gradient, x))


def add_input_gradient(total: Tensor, gradient: Tensor, weight: Tensor) -> None:
    """Adds G W to a gradient by X.

    Source: ours.

    Args:
        total: is added to, shape (..., n, k).
        gradient: G, by the result of `affine`, shape (..., n, m).
        weight: W, shape (..., m, k).
    """
    if total.dim() == 2:
        total.addmm_(gradient, weight)
    else:
        total += torch.bmm(gradient, weight)


def add_input_gradient_by_onednn(total: Tensor, gradient: Tensor, weight: Tensor) -> None:
    """`add_input_gradient` of one network, for large products.

    Source: ours.

    Args:
        total: is added to, shape (n, k).
        gradient: G, by the result of `affine`, shape (n, m).
        weight: W, shape (m, k).
    """
    transposed = weight.mT.contiguous()
    for sums, slopes in in_parts(total, gradient):
        sums += linear_by_onednn(slopes.contiguous(), transposed)


def transpose(x: Tensor, *, out: Tensor) -> None:
    """X^T; a large one from copies of some columns, which is up to four times as fast.

    Source: ours.

    Args:
        x: X, shape (n, k).
        out: for the result, shape (k, n), without gaps.
    """
    if x.numel() <= _MOST_COPIED:
        out.copy_(x.mT)
        return
    num_columns = max(1, _MOST_COPIED // len(x))
    parts = zip(torch.split(x, num_columns, dim=1), torch.split(out, num_columns), strict=True)
    for columns, rows in parts:
        rows.copy_(columns.contiguous().mT)


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
