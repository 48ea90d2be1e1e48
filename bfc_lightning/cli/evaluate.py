"""What is scored without training: a checkpoint of a run, or a baseline on the same samples."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from bfc_lightning.baselines.fitting import SAMPLE_DTYPES, baseline_init_scale, fit_and_score
from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.callbacks.run_files import provenance, results
from bfc_lightning.cli.console import is_helper, say, show_metrics, usage_errors
from bfc_lightning.cli.fit import build_learners, write_config
from bfc_lightning.cli.options import parse
from bfc_lightning.files import replacing, write_json
from bfc_lightning.private import leave_signals_alone
from bfc_lightning.runs.config import make_trainer
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    SUMMARY,
    RunError,
    find_checkpoint,
    find_folder,
    reserved,
)
from bfc_lightning.runs.loading import check_same_network, load_state, read_checkpoint
from bfc_lightning.runs.settings import digest, identity
from bfc_lightning.seeds import derive_seed

_KEPT = ("accelerator", "precision", "deterministic", "benchmark", "detect_anomaly")


def evaluate_command(command: str, argv: Sequence[str]) -> int:
    """`bfc validate`, `test`, `predict`: scores a checkpoint, or writes its predictions."""
    with usage_errors():
        study = parse(argv, command=command)
        config, seed = study.config, study.config.seed_everything
        if command == "predict" and config.model.num_replicas > 1:
            raise RunError("predict needs a single learner; see load_run.")
        checkpoint = find_checkpoint(config.ckpt_path, find_folder(config))
        content = read_checkpoint(checkpoint)
        here = identity(study.settings(study.resolved(seed)))
        check_same_network(content[RECORD_KEY]["identity"], here)
        if is_helper():
            return 0
        objects, model, data = build_learners(study)
        # One process, without loggers and the user's callbacks, which are for training.
        given = vars(objects.trainer)
        trainer = make_trainer(
            **{key: given[key] for key in _KEPT},
            devices=given["devices"][:1] if isinstance(given["devices"], list) else 1,
            plugins=LightningEnvironment(),
            logger=False,
            enable_progress_bar=False,
        )
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
    result = {
        "checkpoint": str(checkpoint),
        "step": content["global_step"],
        **results(model, model.scores, range(seed, seed + len(model.each)), "finished"),
        "settings": study.settings(),
    }
    show_metrics(title, result)
    write_json(folder / f"{command}.json", result)
    say(f"wrote {folder / command}.json")
    return 0


def baseline_command(command: str, argv: Sequence[str]) -> int:
    """`bfc baseline`: fits a baseline and scores it, in a run folder of its own."""
    started = time.time()
    with usage_errors():
        study = parse(argv, command=command)
        config = study.config
        if config.model.num_replicas != 1:
            raise RunError(f"model.num_replicas must be 1, got {config.model.num_replicas}.")
        if config.model.distillation is not None:
            raise RunError("model.distillation must be null, since baselines read a DenseNet.")
        config.model.init_scale = baseline_init_scale(config.model.init_scale)
        objects, _, _ = build_learners(study)
        baseline, data, model = objects.baseline, objects.data, objects.model
        with reserved(find_folder(config), config.run, resumes=False) as own:
            name = type(baseline).__name__
            say(f"{name} on {data.num_train_samples} samples, seed {config.seed_everything}")
            model.to(SAMPLE_DTYPES[config.trainer.precision])
            seed = derive_seed(config.seed_everything, "baseline")
            metrics, seconds = fit_and_score(
                baseline, data, model.network, seed, is_measured=config.num_measures > 0
            )
            given = study.settings()
            write_config(given, own.path, command)
            content = {
                "status": "finished",
                "baseline": name,
                "samples_seen": data.num_train_samples,
                "wall_seconds": round(time.time() - started, 3),
                "fit_seconds": round(seconds, 3),
                **provenance(digest(given)),
                "metrics": metrics,
            }
            write_json(own.path / SUMMARY, content)
    show_metrics(str(own.path), content)
    return 0
