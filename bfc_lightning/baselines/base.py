"""The interface of baselines: fit a fixed set of samples, then predict."""

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
    """The input of a baseline: samples, and what the network knows about the target.

    Attributes:
        train: the samples to fit, float64 on the CPU. Baselines must not use `signal`.
        holdout: further samples, for choosing settings or for early stopping.
        learner: the network that the baseline is compared with, float64, at its random
            initialization. It provides input dimension, widths, depth and the scale of each level.
        seed: the seed of all random choices.
    """

    train: Batch
    holdout: Batch
    learner: DenseNet
    seed: int


class Baseline(ABC):
    """A rival of joint training, e.g. kernel ridge regression.

    To add a baseline, subclass this class. Settings are arguments of `__init__`, and the fitted
    state is stored in attributes. `bfc baseline` and `bfc compare` accept the class path.
    """

    @abstractmethod
    def fit(self, task: Task) -> None:
        """Fits the samples.

        Args:
            task: the samples and the learner.
        """

    @abstractmethod
    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Predicts new samples, at most 2,048 per call.

        Args:
            x: the inputs, float64.

        Returns:
            f(x).
        """

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """The learned features, one tensor per layer; none by default.

        Args:
            x: the inputs, float64.

        Returns:
            F_1(x), F_2(x), ...; an empty list by default.
        """
        return []

    def chosen(self) -> dict[str, float]:
        """The settings that `fit` chose, for the log; none by default.

        Returns:
            The values by name.
        """
        return {}


def in_chunks(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], size: int = _CHUNK
) -> Float[Tensor, " n"]:
    """Evaluates a function of rows, one block at a time.

    Args:
        function: a function from (m, d) to (m,) or (m, k).
        x: all rows.
        size: the number of rows per block.

    Returns:
        The values of all rows.
    """
    return torch.cat([function(rows) for rows in torch.split(x, size)])
