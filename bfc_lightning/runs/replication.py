"""`--model.num_replicas`: from one configuration to the parts of each replica."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.data import HierarchicalData
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.replicas import ReplicatedData, ReplicatedLearner
from bfc_lightning.runs.assembly import fill_seeds
from bfc_lightning.runs.folder import RunError

Overrides = Mapping[str, Any]

_OVERRIDABLE = (
    "seed_everything",
    "model.optimizer.init_args.lr",
    "model.optimizer.init_args.weight_decay",
    "model.regularization",
    "model.seed",
    "data.seed",
    "target.init_args.level_scales",
    "target.init_args.seed",
    "labels.init_args.noise_std",
)
# Parameters, gradients and two moments; a step's features, their gradients, and what it makes anew.
_ROWS_PER_PARAMETER, _ROWS_PER_NEURON = 5, 4


def describe_replicas(settings: Namespace) -> list[dict[str, Any]]:
    """Seed and overrides of each replica.

    Args:
        settings: of `bfc fit`.

    Returns:
        One dictionary a replica, with `seed` and `overrides`.

    Raises:
        RunError: if there are not as many overrides as replicas, or a key may not differ.
    """
    count = settings.model.num_replicas
    given: Sequence[Overrides] = settings.replica_overrides or [{}] * count
    if len(given) != count:
        raise RunError(
            f"replica_overrides must be one mapping for each of {count} replicas, got {len(given)}."
        )
    for overrides in given:
        for key in overrides:
            if key not in _OVERRIDABLE:
                raise RunError(
                    f"replica_overrides must name some of {', '.join(_OVERRIDABLE)}, got {key}."
                )
    return [
        {
            "seed": overrides.get("seed_everything", settings.seed_everything + number),
            "overrides": {k: v for k, v in overrides.items() if k != "seed_everything"},
        }
        for number, overrides in enumerate(given)
    ]


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
    for replica in replicas:
        own = settings_of(settings, replica)
        try:
            parser.validate(own)
            parts = parser.instantiate(own)
        except (ValueError, TypeError) as refused:
            where = f"replica_overrides of seed {replica['seed']}: " if replica["overrides"] else ""
            raise RunError(f"{where}{refused}") from refused
        learners.append(parts["model"])
        problems.append(parts["data"])
        if len(learners) == 1:
            _check_memory(learners[0], problems[0], len(replicas))
    try:
        return ReplicatedLearner(learners), ReplicatedData(problems)
    except ValueError as refused:
        raise RunError(str(refused)) from refused


def _check_memory(learner: HierarchicalLearner, data: HierarchicalData, count: int) -> None:
    """Refuses more replicas than the memory of this machine would hold.

    Raises:
        RunError: if they need more.
    """
    layers = learner.network.dense_layers()
    parameters = sum(parameter.numel() for parameter in learner.parameters())
    neurons = learner.network.input_dim + sum(layer.width for layer in layers)
    numbers = _ROWS_PER_PARAMETER * parameters + _ROWS_PER_NEURON * data.batch_size * neurons
    needed = count * numbers * next(learner.parameters()).element_size()
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise RunError(
            f"model.num_replicas must fit into memory, got {count}: they need about "
            f"{needed / 1e9:,.0f} GB, there are {there / 1e9:,.0f}."
        )
