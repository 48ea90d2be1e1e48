"""`bfc validate`, `test` and `predict`: a checkpoint of a run, scored or written out."""

from collections.abc import Sequence

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.callbacks.run_files import results
from bfc_lightning.cli.console import describe_replicas, is_helper, say, show_metrics
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.fit import build_learners
from bfc_lightning.cli.options import parse
from bfc_lightning.files import replacing, write_json
from bfc_lightning.private import leave_signals_alone
from bfc_lightning.runs.config import make_trainer
from bfc_lightning.runs.folder import CHECKPOINTS, RunError, find_checkpoint, find_folder
from bfc_lightning.runs.loading import check_same_network, load_state, read_checkpoint
from bfc_lightning.runs.settings import identity

_CHECKPOINT_HELP = "`best` or `last` of the run, or a PATH."
CHECKPOINT = {"ckpt_path": {"type": str, "default": "best", "help": _CHECKPOINT_HELP}}


def evaluate_command(command: str, argv: Sequence[str]) -> int:
    """Scores a checkpoint, or writes its predictions, in one process; returns the exit code."""
    with usage_errors():
        study = parse(argv, command=command, options=CHECKPOINT)
        config = study.config
        if command == "predict" and config.model.num_replicas > 1:
            raise RunError("predict needs a single learner; see load_run.")
        folder = find_folder(config)
        checkpoint = find_checkpoint(config.ckpt_path, folder)
        content = read_checkpoint(checkpoint)
        resolved = study.resolved(config.seed_everything)
        check_same_network(content[RECORD_KEY]["identity"], identity(study.settings(resolved)))
        if is_helper():
            return 0
        objects, model, data = build_learners(study)
        # One process without loggers and the user's callbacks, which are for training.
        own = dict.fromkeys(("callbacks", "profiler", "max_time"))
        own |= {"logger": False, "enable_progress_bar": False, "val_check_interval": 1.0}
        own |= {"strategy": "auto", "num_nodes": 1, "plugins": LightningEnvironment()}
        devices = objects.trainer.devices
        own["devices"] = devices[:1] if isinstance(devices, list) else 1
        trainer = make_trainer(**vars(objects.trainer) | own)
        leave_signals_alone(trainer)
        trainer.strategy.precision_plugin.convert_module(model)
        load_state(content, model=model, data=data)
        quiet = {} if command == "predict" else {"verbose": False}
        outputs = getattr(trainer, command)(model, datamodule=data, **quiet)
    is_in_run = checkpoint.parent.name == CHECKPOINTS
    folder = checkpoint.parent.parent if is_in_run else checkpoint.parent
    title = f"{checkpoint}, step {content['global_step']}"
    if command == "predict":
        columns = {key: torch.cat([batch[key] for batch in outputs]).numpy() for key in outputs[0]}
        with replacing(folder / "predictions.npz") as aside, aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **columns)
        say(f"{title}: wrote {folder / 'predictions.npz'}")
        return 0
    seeds = range(config.seed_everything, config.seed_everything + len(model.each))
    result = {
        "checkpoint": str(checkpoint),
        "step": content["global_step"],
        **results(model, model.scores, seeds, "finished"),
        "settings": study.settings(),
    }
    show_metrics(title, result["metrics"])
    if "replicas" in result:
        print(describe_replicas(result["replicas"]))
    write_json(folder / f"{command}.json", result)
    say(f"wrote {folder / command}.json")
    return 0
