"""`bfc validate`, `test` and `predict`: a checkpoint of a run, scored or written out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor

from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.cli.console import describe_replicas, say, show_metrics
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.fit import build_learners
from bfc_lightning.cli.launch import close_processes, fill_processes, use_launcher
from bfc_lightning.cli.options import parse
from bfc_lightning.files import replacing, write_json
from bfc_lightning.private import leave_signals_alone
from bfc_lightning.replicas import AnyData
from bfc_lightning.run_module import RunModule
from bfc_lightning.runs.config import identity, make_trainer
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    RunError,
    find_checkpoint,
    find_folder,
)
from bfc_lightning.runs.loading import check_same_network, load_state, read_checkpoint

CHECKPOINT = {"ckpt_path": (str, "`best` or `last` of the run, or a PATH.")}


def evaluate_command(command: str, argv: Sequence[str]) -> int:
    """Scores a checkpoint, or writes its predictions; returns the exit code."""
    with usage_errors():
        study = parse(argv, command=command, options=CHECKPOINT)
        config = study.config
        folder = find_folder(config.run, [str(path) for path in config.config or []])
        checkpoint = find_checkpoint(config.ckpt_path, folder)
        is_in_run = checkpoint.parent.name == CHECKPOINTS
        folder = checkpoint.parent.parent if is_in_run else checkpoint.parent
        content = read_checkpoint(checkpoint)
        resolved = study.resolved(config.seed_everything)
        check_same_network(content[RECORD_KEY]["identity"], identity(study.settings(resolved)))
        objects, model, data = build_learners(study)
        trainer = _trainer(vars(objects.trainer), data)
        if command == "predict" and max(trainer.world_size, config.model.num_replicas) > 1:
            raise RunError("predict needs a single learner in one process; see load_run.")
        trainer.strategy.precision_plugin.convert_module(model)
        load_state(content, model=model, data=data)
        quiet = {} if command == "predict" else {"verbose": False}
        use_launcher(trainer, [command, *argv])
        try:
            outputs = getattr(trainer, command)(model, datamodule=data, **quiet)
        finally:
            close_processes(trainer)
    if not trainer.is_global_zero:
        return 0
    title = f"{checkpoint}, step {content['global_step']}"
    if command == "predict":
        _write_predictions(outputs, folder / "predictions.npz")
        say(f"{title}: wrote {folder / 'predictions.npz'}")
        return 0
    scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
    result = {"checkpoint": str(checkpoint), "step": content["global_step"], "metrics": scores}
    result["settings"] = study.settings()
    show_metrics(title, scores)
    if len(model.each) > 1:
        result["replicas"] = _replicas(model, config.seed_everything)
        print(describe_replicas(result["replicas"]))
    write_json(folder / f"{command}.json", result)
    say(f"wrote {folder / command}.json")
    return 0


def _trainer(options: dict[str, Any], data: AnyData) -> Trainer:
    """A Trainer without loggers and the user's callbacks, which are for training."""
    unwanted = dict.fromkeys(("callbacks", "profiler", "max_time"))
    options = {**options, **unwanted, "logger": False, "enable_progress_bar": False}
    options["val_check_interval"] = 1.0
    fill_processes(options)
    trainer = make_trainer(**options)
    leave_signals_alone(trainer)
    data.check_processes(trainer.world_size)
    return trainer


def _replicas(model: RunModule, seed: int) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed + number,
            "status": "finished" if model.diverged[number] is None else "diverged",
            "metrics": scores,
        }
        for number, scores in enumerate(model.scores)
    ]


def _write_predictions(batches: Sequence[Mapping[str, Tensor]], path: Path) -> None:
    """Writes inputs (n, d), targets (n,) and predictions (n,)."""
    columns = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}
    with replacing(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)
