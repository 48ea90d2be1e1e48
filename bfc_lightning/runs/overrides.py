"""The settings in which replicas of one run may differ, and what their values must be."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bfc_lightning.runs.folder import RunError

Overrides = Mapping[str, Any]

SEED = "seed_everything"
MAX_SEED = 2**32 - 1


def _is_seed(value: Any) -> bool:  # noqa: ANN401, as YAML has it
    return type(value) is int and 0 <= value <= MAX_SEED


def _is_amount(value: Any) -> bool:  # noqa: ANN401, as YAML has it
    return type(value) in (int, float) and 0 <= value < math.inf


def _are_amounts(value: Any) -> bool:  # noqa: ANN401, as YAML has it
    return all(map(_is_amount, value)) if isinstance(value, list) else _is_amount(value)


def _are_scales(value: Any) -> bool:  # noqa: ANN401, as YAML has it
    return value == "roots" or _are_amounts(value)


@dataclass(frozen=True)
class _Kind:
    """Of values: what they are called, and which they are."""

    name: str
    has: Callable[[Any], bool]


_SEED = _Kind("an integer in [0, 2^32)", _is_seed)
_AMOUNT = _Kind("a number of at least 0", _is_amount)
_AMOUNTS = _Kind("a number of at least 0, or a list of them", _are_amounts)
_SCALES = _Kind("a number of at least 0, or a list of them, or `roots`", _are_scales)
_KINDS = {
    SEED: _SEED,
    "model.optimizer.init_args.lr": _AMOUNT,
    "model.optimizer.init_args.weight_decay": _AMOUNT,
    "model.regularization": _AMOUNTS,
    "model.seed": _SEED,
    "data.seed": _SEED,
    "target.init_args.level_scales": _SCALES,
    "target.init_args.seed": _SEED,
    "labels.init_args.noise_std": _AMOUNT,
}
OVERRIDABLE = tuple(_KINDS)


def may_differ(key: str, value: object) -> bool:
    """Whether replicas may differ in a setting, and one of them have this value.

    Args:
        key: dotted, with `init_args`.
        value: of the setting.

    Returns:
        Whether it is a setting that may differ, of the right kind and in range.
    """
    return key in _KINDS and _KINDS[key].has(value)


def check_overrides(number: int, overrides: Overrides) -> None:
    """Refuses settings that may not differ, and values that are none for them.

    Args:
        number: of the replica.
        overrides: values by dotted key.

    Raises:
        RunError: if there is one.
    """
    for key, value in overrides.items():
        if key not in _KINDS:
            raise RunError(f"replica_overrides must name some of {', '.join(_KINDS)}, got {key}.")
        if not may_differ(key, value):
            kind = _KINDS[key].name
            raise RunError(f"replica_overrides[{number}]: {key} must be {kind}, got {value!r}.")
