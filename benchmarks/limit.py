"""A lower limit of the step time: the matrix products of a step alone, and drawing the batch."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.loops import BareLoop, mean_seconds
from benchmarks.workload import Workload
from bfc_lightning.matmul import matmul


class Limit:
    """The matrix products of a step, in their shapes and precision, and the draw of x and G(x).

    With n_l = d + m_1 + ... + m_{l-1} and A_l = [x, F_1, ..., F_{l-1}], layer l needs

        Z_l = A_l V_l^T             (B, n_l) (n_l, m_l)         2 B n_l m_l FLOP
        dV_l = dZ_l^T A_l           (m_l, B) (B, n_l)           2 B n_l m_l FLOP
        d[F_1, ...] = dZ_l V_l'     (B, m_l) (m_l, n_l - d)     2 B m_l (n_l - d) FLOP

    V_l' are the columns of V_l that read features: no step needs the gradient with respect to x.
    Each product uses the library that training uses for it, with factors in the layout that this
    library prefers. Activations, biases, readouts and the optimizer are left out.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.loop = BareLoop(workload)
        self.flops = 0
        self.matmul_seconds: list[float] = []
        self._matmuls: list[Callable[[], object]] = []
        batch_size, input_dim = workload.shape
        for layer in self.loop.network.layers:
            width, fan_in = layer.weight.shape
            features, weight = self.loop.draw(batch_size, fan_in), self.loop.draw(width, fan_in)
            grad = self.loop.draw(batch_size, width)
            self._add(features, weight)
            self._add(grad.T, features.T)
            if fan_in > input_dim:
                self._add(grad, weight[:, input_dim:].T)

    def seconds_per_step(self) -> float:
        """Seconds of the products of a step plus seconds of a draw."""
        self._multiply()
        self.matmul_seconds.append(mean_seconds(self._multiply, self.workload))
        return self.matmul_seconds[-1] + mean_seconds(self._draw, self.workload)

    def _add(self, x: Tensor, weight: Tensor) -> None:
        """Adds the product X W^T."""
        self.flops += 2 * x.numel() * len(weight)
        self._matmuls.append(partial(matmul, x.contiguous(), weight.contiguous().mT))

    def _multiply(self) -> None:
        for multiply in self._matmuls:
            multiply()

    @torch.no_grad()
    def _draw(self) -> None:
        self.workload.target(self.loop.draw())
