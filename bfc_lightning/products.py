"""Matrix products of training, computed by the faster of MKL and oneDNN on this processor."""

import functools

import torch
from torch import Tensor

# Minimum number of multiplications for which oneDNN is faster despite its calls and copies. On two
# Zen 5 cores at 2^23.6: forward 0.13 ms (MKL) and 0.10 ms (oneDNN), gradients 0.145 and 0.10 ms.
_FEWEST = 2**23
# Entries copied at once. Allocating tens of megabytes takes as long as the product.
_MOST_COPIED = 2**21


@functools.cache
def _is_held_back() -> bool:
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


def library_of_large_products() -> str:
    """The library of large float32 products on the CPU: `onednn` or PyTorch's `default`.

    Returns:
        The name. It is recorded because the results differ in rounding.
    """
    return "onednn" if _is_held_back() and torch.backends.mkldnn.enabled else "default"


def gains_by_onednn(weight: Tensor, num_samples: int) -> bool:
    """Whether a product is faster with oneDNN: large float32 products on some processors.

    The result is constant on one machine, so that a resumed run is reproducible.

    Args:
        weight: W of the functions below. Batched products of several networks do not gain.
        num_samples: n.

    Returns:
        Whether to use the `_by_onednn` functions. False if oneDNN is disabled.
    """
    is_large = weight.dim() == 2 and num_samples * weight.numel() >= _FEWEST
    is_float = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_large and is_float and library_of_large_products() == "onednn"


def affine(bias: Tensor, x: Tensor, weight: Tensor, *, out: Tensor) -> None:
    """X W^T + b. The batched product adds the bias separately, which is faster in PyTorch.

    Args:
        bias: b, shape (..., m).
        x: X, shape (..., n, k).
        weight: W, shape (..., m, k).
        out: the result, shape (..., n, m).
    """
    if x.dim() == 2:
        torch.addmm(bias, x, weight.mT, out=out)
    else:
        torch.bmm(x, weight.mT, out=out)
        out += bias.unsqueeze(-2)


def affine_by_onednn(bias: Tensor, x: Tensor, weight: Tensor, *, out: Tensor) -> None:
    """`affine` of one network, for large products.

    Args:
        bias: b, shape (m,).
        x: X, shape (n, k).
        weight: W, shape (m, k).
        out: the result, shape (n, m).
    """
    weight = weight.contiguous()
    for rows, result in in_parts(x, out):
        result.copy_(linear_by_onednn(rows.contiguous(), weight, bias))


def weight_gradient(gradient: Tensor, x: Tensor, *, out: Tensor) -> None:
    """G^T X. The batched product is copied, since writing to non-contiguous rows would use a loop.

    Args:
        gradient: G, the gradient with respect to the result of `affine`, shape (..., n, m).
        x: X, shape (..., n, k).
        out: the gradient with respect to W, shape (..., m, k).
    """
    if gradient.dim() == 2:
        torch.mm(gradient.mT, x, out=out)
    else:
        out.copy_(torch.bmm(gradient.mT, x))


def weight_gradient_by_onednn(gradient: Tensor, x: Tensor, *, out: Tensor) -> None:
    """`weight_gradient` of one network, for large products, from factors transposed by `transpose`.

    Args:
        gradient: G^T, shape (m, n).
        x: X^T, shape (k, n).
        out: the gradient with respect to W, shape (m, k).
    """
    out.copy_(linear_by_onednn(gradient, x))


def add_input_gradient(total: Tensor, gradient: Tensor, weight: Tensor) -> None:
    """Adds G W to a gradient with respect to X.

    Args:
        total: the gradient, modified in place, shape (..., n, k).
        gradient: G, the gradient with respect to the result of `affine`, shape (..., n, m).
        weight: W, shape (..., m, k).
    """
    if total.dim() == 2:
        total.addmm_(gradient, weight)
    else:
        total += torch.bmm(gradient, weight)


def add_input_gradient_by_onednn(total: Tensor, gradient: Tensor, weight: Tensor) -> None:
    """`add_input_gradient` of one network, for large products.

    Args:
        total: the gradient, modified in place, shape (n, k).
        gradient: G, the gradient with respect to the result of `affine`, shape (n, m).
        weight: W, shape (m, k).
    """
    transposed = weight.mT.contiguous()
    for sums, slopes in in_parts(total, gradient):
        sums += linear_by_onednn(slopes.contiguous(), transposed)


def transpose(x: Tensor, *, out: Tensor) -> None:
    """X^T. A large matrix is copied in blocks of columns, which is up to four times as fast.

    Args:
        x: X, shape (n, k).
        out: the result, shape (k, n), contiguous.
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

    Args:
        x: X, contiguous, since oneDNN is slow for other layouts.
        weight: W, contiguous.
        bias: b.

    Returns:
        The result.
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def in_parts(left: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Splits two matrices into blocks of rows that are small enough to copy.

    Args:
        left: a matrix with n rows.
        right: a matrix with n rows.

    Returns:
        Views of the same rows of both.
    """
    num_rows = max(1, _MOST_COPIED // max(left.shape[1], right.shape[1]))
    return list(zip(torch.split(left, num_rows), torch.split(right, num_rows), strict=True))
