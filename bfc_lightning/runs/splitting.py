"""From a run of several replicas to a run folder of each, as if it had been trained alone."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.callbacks.checkpoints import (
    BEST,
    LAST,
    RECORD_KEY,
    Checkpoints,
    write_checkpoint,
)
from bfc_lightning.callbacks.measurements import Measurements
from bfc_lightning.callbacks.metrics_file import MetricsFile
from bfc_lightning.callbacks.replica_bests import ReplicaBests
from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile
from bfc_lightning.callbacks.tensorboard import RunBoard
from bfc_lightning.callbacks.training_log import TrainingLog
from bfc_lightning.files import sync_to_disk, write_atomically, write_json
from bfc_lightning.module import PHASE_KEY
from bfc_lightning.replicas import content_of_replica
from bfc_lightning.runs.assembly import PROBLEM_GROUPS, problem_parser
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    SUMMARY,
    RunError,
    config_text,
    find_checkpoint,
)
from bfc_lightning.runs.identity import flatten, read_checkpoint
from bfc_lightning.runs.loading import read_summary
from bfc_lightning.runs.replication import describe_replicas, settings_of

_SHARED = ("wall_seconds", "measure_seconds")
_STATES = ("optimizer_states", "lr_schedulers")


@dataclass(frozen=True)
class _Group:
    """A run of several replicas, read.

    Args:
        config: of the run.
        content: of its last checkpoint.
        summary: of the run.
        metrics: every row of every replica.
        parser: of the groups that make learner and problem.
        settings: these groups.
        replicas: from `describe_replicas`.
    """

    config: dict[str, Any]
    content: dict[str, Any]
    summary: dict[str, Any]
    metrics: ReplicaMetricsFile
    parser: ArgumentParser
    settings: Namespace
    replicas: list[dict[str, Any]]


def split_run(folder: Path, root: Path, names: Sequence[str]) -> None:
    """Makes an ordinary run folder of each replica: config, summary, metrics, events, checkpoints.

    `best.ckpt` has the weights of the replica's own best validation and nothing to go on from,
    `last.ckpt` everything that a single run would have saved; a replica that diverged has the
    first alone. Wall seconds are the replica's share. A folder appears whole, or not at all.

    Args:
        folder: of the run with the replicas, which has finished.
        root: where the new folders are put; one of the same name is replaced.
        names: of the new folders, one a replica.

    Raises:
        RunError: if the run has not finished, or has another number of replicas.
    """
    group = _read(folder)
    if len(names) != len(group.replicas):
        raise RunError(f"names must be one for each of {len(group.replicas)}, got {len(names)}.")
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        beside = root / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        (beside / CHECKPOINTS).mkdir(parents=True)
        _write(group, number, beside, name=name, root=root)
        for path in beside.rglob("*"):
            if path.is_file():
                sync_to_disk(path)
        shutil.rmtree(root / name, ignore_errors=True)
        beside.replace(root / name)


def _read(folder: Path) -> _Group:
    """Everything that the folder of the replicas says.

    Raises:
        RunError: if the run has not finished.
    """
    summary = read_summary(folder)
    if summary.get("status") != "finished":
        raise RunError(f"the run must have finished, got {summary.get('status')} in {folder}.")
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    parser = problem_parser()
    settings = parser.parse_object({part: config[part] for part in PROBLEM_GROUPS})
    settings.seed_everything = config["seed_everything"]
    settings.replica_overrides = config["replica_overrides"]
    replicas = describe_replicas(settings)
    metrics = ReplicaMetricsFile(folder / METRICS, len(replicas))
    metrics.keep_until(summary["steps"])
    content = read_checkpoint(find_checkpoint("last", folder))
    return _Group(config, content, summary, metrics, parser, settings, replicas)


def _write(group: _Group, number: int, folder: Path, *, name: str, root: Path) -> None:
    """The folder of one replica."""
    config = _own_config(group, number, name=name, root=root)
    text = config_text(root / name, yaml.safe_dump(config, sort_keys=False))
    write_atomically(folder / CONFIG, text)
    identity = _own_identity(group, number, config)
    has_diverged = group.content["diverged"][number] is not None
    _write_checkpoints(group, number, folder / CHECKPOINTS, identity, is_whole=not has_diverged)
    _write_rows(group, number, folder, identity)
    write_json(folder / SUMMARY, _own_summary(group, number))


def _own_config(group: _Group, number: int, *, name: str, root: Path) -> dict[str, Any]:
    """The settings with which the replica would have been a run of its own."""
    replica = group.replicas[number]
    config: dict[str, Any] = yaml.safe_load(yaml.safe_dump(group.config))
    for key, value in replica["overrides"].items():
        *parents, last = key.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    config["seed_everything"] = replica["seed"]
    config["replica_overrides"] = []
    config["model"]["num_replicas"] = 1
    config["run"].update(name=name, root=str(root))
    return config


def _own_identity(group: _Group, number: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """What its checkpoints may not disagree with: seeds are filled in, as a run does."""
    own = settings_of(group.settings, group.replicas[number])
    for key in ("seed_everything", "replica_overrides"):
        own.pop(key)
    resolved = yaml.safe_load(group.parser.dump(own, skip_unset=False))
    kept = {
        key: value
        for key, value in group.content[RECORD_KEY]["identity"].items()
        if key.partition(".")[0] not in (*PROBLEM_GROUPS, "seed_everything", "replica_overrides")
    }
    rest = {key: config[key] for key in ("seed_everything", "replica_overrides")}
    return {**flatten({**resolved, **rest}), **kept}


def _write_checkpoints(
    group: _Group, number: int, folder: Path, identity: dict[str, Any], *, is_whole: bool
) -> None:
    content = content_of_replica(group.content, number)
    bests = content["callbacks"][ReplicaBests.__qualname__]
    content[RECORD_KEY] = {**content[RECORD_KEY], "identity": identity}
    content.pop("diverged")
    if bests["weights"][number] is not None:
        best = {key: value for key, value in content.items() if key not in (*_STATES, "callbacks")}
        best["state_dict"] = bests["weights"][number]
        best["global_step"] = bests["steps"][number]
        if "phases" in bests:  # not kept at first
            best[PHASE_KEY] = bests["phases"][number]
        write_checkpoint(best, folder / BEST)
    if is_whole:
        whole = {key: content[key][number : number + 1] for key in _STATES}
        callbacks = _own_callbacks(content["callbacks"], number, bests["scores"][number])
        write_checkpoint({**content, **whole, "callbacks": callbacks}, folder / LAST)


def _own_callbacks(states: Mapping[str, Any], number: int, score: float) -> dict[str, Any]:
    """The states of callbacks that know replicas, as those of a single run."""
    measured = states[Measurements.__qualname__]
    logged = states[TrainingLog.__qualname__]
    losses = logged["losses"]
    kept = {key: state for key, state in states.items() if key != ReplicaBests.__qualname__}
    return {
        **kept,
        Measurements.__qualname__: {**measured, "milestones": [measured["milestones"][number]]},
        TrainingLog.__qualname__: {
            **logged,
            "losses": None if losses is None else losses[:, number].clone(),
        },
        Checkpoints.__qualname__: {"best_score": score},
    }


def _write_rows(group: _Group, number: int, folder: Path, identity: Mapping[str, Any]) -> None:
    """`metrics.csv` and events: the rows that a single run would have logged."""
    board, file = RunBoard(folder), MetricsFile(folder / METRICS)
    key = next(key for key in group.summary["metrics"] if key in ("val/nmse", "val/error"))
    flat = {name: value for name, value in identity.items() if isinstance(value, int | float | str)}
    board.announce(flat, [key, "train/loss"])
    for row in group.metrics.rows_of(number):
        values = {name: value for name, value in row.items() if name != "step"}
        for logger in (board, file):
            if values:
                logger.log_metrics(values, step=int(row["step"]))
    file.save()
    board.finalize("success")


def _own_summary(group: _Group, number: int) -> dict[str, Any]:
    """The group's, with what belongs to one; its seconds are shared out."""
    count, described = len(group.replicas), group.summary["replicas"][number]
    diverged = group.content["diverged"][number]
    own = {key: value for key, value in group.summary.items() if key != "replicas"}
    shares = {key: round(own[key] / count, 3) for key in _SHARED}
    samples = own["samples_seen"] // count
    if diverged is not None:
        samples = samples * diverged // own["steps"]
    return {
        **own,
        **shares,
        "status": described["status"],
        "steps": own["steps"] if diverged is None else diverged,
        "samples_seen": samples,
        "trained_together": count,
        "metrics": {
            key: math.nan if value is None else value for key, value in described["metrics"].items()
        },
    }
