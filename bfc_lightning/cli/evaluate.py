"""`bfc validate`, `test` and `predict`: a checkpoint of a run, scored or written out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT

from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.cli.console import describe_replicas, say, show_metrics
from bfc_lightning.cli.errors import CHILD_VARIABLE, usage_errors
from bfc_lightning.cli.fit import build_learners
from bfc_lightning.cli.launch import close_processes, fill_processes, use_launcher
from bfc_lightning.cli.options import parse
from bfc_lightning.files import replacing, write_atomically, write_json
from bfc_lightning.private import leave_signals_alone
from bfc_lightning.replicas import AnyData, AnyLearner, ReplicatedLearner
from bfc_lightning.runs.config import identity, make_trainer
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    RunError,
    RunOptions,
    find_checkpoint,
    find_folder,
)
from bfc_lightning.runs.loading import check_same_network, load_state, read_checkpoint
from bfc_lightning.runs.yaml_files import to_yaml

CHECKPOINT = {"ckpt_path": (str, "`best` or `last` of the run, or a PATH.")}


def evaluate_command(command: str, argv: Sequence[str]) -> int:
    """Scores a checkpoint, or writes its predictions; returns the exit code."""
    with usage_errors():
        study = parse(argv, command=command, options=CHECKPOINT)
        config = study.config
        options = RunOptions(**vars(config.run))
        folder = find_folder(options, [str(path) for path in config.config or []])
        checkpoint = find_checkpoint(config.ckpt_path, folder)
        is_in_run = checkpoint.parent.name == CHECKPOINTS
        folder = checkpoint.parent.parent if is_in_run else checkpoint.parent
        if not os.access(folder, os.W_OK):
            raise RunError(f"the run folder {folder} must be writable.")
        content = read_checkpoint(checkpoint)
        resolved = study.resolved(config.seed_everything)
        check_same_network(content[RECORD_KEY]["identity"], identity(study.settings(resolved)))
        objects, model, data = build_learners(study, options)
        trainer, predictions = _trainer(command, vars(objects.trainer), model, data)
        trainer.strategy.precision_plugin.convert_module(model)
        load_state(content, model=model, data=data)
        use_launcher(trainer, [command, *argv], folder)
        try:
            _run(command, trainer, model, data)
        finally:
            close_processes(trainer)
    if not trainer.is_global_zero or CHILD_VARIABLE in os.environ:
        return 0
    title = f"{checkpoint}, step {content['global_step']}"
    if command == "predict":
        say(f"{title}: wrote {predictions.write(folder / 'predictions.npz')}")
        return 0
    scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
    result = {"checkpoint": str(checkpoint), "step": content["global_step"], "metrics": scores}
    if isinstance(model, ReplicatedLearner):
        result["replicas"] = _replicas(model, config.seed_everything)
    write_atomically(folder / f"config.{command}.yaml", to_yaml(study.settings()))
    write_json(folder / f"{command}.json", result)  # last: it says that all is done
    show_metrics(title, scores)
    if isinstance(model, ReplicatedLearner):
        print(describe_replicas(result["replicas"]))
    say(f"wrote {folder / command}.json")
    return 0


def _trainer(
    command: str, options: dict[str, Any], model: AnyLearner, data: AnyData
) -> tuple[Trainer, "Predictions"]:
    """A Trainer without loggers and the user's callbacks, which are for training."""
    predictions = Predictions()
    options = {
        **options,
        "callbacks": [predictions],
        "logger": False,
        "enable_progress_bar": False,
        "val_check_interval": 1.0,
        "profiler": None,
        "max_time": None,
    }
    fill_processes(options)
    trainer = make_trainer(**options)
    leave_signals_alone(trainer)
    data.check_processes(trainer.world_size)
    if command == "predict" and isinstance(model, ReplicatedLearner):
        raise RunError("predict needs a single learner: load_run(PATH, replica=N) reads one back.")
    if command == "predict" and trainer.world_size > 1:
        raise RunError(f"trainer.devices must be 1 for predict, got {trainer.world_size}.")
    return trainer, predictions


def _run(command: str, trainer: Trainer, model: AnyLearner, data: AnyData) -> None:
    chosen = {"return_predictions": False} if command == "predict" else {"verbose": False}
    getattr(trainer, command)(model, datamodule=data, **chosen)


def _replicas(model: ReplicatedLearner, seed: int) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed + number,
            "status": "finished" if model.diverged[number] is None else "diverged",
            "metrics": scores,
        }
        for number, scores in enumerate(model.scores)
    ]


class Predictions(Callback):
    """Collects what `predict` computes: inputs (n, d), targets (n,) and predictions (n,)."""

    def __init__(self) -> None:
        self._parts: list[dict[str, torch.Tensor]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        """Keeps a batch."""
        assert isinstance(outputs, Mapping)
        self._parts.append({name: value.cpu() for name, value in outputs.items()})

    def write(self, path: Path) -> Path:
        """Writes the arrays, aside and renamed."""
        columns = {
            name: torch.cat([part[name] for part in self._parts]).numpy() for name in self._parts[0]
        }
        with replacing(path) as aside, aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)
        return path
