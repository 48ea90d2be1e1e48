"""What a baseline is: something that is fitted to a fixed set of samples, and then predicts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.networks import DenseNet
from bfc_lightning.types import Batch

_CHUNK = 2048


@dataclass(frozen=True)
class Task:
    """What a baseline is given: samples, and what the network is told about the target.

    Attributes:
        train: the samples to fit, float64 on the CPU; `signal` is not to be looked at.
        holdout: further samples, to choose settings or a moment to stop by.
        learner: the network that the baseline is set against, float64, at its random start: input
            dimension, widths, depth and the scale of each level.
        seed: of all random choices.
    """

    train: Batch
    holdout: Batch
    learner: DenseNet
    seed: int


class Baseline(ABC):
    """A rival of joint training, e.g. kernel ridge regression.

    Subclass it for one of your own: settings are arguments of `__init__`, and `bfc baseline` and
    `bfc compare` take it by class path. What is fitted is kept in attributes.
    """

    @abstractmethod
    def fit(self, task: Task) -> None:
        """Fits the samples.

        Args:
            task: samples, and what is known.
        """

    @abstractmethod
    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """What it says of new samples; called with at most 2,048 rows.

        Args:
            x: inputs, float64.

        Returns:
            f(x).
        """

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """Its features, a tensor for each layer, where it learns some; none by default.

        Args:
            x: inputs, float64.

        Returns:
            F_1(x), F_2(x), ...; no layer by default.
        """
        return []

    def chosen(self) -> dict[str, float]:
        """Settings that `fit` chose, for the log; none by default.

        Returns:
            Numbers by name.
        """
        return {}


def in_chunks(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], size: int = _CHUNK
) -> Float[Tensor, " n"]:
    """A function of rows, evaluated a block at a time.

    Source: ours.

    Args:
        function: from (m, d) to (m,) or (m, k).
        x: all rows.
        size: rows of a block.

    Returns:
        The values, one after another.
    """
    return torch.cat([function(rows) for rows in torch.split(x, size)])
