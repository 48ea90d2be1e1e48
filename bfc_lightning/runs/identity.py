"""Which settings determine the numbers of a run, and how two runs differ in them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

PROBLEM_GROUPS = ("inputs", "labels", "target", "model", "data")
_TRAINER_KEYS = (
    "max_steps",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "precision",
)
_EVALUATION_KEYS = ("eval_batch_size", "num_test_samples", "num_predict_samples")


def flatten(tree: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay whole unless they hold mappings."""
    if isinstance(tree, list) and any(isinstance(entry, Mapping) for entry in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine a run's numbers, by dotted key."""
    kept = {key: settings[key] for key in (*PROBLEM_GROUPS, "scheme", "seed_everything")}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in _EVALUATION_KEYS}
    if "baseline" in settings:
        return flatten({**kept, "baseline": settings["baseline"]})
    trainer = settings["trainer"]
    return flatten({**kept, "trainer": {key: trainer[key] for key in _TRAINER_KEYS}})


def digest(settings: Mapping[str, Any]) -> str:
    """A digest of the identity, before seeds are filled in: the same one means the same numbers."""
    text = json.dumps(identity(settings), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first five keys that differ, in one line, without seeds that follow from the run's."""
    absent = "absent"
    keys = [key for key in {**stored, **here} if stored.get(key, absent) != here.get(key, absent)]
    if "seed_everything" in keys:
        keys = [key for key in keys if not key.endswith(".seed")]
    clauses = [f"{k} is {here.get(k, absent)!r}, was {stored.get(k, absent)!r}" for k in keys]
    clauses[5:] = [f"and {len(clauses) - 5} more"] if len(clauses) > 5 else []
    return "; ".join(clauses)
