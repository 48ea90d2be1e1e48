"""Types and checks of arguments that every other module shares."""

import operator
from typing import NamedTuple, SupportsIndex, TypeVar

from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


def as_integer(value: SupportsIndex, name: str, *, least: int | None = None) -> int:
    """Converts an integer of any type, e.g. a NumPy integer, to an `int`.

    Args:
        value: the integer. Floats, strings and bools are rejected.
        name: name of the argument in the error message.
        least: smallest valid value. There is none by default.

    Raises:
        ValueError: if `value` is not an integer, or is too small.
    """
    try:
        converted = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        converted = None
    if converted is None:
        raise ValueError(f"{name} must be an integer, got {value!r}.")
    if least is not None and converted < least:
        raise ValueError(f"{name} must be at least {least}, got {converted}.")
    return int(converted)


def check_positive(**values: float) -> None:
    """Checks numbers, given by their names.

    Raises:
        ValueError: if one is not positive.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")


def per_layer(value: T | list[T], name: str, count: int) -> list[T]:
    """One value for each of `count` layers, from one value or a list.

    Raises:
        ValueError: if the list has another length.
    """
    values = list(value) if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise ValueError(
            f"{name} must be one number or one for each of {count} layers, got {value}."
        )
    return values


class Batch(NamedTuple):
    """n samples of a learning problem.

    Attributes:
        inputs: x, one sample per row.
        labels: y, the training labels: noisy values, or the classes 0 and 1.
        signal: the labels without noise or threshold: G(x), or the score whose sign is the class.

    Labels and signal are numbers, or vectors if G(x) is one.
    """

    inputs: Float[Tensor, "n d"]
    labels: Float[Tensor, "n *k"]
    signal: Float[Tensor, "n *k"]


class StepChunk(NamedTuple):
    """The inputs x and the labels y of several consecutive training steps."""

    inputs: Float[Tensor, "steps n d"]
    labels: Float[Tensor, "steps n *k"]
