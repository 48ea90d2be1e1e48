"""Settings of the learner with distillation, and the regularizer's coefficients in the theorem."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.types import per_layer


@dataclass(frozen=True)
class Distilled:
    """Settings of a learner with distillation, see `DistilledNet`.

    The regularizer has one coefficient per layer l = 2, ..., L, in the units of E(F - y)^2. `null`
    stands for the values of the special case of the theorem,

        lambda_3 = alpha_l^2 d^(-1/(6 C^l)),   lambda_4 = alpha_l^2 d^(-1/(3 C^l)),
        lambda_5 = alpha_l^2 d^(-1/(2 C^l)),   lambda_6 = eps_0^2 / (kbar_l L kappa)^8

    where kbar_l is the largest of the `widths` that layer l reads, and 1 for l = 2.

    Source: Allen-Zhu and Li, arXiv 2001.04413. kbar_2 is our choice.

    Args:
        widths: the largest k_2, ..., k_L that can be found, one number or one per layer. R_l has
            k (k + 1)/2 rows for the largest k_l.
        truncation: B' of `truncated_square`.
        kappa: bound of the singular values of the target's weights and their inverses, by default
            that of the target.
        noise: standard deviation of the initial W. W = 0 is a saddle.
        lambda_3: of |K_last^T K_< - W_last^T W_<|^2, one number or one per layer.
        lambda_4: of |K_last^T K_last - W_last^T W_last|^2.
        lambda_5: of |K^T K - W^T W|^2.
        lambda_6: of |K|^2 + |W|^2.
        constant: C.
        eps_0: initial eps_0. The paper starts from an upper bound of the root of the objective.

    Raises:
        ValueError: if a number is out of range.
    """

    widths: int | list[int]
    truncation: float = 30.0
    kappa: float | None = None
    noise: float = 0.01
    lambda_3: float | list[float] | None = None
    lambda_4: float | list[float] | None = None
    lambda_5: float | list[float] | None = None
    lambda_6: float | list[float] | None = 0.0
    constant: float = 3.0
    eps_0: float = 1.0

    def __post_init__(self) -> None:
        least = {"truncation": 0.0, "noise": 0.0, "constant": 1.0, "eps_0": 0.0}
        for name, bound in least.items():
            if not bound < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be above {bound:g} and finite, got {getattr(self, name)}."
                )
        if self.kappa is not None and not 1 <= self.kappa < math.inf:
            raise ValueError(f"kappa must be at least 1 and finite, got {self.kappa}.")

    def narrow_widths(self, depth: int) -> list[int]:
        """Returns the largest k_2, ..., k_L for depth L.

        Raises:
            ValueError: if a number is below 1 or the list has another length.
        """
        found = per_layer(self.widths, "widths", depth - 1)
        if min(found) < 1:
            raise ValueError(f"widths must be at least 1, got {self.widths}.")
        return found

    def coefficients(
        self, *, input_dim: int, sources: Sequence[Sequence[int]], scales: Sequence[float]
    ) -> Float[Tensor, "4 layers"]:
        """Returns lambda_3, ..., lambda_6 as rows, with one column per layer, in float64.

        Args:
            input_dim: d.
            sources: J_2, ..., J_L.
            scales: alpha_2, ..., alpha_L.

        Raises:
            ValueError: if a coefficient is negative or not finite, or a list has another length.
        """
        depth, widths = len(scales) + 1, self.narrow_widths(len(scales) + 1)
        given = (self.lambda_3, self.lambda_4, self.lambda_5, self.lambda_6)
        rows = []
        for number, row in enumerate(given, start=3):
            if row is not None:
                rows.append(per_layer(row, f"lambda_{number}", depth - 1))
                if not all(0 <= each < math.inf for each in rows[-1]):
                    raise ValueError(f"lambda_{number} must be at least 0 and finite, got {row}.")
            elif number < 6:
                divisor = {3: 6, 4: 3, 5: 2}[number]
                rows.append([
                    scale**2 * input_dim ** (-1 / (divisor * self.constant**level))
                    for level, scale in enumerate(scales, start=2)
                ])
            else:
                largest = [
                    max([widths[j - 2] for j in read if j >= 2], default=1) for read in sources
                ]
                kappa = self.kappa or 1.0
                rows.append([self.eps_0**2 / (k * depth * kappa) ** 8 for k in largest])
        return torch.tensor(rows, dtype=torch.float64)
