"""What every other module speaks of: a batch of samples, and several in a row."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Batch(NamedTuple):
    """n samples of a learning problem.

    Attributes:
        inputs: x, one sample a row.
        labels: y, what the learner is trained on: noisy values, or classes 0 and 1.
        signal: the same without noise or threshold: G(x), or the score whose sign is the class.
    """

    inputs: Float[Tensor, "n d"]
    labels: Float[Tensor, " n"]
    signal: Float[Tensor, " n"]


class StepChunk(NamedTuple):
    """The batches of several optimizer steps in a row.

    Attributes:
        inputs: x, one batch after another.
        labels: y.
    """

    inputs: Float[Tensor, "steps n d"]
    labels: Float[Tensor, "steps n"]
