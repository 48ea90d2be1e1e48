"""The settings in which replicas of one run may differ, and what their values must be."""

import math
from collections.abc import Mapping
from typing import Any

from bfc_lightning.runs.folder import RunError

Overrides = Mapping[str, Any]

SEED = "seed_everything"
MAX_SEED = 2**32 - 1
_RULES = {
    SEED: "a seed",
    "model.optimizer.init_args.lr": "a number of at least 0",
    "model.optimizer.init_args.weight_decay": "a number of at least 0",
    "model.regularization": "a number of at least 0, or a list of them",
    "model.seed": "a seed",
    "data.seed": "a seed",
    "target.init_args.level_scales": "a number of at least 0, or a list of them, or `theory`",
    "target.init_args.seed": "a seed",
    "labels.init_args.noise_std": "a number of at least 0",
}
_INIT_ARGS = "init_args."
_WHOLE_KEYS = {key.replace(_INIT_ARGS, ""): key for key in _RULES}


def whole_key(key: str) -> str | None:
    """The key of a setting that may differ.

    Args:
        key: dotted; `init_args` may be left out, as on the command line.

    Returns:
        The same with `init_args`, or None where the setting must be equal in all replicas.
    """
    return _WHOLE_KEYS.get(key.replace(_INIT_ARGS, ""))


def is_possible(key: str, value: object) -> bool:
    """Whether a replica may have a value of its own.

    Args:
        key: of a setting that may differ.
        value: of it.

    Returns:
        Whether it is of the right kind and in range.
    """
    rule = _RULES[key]
    if rule == "a seed":
        return type(value) is int and 0 <= value <= MAX_SEED
    several = isinstance(value, list) and "list" in rule
    fits = all(map(_is_amount, value)) if several else _is_amount(value)  # type: ignore[call-overload]
    return fits or (value == "theory" and "theory" in rule)


def check_overrides(number: int, overrides: Overrides) -> None:
    """Refuses settings that may not differ, and values that are none for them.

    Args:
        number: of the replica.
        overrides: values by dotted key.

    Raises:
        RunError: if there is one.
    """
    for key, value in overrides.items():
        if key not in _RULES:
            raise RunError(f"replica_overrides must name some of {', '.join(_RULES)}, got {key}.")
        if not is_possible(key, value):
            rule = _RULES[key].replace("a seed", "an integer in [0, 2^32)")
            raise RunError(f"replica_overrides[{number}]: {key} must be {rule}, got {value!r}.")


def _is_amount(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf  # type: ignore[operator]
