"""What makes two runs the same: which settings a checkpoint may not disagree with."""

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from bfc_lightning.callbacks.checkpoints import FORMAT_VERSION, RECORD_KEY
from bfc_lightning.runs.folder import RunError

_RUN_PARTS = (
    "inputs",
    "labels",
    "target",
    "model",
    "data",
    "scheme",
    "seed_everything",
    "replica_overrides",
)
_TRAINER_KEYS = (
    "max_steps",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "precision",
)
_RECORDED = {"state_dict", "global_step", "format", "identity", "environment"}
_NETWORK_PARTS = ("inputs", "labels", "target")
_NETWORK_KEYS = (
    "width",
    "depth",
    "activation",
    "linear_readout",
    "linearized",
    "num_replicas",
)


class DamagedCheckpointError(RunError):
    """A checkpoint that is cut off, or in which a bit has changed."""


def flatten(tree: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay whole unless they hold mappings.

    Args:
        tree: the mapping.
        prefix: of every key.

    Returns:
        Leaves by dotted key.
    """
    if isinstance(tree, list) and any(isinstance(entry, Mapping) for entry in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def run_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run must share with the one it goes on from.

    Args:
        config: everything, seeds filled in.

    Returns:
        Leaves by dotted key: target, inputs, labels, model, optimizer, schedule, data, and what of
        the Trainer changes the numbers.
    """
    trainer = config["trainer"]
    kept = {part: config[part] for part in _RUN_PARTS}
    return flatten({**kept, "trainer": {key: trainer.get(key) for key in _TRAINER_KEYS}})


def network_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that says what a network is and what it was trained on."""
    prefixes = (
        *(f"{part}." for part in _NETWORK_PARTS),
        *(f"model.{key}" for key in _NETWORK_KEYS),
        "replica_overrides",
    )
    return {key: value for key, value in identity.items() if key.startswith(prefixes)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, loaded as data: code in it is refused, not run.

    Args:
        path: the file.

    Returns:
        Its content, on the CPU.

    Raises:
        RunError: if it is no checkpoint of ours, carries code, or is of a later version; a
            `DamagedCheckpointError` if it is not whole.
        OSError: if the file cannot be read just now, which says nothing about its content.
        MemoryError: likewise.
    """
    _check_whole(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refused:
        raise RunError(
            f"the checkpoint must hold nothing but data, got {path}, which names code to run; it "
            "was not run."
        ) from refused
    except (OSError, MemoryError):
        raise
    except Exception as unreadable:  # whatever a file that torch did not write makes of torch
        raise RunError(f"the checkpoint must come from bfc fit, got {path}.") from unreadable
    record = content.get(RECORD_KEY) if isinstance(content, dict) else None
    if not (isinstance(record, dict) and {*content, *record} >= _RECORDED):
        raise RunError(f"the checkpoint must come from bfc fit, got {path}.")
    if record["format"] > FORMAT_VERSION:
        raise RunError(
            f"the checkpoint must have format {FORMAT_VERSION} or below, got {record['format']}: "
            "it comes from a later version."
        )
    return _migrate(content)


def _check_whole(path: Path) -> None:
    """Reads every byte against its checksum, which torch does not.

    Raises:
        DamagedCheckpointError: if one does not fit.
        OSError: if the file cannot be read just now.
        MemoryError: likewise.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except (OSError, MemoryError):
        raise
    except Exception as unreadable:  # zipfile raises a dozen kinds for damaged files
        raise DamagedCheckpointError(
            f"the checkpoint must be readable, got {path}, which is damaged or something else."
        ) from unreadable
    if damaged is not None:
        raise DamagedCheckpointError(
            f"the checkpoint must be readable, got {path}, which is damaged: {damaged} does not "
            "fit its checksum."
        )


def _migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Adds to an older checkpoint's identity what later versions have made a setting."""
    record = content[RECORD_KEY]
    if record["format"] == 1:  # knew joint training only
        record["identity"]["scheme.class_path"] = "bfc_lightning.Joint"
        record["identity"]["scheme.init_args.freeze"] = None
    record["identity"].setdefault("model.linearized", False)
    record["identity"].setdefault("model.num_replicas", 1)
    if not any(key.startswith("replica_overrides") for key in record["identity"]):
        record["identity"]["replica_overrides"] = []
    if record["identity"]["target.class_path"].endswith("RichRepresentation"):
        record["identity"].setdefault("target.init_args.basis", "coordinates")
    return content


def check_resumable(
    stored: Mapping[str, Any], here: Mapping[str, Any], *, has_open_schedule: bool
) -> None:
    """Refuses to go on with other settings than before.

    Args:
        stored: the checkpoint's `run_identity`.
        here: this run's.
        has_open_schedule: whether the schedule stretches to `max_steps`, so that a longer run would
            be another run from its first step on.

    Raises:
        RunError: if settings differ; it lists them.
    """
    length = "trainer.max_steps"
    differing = differences(stored, here)
    grows = not has_open_schedule and (here[length] or 0) > (stored[length] or 0)
    if grows:
        differing = [line for line in differing if not line.startswith(f"{length} ")]
    if differing:
        hint = ""
        if any(line.startswith(f"{length} ") for line in differing):
            hint = " (the schedule stretches to max_steps: another length is another run)"
        raise RunError(f"a resumed run must keep its settings, got {_shortened(differing)}{hint}.")


def check_same_network(stored: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses to evaluate a checkpoint on another target or network.

    Args:
        stored: the checkpoint's `run_identity`.
        here: this run's.

    Raises:
        RunError: if settings differ; it lists them.
    """
    differing = differences(network_identity(stored), network_identity(here))
    if differing:
        raise RunError(
            f"the checkpoint belongs to another target or network: {_shortened(differing)} "
            "(the config.yaml in its run folder fits it)."
        )


def differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One clause for each key that differs.

    Seeds that follow from another run seed are not told beside it.
    """
    absent = object()
    keys: Iterable[str] = dict.fromkeys([*stored, *here])
    differing = [key for key in keys if stored.get(key, absent) != here.get(key, absent)]
    if "seed_everything" in differing:
        differing = [key for key in differing if not key.endswith(".seed")]
    return [
        f"{key} {_word(here.get(key, absent), absent)} instead of "
        f"{_word(stored.get(key, absent), absent)}"
        for key in differing
    ]


def _shortened(clauses: list[str], most: int = 5) -> str:
    more = f"; and {len(clauses) - most} more" if len(clauses) > most else ""
    return "; ".join(clauses[:most]) + more


def _word(value: object, absent: object) -> str:
    return "absent" if value is absent else repr(value)
