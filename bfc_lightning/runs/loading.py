"""Reading a run back: target, network and configuration, without a Trainer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.data import HierarchicalData
from bfc_lightning.labels import Labels
from bfc_lightning.networks import DenseNet
from bfc_lightning.replicas import AnyData, AnyLearner, content_of_replica
from bfc_lightning.runs.assembly import PROBLEM_GROUPS, fill_seeds, problem_parser
from bfc_lightning.runs.folder import CONFIG, SUMMARY, RunError, find_checkpoint
from bfc_lightning.runs.identity import check_same_network, flatten, read_checkpoint
from bfc_lightning.runs.replication import describe_replicas, settings_of
from bfc_lightning.targets import Target


class LoadedRun(NamedTuple):
    """A run, read back.

    Attributes:
        target: G, in float64, with the tensors of the checkpoint.
        labels: how G became labels.
        network: the learner, in the precision it was trained in.
        data: makes the sample stream of the run, `data.make_stream(device, dtype)`.
        config: everything that `config.yaml` says.
        step: optimizer steps that the network has seen.
    """

    target: Target
    labels: Labels
    network: DenseNet
    data: HierarchicalData
    config: dict[str, Any]
    step: int


def load_run(path: str | Path, checkpoint: str = "best", replica: int = 0) -> LoadedRun:
    """Reads a run folder.

    Args:
        path: the run folder.
        checkpoint: `best`, `last` or a path.
        replica: which one, from 0, of a run with `model.num_replicas`.

    Returns:
        The run.

    Raises:
        RunError: if the folder holds no run, the checkpoint is missing or belongs elsewhere, or
            there is no such replica.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise RunError(f"path must be a run folder, got {folder}, which holds no {CONFIG}.")
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    content = read_checkpoint(find_checkpoint(checkpoint, folder))
    parser = problem_parser()
    whole = parser.parse_object({group: config[group] for group in PROBLEM_GROUPS})
    base = whole.clone()
    fill_seeds(base, config["seed_everything"])
    resolved = yaml.safe_load(parser.dump(base, skip_unset=False))
    resolved["replica_overrides"] = config.get("replica_overrides", [])  # before replicas: none
    check_same_network(content[RECORD_KEY]["identity"], flatten(resolved))
    whole.seed_everything = config["seed_everything"]
    whole.replica_overrides = resolved["replica_overrides"]
    replicas = describe_replicas(whole)
    if not 0 <= replica < len(replicas):
        raise RunError(f"replica must lie in [0, {len(replicas)}), got {replica}.")
    if len(replicas) > 1:
        content = content_of_replica(content, replica)
    own = settings_of(whole, replicas[replica])
    for key in ("seed_everything", "replica_overrides"):
        own.pop(key)
    objects = parser.instantiate(own)
    data, model = objects["data"], objects["model"]
    model.to(next(iter(content["state_dict"].values())).dtype)
    load_state(content, model=model, data=data)
    network = model.network.eval()
    network.cut = "none"
    return LoadedRun(data.target, data.labels, network, data, config, content["global_step"])


def load_state(content: Mapping[str, Any], *, model: AnyLearner, data: AnyData) -> None:
    """Gives a learner its weights, and its target the tensors that it was trained on.

    Args:
        content: of the checkpoint.
        model: the learner.
        data: holds the target.

    Raises:
        RunError: if the target's tensors are others than those made here.
    """
    try:
        data.load_state_dict(content[type(data).__qualname__])
    except ValueError as other:
        raise RunError(str(other)) from other
    model.on_load_checkpoint(dict(content))
    model.load_state_dict(content["state_dict"])


def read_summary(folder: Path) -> dict[str, Any]:
    """What `summary.json` of a run folder says.

    Args:
        folder: of the run.

    Returns:
        Its content; empty where there is none yet, or none that can be read after a power cut.
    """
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
