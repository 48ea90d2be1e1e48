"""What no loop can beat: a step's matrix products at this machine's rate, and drawing the batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bfc_lightning.experiments.bench.bare import BareLoop
from bfc_lightning.experiments.bench.workload import Workload, synchronize
from bfc_lightning.products import (
    gains_by_onednn,
    in_parts,
    linear_by_onednn,
)


@dataclass(frozen=True)
class Product:
    """A matrix product of a step: (rows, inner) times (inner, columns).

    Attributes:
        what: `forward 1`, `weights 1`, `features 2`, ...: what it computes, of which layer.
        rows: of the left factor.
        inner: its columns.
        columns: of the right factor.
    """

    what: str
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """2 rows inner columns: a multiplication and an addition each."""
        return 2 * self.rows * self.inner * self.columns


def step_products(input_dim: int, widths: Sequence[int], batch_size: int) -> list[Product]:
    """The matrix products of a training step of a DenseNet.

    With n_l = d + m_1 + ... + m_{l-1} and A_l = [x, F_1, ..., F_{l-1}], layer l needs

        forward        Z_l = A_l V_l^T             (B, n_l) (n_l, m_l)         2 B n_l m_l
        weights        dV_l = dZ_l^T A_l           (m_l, B) (B, n_l)           2 B n_l m_l
        features       d[F_1, ...] = dZ_l V_l'     (B, m_l) (m_l, n_l - d)     2 B m_l (n_l - d)

    V_l' are the columns of V_l that read features: nothing needs the gradient of x, so layer 1 has
    no third product. Readouts, biases and squares are no matrix products and are not counted.

    Source: ours.

    Args:
        input_dim: d.
        widths: m_1, ..., m_L.
        batch_size: B.

    Returns:
        Three products a layer, two for the first.
    """
    products = []
    for level, width in enumerate(widths, start=1):
        below = sum(widths[: level - 1])
        fan_in = input_dim + below
        products.append(Product(f"forward {level}", batch_size, fan_in, width))
        products.append(Product(f"weights {level}", width, batch_size, fan_in))
        if below:
            products.append(Product(f"features {level}", batch_size, width, below))
    return products


class Limit:
    """The products alone, in their shapes and precision, and the drawing of x and G(x).

    Each is by the library that training takes for it, with its factors as that one likes them best.
    Nothing else of a step is in it: no squares, no biases, no sums of gradients, no optimizer.

    Args:
        workload: what would be trained.

    Attributes:
        products: of a step.
        product_seconds: how long they took, one number a round.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.loop = BareLoop(workload)
        widths = [layer.width for layer in self.loop.start.dense_layers()]
        self.products = step_products(workload.target.input_dim, widths, workload.batch_size)
        self.product_seconds: list[float] = []
        self._multiplications: list[Callable[[], object]] = []
        for level in range(len(widths)):
            self._prepare(workload.target.input_dim, widths[: level + 1])

    @property
    def flops(self) -> int:
        """Of all products of a step."""
        return sum(product.flops for product in self.products)

    def seconds_per_step(self) -> float:
        """Seconds of a step's products, plus seconds of a draw."""
        self.product_seconds.append(self._timed(self._multiply))
        return self.product_seconds[-1] + self._timed(self._draw)

    def _prepare(self, input_dim: int, widths: Sequence[int]) -> None:
        """Random factors of the last layer's products, laid out as training has them."""
        *below, width = widths
        batch_size, fan_in = self.workload.batch_size, input_dim + sum(below)
        features = self._random(batch_size, fan_in)
        weight = self._random(width, fan_in)
        gradient = self._random(batch_size, width)
        if gains_by_onednn(weight, batch_size):
            self._add_linear(features, weight, gradient)
            turned = gradient.T.contiguous(), features.T.contiguous()
            self._multiplications.append(partial(linear_by_onednn, *turned))
        else:
            forward, backward = torch.empty_like(gradient), torch.empty_like(weight)
            self._multiplications += [
                partial(torch.mm, features, weight.T, out=forward),
                partial(torch.mm, gradient.T, features, out=backward),
            ]
        if not below:
            return
        reading = weight[:, input_dim:]
        into = torch.empty_like(features[:, input_dim:])
        if gains_by_onednn(reading, batch_size):
            self._add_linear(gradient, reading.T.contiguous(), into)
        else:
            self._multiplications.append(partial(torch.mm, gradient, reading, out=into))

    def _add_linear(self, factor: Tensor, weight: Tensor, result: Tensor) -> None:
        """A product by oneDNN, some rows at a time: more would be slower."""
        for rows, _ in in_parts(factor, result):
            self._multiplications.append(partial(linear_by_onednn, rows, weight))

    def _random(self, rows: int, columns: int) -> Tensor:
        empty = torch.empty(rows, columns, device=self.workload.device, dtype=self.workload.dtype)
        return empty.normal_(generator=self.loop.random)

    def _multiply(self) -> None:
        for multiply in self._multiplications:
            multiply()

    @torch.no_grad()
    def _draw(self) -> None:
        self.loop.target(self.loop.draw())

    def _timed(self, work: Callable[[], None]) -> float:
        """Mean seconds of a piece of work, done as often as a run has timed steps."""
        work()
        synchronize(self.workload.device)
        started = time.perf_counter()
        for _ in range(self.workload.num_timed):
            work()
        synchronize(self.workload.device)
        return (time.perf_counter() - started) / self.workload.num_timed
