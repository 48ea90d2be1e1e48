"""Checkpoints and run folders, read back: to resume, to evaluate, or from Python."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import Namespace

from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.data import HierarchicalData
from bfc_lightning.labels import Labels
from bfc_lightning.learners import Learner
from bfc_lightning.replicas import AnyData, content_of_replica
from bfc_lightning.run_module import RunModule
from bfc_lightning.runs.config import problem_parser, seeded
from bfc_lightning.runs.folder import CHECKPOINTS, CONFIG, RunError, find_checkpoint, read_summary
from bfc_lightning.runs.settings import PROBLEM_GROUPS, differences, flatten
from bfc_lightning.targets import Target

_CONTENT = {"state_dict", "global_step", "optimizer_states", RECORD_KEY}
_NETWORK_KEYS = re.compile(
    r"inputs\.|labels\.|target\.|"
    r"model\.(width|depth|activation|linear_readout|linearized|distillation|num_replicas)"
)
_LENGTH = "trainer.max_steps"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as data, on the CPU; code in it is refused and not run."""
    stream = io.BytesIO(path.read_bytes())
    try:
        content = torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as refused:  # whatever PyTorch raises for a damaged file
        raise RunError(
            f"the checkpoint {path} is damaged, no checkpoint, or carries code, which was not run."
        ) from refused
    if not isinstance(content, dict) or not content.keys() >= _CONTENT:
        raise RunError(f"the checkpoint {path} does not come from bfc fit.")
    return content


def check_same_network(stored: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another target or network; lists the settings that differ."""
    kept = [{k: v for k, v in each.items() if _NETWORK_KEYS.match(k)} for each in (stored, here)]
    if kept[0] != kept[1]:
        seeds = [{"seed_everything": each["seed_everything"]} for each in (stored, here)]
        raise RunError(
            "the checkpoint belongs to another target or network: "
            f"{differences(kept[0] | seeds[0], kept[1] | seeds[1])}. The config.yaml of its run "
            "fits it."
        )


@dataclass
class Resumption:
    """Where a run continues; without a checkpoint it starts from scratch."""

    folder: Path | None = None
    checkpoint: Path | None = None
    step: int | None = None  # and what the checkpoint says of its run:
    identity: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def is_over(self, config: Namespace) -> bool:
        """Whether `auto` found a run that has finished, also early, and is not made longer."""
        if config.resume != "auto" or self.folder is None or self.checkpoint is None:
            return False
        is_longer = config.trainer.max_steps > self.identity[_LENGTH]
        return not is_longer and read_summary(self.folder).get("status") == "finished"

    def check(self, identity: Mapping[str, Any], *, may_grow: bool) -> None:
        """Refuses to continue with settings that change the numbers; lists their keys."""
        stored = dict(self.identity or identity)
        if may_grow:
            stored[_LENGTH] = max(stored[_LENGTH], identity[_LENGTH])
        if found := differences(stored, identity):
            raise RunError(f"a resumed run must keep its settings: {found}.")

    def check_environment(self, environment: Mapping[str, Any]) -> str:
        """What of the environment differs, so that numbers agree only to rounding."""
        stored = self.environment or environment
        if stored["device"] != environment["device"]:
            raise RunError(
                f"trainer.accelerator must stay {stored['device']}, which drew the samples, got "
                f"{environment['device']}."
            )
        return differences(stored, environment)


def find_resumption(config: Namespace, folder: Path) -> Resumption:
    """What `--resume` means: `auto` is the folder's last checkpoint, if there is one."""
    if config.resume is None:
        return Resumption()
    if config.run.overwrite:
        raise RunError("run.overwrite would delete the run that resume continues: choose one.")
    if config.resume == "auto" and not (folder / CHECKPOINTS / "last.ckpt").is_file():
        return Resumption(folder)
    checkpoint = find_checkpoint("last" if config.resume == "auto" else config.resume, folder)
    content = read_checkpoint(checkpoint)
    own = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else folder
    if config.run.name is not None and own.resolve() != folder.resolve():
        raise RunError(f"a run is resumed in its folder, {own}, got {folder}: omit run.name.")
    if checkpoint.parent.name != CHECKPOINTS and folder.exists():
        raise RunError(f"{checkpoint} is not of the run {folder}: choose another run.name.")
    return Resumption(own, checkpoint, content["global_step"], **content[RECORD_KEY])


class LoadedRun(NamedTuple):
    """A run, read back."""

    target: Target  # G, in float64, with the tensors of the checkpoint
    labels: Labels
    network: Learner  # in the precision that it was trained in
    data: HierarchicalData  # makes the sample stream of the run: `data.make_stream(device, dtype)`
    config: dict[str, Any]
    step: int


def load_run(path: str | Path, checkpoint: str = "best", replica: int = 0) -> LoadedRun:
    """Reads a run folder.

    Args:
        path: the run folder.
        checkpoint: `best`, `last` or a path.
        replica: its number, from 0, for a run with `model.num_replicas`.
    """
    folder = Path(path)
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    content = read_checkpoint(find_checkpoint(checkpoint, folder))
    count = config["model"]["num_replicas"]
    if not 0 <= replica < count:
        raise RunError(f"replica must be in [0, {count}), got {replica}.")
    parser = problem_parser()
    settings = parser.parse_object({group: config[group] for group in PROBLEM_GROUPS})
    seed = config["seed_everything"]
    here = flatten(yaml.safe_load(parser.dump(seeded(settings, seed), skip_unset=False)))
    check_same_network(content[RECORD_KEY]["identity"], {**here, "seed_everything": seed})
    if count > 1:
        content = content_of_replica(content, replica)
        settings.model.num_replicas = 1
    objects = parser.instantiate(seeded(settings, seed + replica))
    data, model = objects["data"], objects["model"]
    model.to(next(iter(content["state_dict"].values())).dtype)
    load_state(content, model=model, data=data)
    network = model.network.eval()
    network.cut = "none"
    return LoadedRun(data.target, data.labels, network, data, config, content["global_step"])


def load_state(content: Mapping[str, Any], *, model: RunModule, data: AnyData) -> None:
    """Gives a learner its weights, and its target the tensors that it was trained on."""
    data.load_state_dict(content[type(data).__qualname__])
    model.on_load_checkpoint(dict(content))
    model.load_state_dict(content["state_dict"])
