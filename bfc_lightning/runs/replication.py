"""`--model.num_replicas`: from one configuration to the parts of each replica."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.callbacks.measurements import NUM_SAMPLES
from bfc_lightning.data import BLOCK_ROWS, HierarchicalData
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.replicas import ReplicatedData, ReplicatedLearner
from bfc_lightning.runs.assembly import fill_seeds
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.overrides import MAX_SEED, SEED, Overrides, check_overrides

# Parameters, gradients, two moments and the start; a step's features, these transposed, their
# gradients, what it makes anew; a block of the stream and the part of it that is under way.
_ROWS_PER_PARAMETER, _ROWS_PER_NEURON, _ROWS_PER_INPUT = 5, 5, 2
_DOUBLE = 8  # bytes of a number that is measured
_OBJECTS = 10**6  # bytes of generators, modules, an optimizer and the like
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def describe_replicas(settings: Namespace) -> list[dict[str, Any]]:
    """Seed and overrides of each replica.

    Args:
        settings: of `bfc fit`.

    Returns:
        One dictionary a replica, with `seed` and `overrides`.

    Raises:
        RunError: if there are not as many overrides as replicas, a key may not differ, or a value
            is none for it.
    """
    count = settings.model.num_replicas
    given: Sequence[Overrides] = settings.replica_overrides or [{}] * count
    if count == 1 and settings.replica_overrides:
        raise RunError(
            f"model.num_replicas must be at least 2 with replica_overrides, got {count}."
        )
    if len(given) != count:
        raise RunError(
            f"replica_overrides must be one mapping for each of {count} replicas, got {len(given)}."
        )
    for number, overrides in enumerate(given):
        check_overrides(number, overrides)
    replicas = [
        {
            "seed": overrides.get(SEED, settings.seed_everything + number),
            "overrides": {k: v for k, v in overrides.items() if k != SEED},
        }
        for number, overrides in enumerate(given)
    ]
    largest = max(replica["seed"] for replica in replicas)
    if largest > MAX_SEED:
        raise RunError(f"seed_everything must lie in [0, 2^32) in every replica, got {largest}.")
    return replicas


def settings_of(settings: Namespace, replica: Mapping[str, Any]) -> Namespace:
    """The settings with which a replica would be a run of its own, seeds filled in.

    Args:
        settings: as they were given.
        replica: from `describe_replicas`.

    Returns:
        A copy.
    """
    own = settings.clone()
    own.seed_everything = replica["seed"]
    own.model.num_replicas = 1
    for key, value in replica["overrides"].items():
        own[key] = value
    fill_seeds(own, replica["seed"])
    return own


def build_replicas(
    parser: ArgumentParser, settings: Namespace, replicas: Sequence[Mapping[str, Any]]
) -> tuple[ReplicatedLearner, ReplicatedData]:
    """A learner and a problem for each replica, as its own `bfc fit` would build them.

    Args:
        parser: of the command.
        settings: as they were given, seeds not filled in.
        replicas: from `describe_replicas`.

    Returns:
        All learners, and all problems.

    Raises:
        RunError: if an override has a wrong value, or they cannot be trained together.
    """
    learners: list[HierarchicalLearner] = []
    problems: list[HierarchicalData] = []
    for number, replica in enumerate(replicas):
        own = settings_of(settings, replica)
        try:
            parser.validate(own)
            parts = parser.instantiate(own)
        except (ValueError, TypeError) as refused:
            where = f"replica_overrides[{number}]: " if replica["overrides"] else ""
            raise RunError(f"{where}{refused}") from refused
        learners.append(parts["model"])
        problems.append(parts["data"])
    try:
        return ReplicatedLearner(learners), ReplicatedData(problems)
    except ValueError as refused:
        raise RunError(str(refused)) from refused


def check_memory(
    learner: HierarchicalLearner, data: HierarchicalData, count: int, *, is_measured: bool
) -> None:
    """Refuses more replicas than the memory of this machine, or of its container, would hold.

    Args:
        learner: one of them.
        data: its problem.
        count: how many there are to be.
        is_measured: whether their features are measured, on points of each one's own.

    Raises:
        RunError: if they need more.
    """
    if count == 1:
        return
    layers = learner.network.dense_layers()
    parameters = sum(parameter.numel() for parameter in learner.parameters())
    neurons = sum(layer.width for layer in layers)
    dim = learner.network.input_dim
    numbers = _ROWS_PER_PARAMETER * parameters
    numbers += _ROWS_PER_NEURON * data.batch_size * (dim + neurons)
    numbers += _ROWS_PER_INPUT * max(BLOCK_ROWS, data.batch_size) * dim
    numbers += (data.num_train_samples or 0) * dim
    measured = NUM_SAMPLES * (dim + 1 + len(data.target.level_scales)) if is_measured else 0
    size = next(learner.parameters()).element_size()
    each = numbers * size + measured * _DOUBLE + data.kept_bytes(size) + _OBJECTS
    there = memory_there()
    if count * each > there:
        raise RunError(
            f"model.num_replicas must fit into memory, got {count}: they need about "
            f"{count * each / 1e9:,.0f} GB, there are {there / 1e9:,.0f}."
        )


def memory_there() -> int:
    """Bytes of memory that this process may have: the machine's, or less in a container.

    Source: ours.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CONTAINER_LIMITS:
        content = file.read_text(encoding="ascii").strip() if file.is_file() else "max"
        if content.isdigit():  # `max` where there is none
            limits.append(int(content))
    return min(limits)
