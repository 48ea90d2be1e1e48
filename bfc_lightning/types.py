"""Types that every other module shares: batches, and the conversion of integer arguments."""

import operator
from typing import NamedTuple, SupportsIndex

from jaxtyping import Float
from torch import Tensor


def as_integer(value: SupportsIndex, name: str) -> int:
    """Converts an integer of any type, e.g. a NumPy integer, to an `int`.

    Args:
        value: the integer. Floats, strings and bools are rejected.
        name: name of the argument in the error message.

    Returns:
        The same integer.

    Raises:
        ValueError: if `value` is not an integer.
    """
    try:
        if not isinstance(value, bool):
            return int(operator.index(value))
    except TypeError:
        pass
    raise ValueError(f"{name} must be an integer, got {value!r}.")


class Batch(NamedTuple):
    """n samples of a learning problem.

    Attributes:
        inputs: x, one sample per row.
        labels: y, the training labels: noisy values, or the classes 0 and 1.
        signal: the labels without noise or threshold: G(x), or the score whose sign is the class.
    """

    inputs: Float[Tensor, "n d"]
    labels: Float[Tensor, " n"]
    signal: Float[Tensor, " n"]


class StepChunk(NamedTuple):
    """The batches of several consecutive training steps.

    Attributes:
        inputs: x, one batch per training step.
        labels: y.
    """

    inputs: Float[Tensor, "steps n d"]
    labels: Float[Tensor, "steps n"]
