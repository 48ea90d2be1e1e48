"""`bfc baseline`: a method that needs no Trainer, on the problem of a config of `bfc fit`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bfc_lightning.baselines import Baseline
from bfc_lightning.baselines.fitting import fit_and_score
from bfc_lightning.callbacks.checkpoints import versions
from bfc_lightning.callbacks.summary import git_revision
from bfc_lightning.cli.console import command_line, say, show_metrics
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.fit import build_learners
from bfc_lightning.cli.options import parse
from bfc_lightning.files import write_atomically, write_json
from bfc_lightning.runs.config import Study, digest
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    SUMMARY,
    RunError,
    RunOptions,
    find_folder,
    reserved,
)
from bfc_lightning.runs.yaml_files import to_yaml
from bfc_lightning.seeds import derive_seed

EXTRA = {"baseline": Baseline}


def baseline_command(argv: Sequence[str]) -> int:
    """Fits a baseline and scores it, in a run folder of its own; returns the exit code."""
    started = time.time()
    with usage_errors():
        study = parse(argv, command="baseline", extra=EXTRA)
        config, options = study.config, RunOptions(**vars(study.config.run))
        if config.model.num_replicas != 1:
            raise RunError(f"model.num_replicas must be 1, got {config.model.num_replicas}.")
        if config.model.init_scale is None:
            config.model.init_scale = 1.0  # the default of learners that are trained is smaller
        objects, _, _ = build_learners(study, options)
        data = objects.data
        folder = find_folder(options, [str(path) for path in config.config or []])
        with reserved(folder, options, resumes=False) as own:
            name = type(objects.baseline).__name__
            say(f"{name} on {data.num_train_samples} samples, seed {config.seed_everything}")
            metrics, seconds = fit_and_score(
                objects.baseline,
                data,
                objects.model.network,
                derive_seed(config.seed_everything, "baseline"),
                is_measured=config.num_measures > 0,
            )
            (own.path / CHECKPOINTS).rmdir()
            settings = _write_config(study, own.path)
            content = {
                "status": "finished",
                "baseline": name,
                "samples_seen": data.num_train_samples,
                "wall_seconds": round(time.time() - started, 3),
                "fit_seconds": round(seconds, 3),
                "digest": digest(settings),
                "versions": versions(),
                "git": git_revision(),
                "threads": torch.get_num_threads(),
                "metrics": metrics,
            }
            write_json(own.path / SUMMARY, content)
            own.keep()
    show_metrics(str(own.path), metrics)
    return 0


def _write_config(study: Study, folder: Path) -> dict[str, Any]:
    """Writes `config.yaml`; returns the settings."""
    settings, config = study.settings(), study.settings()
    config["run"].update(name=folder.name, overwrite=False)
    again = command_line(["baseline", "-c", str(folder / CONFIG), "--run.name", "ANOTHER"])
    text = f"# Every setting of the run {folder.name}. Again: {again}\n{to_yaml(config)}"
    write_atomically(folder / CONFIG, text)
    return settings
