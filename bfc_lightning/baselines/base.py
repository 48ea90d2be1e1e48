"""The interface of baselines: fit a fixed set of samples, then predict."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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

    To add a baseline, subclass this class. Settings are arguments of `__init__`. `bfc baseline` and
    `bfc compare` accept the class path.

    Attributes:
        fits_vectors: whether labels may be vectors, shape (n, k).
    """

    fits_vectors: ClassVar[bool] = False

    @abstractmethod
    def fit(self, task: Task) -> None:
        """Fits the samples of a task."""

    @abstractmethod
    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """Returns f(x) for float64 inputs, at most 2,048 per call."""

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """The learned features F_1(x), F_2(x), ... for float64 inputs; none by default."""
        return []

    def chosen(self) -> dict[str, float]:
        """The settings that `fit` chose by name, for the log; none by default."""
        return {}


def in_chunks(function: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Evaluates a function of rows, 2,048 rows at a time."""
    return torch.cat([function(rows) for rows in torch.split(x, _CHUNK)])


def second_moment(x: Float[Tensor, "n d"], r: Float[Tensor, " n"]) -> Float[Tensor, "d d"]:
    """E[r (x x^T - 1)] over samples x and values r.

    Source: for x ~ N(0, 1) it is the mean Hessian of r, by Stein's lemma.
    """
    return (x.T * r) @ x / len(x) - r.mean() * torch.eye(x.shape[1], dtype=x.dtype)
