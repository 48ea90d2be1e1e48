"""Networks trained one layer after another, each stage on separate samples."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task, in_chunks, second_moment
from bfc_lightning.baselines.readout import fit_readout
from bfc_lightning.seeds import generator
from bfc_lightning.types import Batch, as_integer, check_positive

_HEAD_WIDTH = 256
_HEAD_SPREAD = 2.0
_HEAD_RIDGE = 1e-6


def gradient_steps(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    neurons: Float[Tensor, "m d"],
    num_steps: int = 1,
) -> Float[Tensor, "m d"]:
    """Neurons after large steps on the correlation loss -mean of y sum_i (<w_i, x>^2 - |w_i|^2).

        w_i <- mean of y (x x^T - 1) w_i, scaled to |w_i| = 1;   num_steps times

    Every neuron moves toward the directions in which y has curvature. Further steps reduce the
    noise that remains after the first one.

    Source: Damian, Lee and Soltanolkotabi, arXiv 2206.15144, the first step, with a square.

    Args:
        x: the samples of the stage.
        y: the centered labels.
        neurons: the initial w.
        num_steps: the number of steps, at least 1.
    """
    moment = second_moment(x, y)
    for _ in range(num_steps):
        moved = neurons @ moment
        neurons = moved / moved.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return neurons


class _Staged(Baseline):
    """The common part of the networks, which splits the samples into stages.

    Args:
        width: m.
        ridge: the ridge penalty per sample of the readout of the neurons.
        num_steps: the number of gradient steps on the neurons, 1 in the paper.
        shares: the shares of the samples for each stage, equal by default.
    """

    num_stages: int

    def __init__(
        self,
        width: int = 2048,
        ridge: float = 1e-4,
        num_steps: int = 1,
        shares: list[float] | None = None,
    ) -> None:
        if shares is None:
            shares = [1 / self.num_stages] * self.num_stages
        is_share = len(shares) == self.num_stages and min(shares) > 0
        if not is_share or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(
                f"shares must be {self.num_stages} positive numbers that sum to 1, got {shares}."
            )
        check_positive(ridge=ridge)
        self.shares = shares
        self.width = as_integer(width, "width", least=1)
        self.ridge = ridge
        self.num_steps = as_integer(num_steps, "num_steps", least=1)

    def begin(self, task: Task) -> list[Batch]:
        """Stores the mean label, draws neurons and biases, and splits the samples by stage."""
        self._mean = task.train.labels.mean()
        random = generator(task.seed, "neurons")
        drawn = torch.randn(self.width, task.train.inputs.shape[1], generator=random).double()
        self._neurons = drawn / drawn.norm(dim=1, keepdim=True)
        self._biases = torch.randn(self.width, generator=random).double()
        ends = itertools.accumulate(self.shares[:-1])
        cuts = [round(end * len(task.train.labels)) for end in ends]
        columns = [torch.tensor_split(column, cuts) for column in task.train]
        return [Batch(*parts) for parts in zip(*columns, strict=True)]

    def train_neurons(self, first: Batch, second: Batch) -> Tensor:
        """Takes `gradient_steps`, and returns the readout of the neurons by ridge regression."""
        y = first.labels - self._mean
        self._neurons = gradient_steps(first.inputs, y, self._neurons, self.num_steps)
        y = second.labels - self._mean
        return fit_readout(self.hidden, second.inputs, y, ridge=self.ridge)

    def hidden(self, x: Tensor) -> Tensor:
        """m^(-1/2) relu(<w_i, x> + b_i)."""
        neurons: Tensor = (x @ self._neurons.T + self._biases).relu()
        return neurons / math.sqrt(self.width)


class TwoLayer(_Staged):
    """One hidden layer: gradient steps on its weights, then ridge regression on its neurons.

        1. w: `gradient_steps` on the first samples, initialized uniformly on the sphere
        2. f(x) = mean(y) + m^(-1/2) sum_i c_i relu(<w_i, x> + b_i), c by ridge on the others

    with b_i ~ N(0, 1).

    Source: Damian, Lee and Soltanolkotabi, arXiv 2206.15144, algorithm 1.
    """

    num_stages = 2

    def fit(self, task: Task) -> None:
        """Trains both stages."""
        self._weights = self.train_neurons(*self.begin(task))

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self._mean + self.hidden(x) @ self._weights

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """A single layer: its neurons."""
        return [self.hidden(x)]


class _WithHead(_Staged):
    """A network whose middle layer is a single feature h, read out by a third layer."""

    def _middle(self, x: Tensor) -> Tensor:
        """h(x), with standard deviation 1 over the samples that it is fitted to."""
        return self.hidden(x) @ self._weights

    def settle(self, weights: Tensor, x: Tensor) -> None:
        """Stores h, scaled to standard deviation 1 over x."""
        self._weights = weights
        self._weights = weights / in_chunks(self._middle, x).std()

    def fit_head(self, samples: Batch, task: Task) -> None:
        """Fits the readout sum_j c_j relu(s_j h(x) + b_j) by ridge regression."""
        random = generator(task.seed, "head")
        self._signs = 2.0 * torch.randint(0, 2, (_HEAD_WIDTH,), generator=random).double() - 1
        self._shifts = _HEAD_SPREAD * torch.randn(_HEAD_WIDTH, generator=random).double()
        y = samples.labels - self._mean
        self._head = fit_readout(self._top, samples.inputs, y, ridge=_HEAD_RIDGE)

    def _top(self, x: Tensor) -> Tensor:
        neurons: Tensor = (self._middle(x)[:, None] * self._signs + self._shifts).relu()
        return neurons / math.sqrt(_HEAD_WIDTH)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self._mean + self._top(x) @ self._head

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """Two layers: the inner neurons and h."""
        return [self.hidden(x), self._middle(x)[:, None]]


class ThreeLayer(_WithHead):
    """Two hidden layers: the first is random and fixed, the second is trained by one gradient step.

        phi_i(x) = m^(-1/2) (<v_i, x>^2 - |x|^2 / d),   v_i uniform on the sphere, fixed
        1. h(x) = <u, phi(x)>,   u = mean of (y - mean(y)) phi(x) over its samples: one step from
           0; then scaled to unit variance
        2. f(x) = mean(y) + sum_j c_j relu(s_j h(x) + b_j), c by ridge on the others

    with 256 signs s_j and b_j ~ N(0, 4). h is the part of y that a quadratic kernel can represent.
    The last layer fits a function of h, which no kernel on x can do. The paper draws x from the
    sphere, so |x|^2 / d is constant. For Gaussian x, it would dominate all other directions.

    Source: Nichani, Damian and Lee, arXiv 2305.06986, algorithm 1. The paper leaves the inner
    activation open; the square is ours.

    Args:
        width: m.
        shares: the shares of the samples for 1 and 2; halves by default.

    Raises:
        ValueError: if a number is out of range.
    """

    num_stages = 2

    def __init__(self, width: int = 4096, shares: list[float] | None = None) -> None:
        super().__init__(width, shares=shares)

    def fit(self, task: Task) -> None:
        """Trains both stages.

        Raises:
            ValueError: if the inputs are numbers, for which phi is 0.
        """
        if task.train.inputs.shape[1] == 1:
            raise ValueError("input_dim must be at least 2 for ThreeLayer, got 1.")
        first, second = self.begin(task)
        y = first.labels - self._mean
        blocks = zip(torch.split(first.inputs, 2048), torch.split(y, 2048), strict=True)
        total = torch.stack([self.hidden(rows).T @ part for rows, part in blocks]).sum(dim=0)
        self.settle(total / len(y), first.inputs)
        self.fit_head(second, task)

    def hidden(self, x: Tensor) -> Tensor:
        """phi(x)."""
        squares: Tensor = (x @ self._neurons.T).square()
        return (squares - x.square().mean(dim=1, keepdim=True)) / math.sqrt(self.width)


class SteppedThreeLayer(_WithHead):
    """Two trained hidden layers: first directions, then one feature of them, then its function.

        1. w: `gradient_steps` on the first samples, initialized uniformly on the sphere
        2. h(x) = m^(-1/2) sum_i u_i relu(<w_i, x> + b_i), u by ridge on the next; then
           scaled to unit variance
        3. f(x) = mean(y) + sum_j c_j relu(s_j h(x) + b_j), c by ridge on the last

    with b_i ~ N(0, 1), b_j ~ N(0, 4) and signs s_j. The last stage needs few samples, since it fits
    a function of one variable.

    Source: Dandi, Pesce, Zdeborova and Krzakala, arXiv 2502.13961, layerwise training of three
    layers. Ridge regression for the middle layer, instead of a gradient step, is ours.
    """

    num_stages = 3

    def fit(self, task: Task) -> None:
        """Trains all stages."""
        first, second, third = self.begin(task)
        self.settle(self.train_neurons(first, second), second.inputs)
        self.fit_head(third, task)
