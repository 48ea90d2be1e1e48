"""`bfc baseline` fits a baseline to the samples of a config."""

import time
from collections.abc import Sequence

from bfc_lightning.baselines import Baseline
from bfc_lightning.baselines.fitting import SAMPLE_DTYPES, baseline_init_scale, fit_and_score
from bfc_lightning.callbacks.run_files import provenance
from bfc_lightning.cli.console import say, show_metrics
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.fit import build_learners, write_config
from bfc_lightning.cli.options import parse
from bfc_lightning.files import write_json
from bfc_lightning.runs.folder import SUMMARY, RunError, find_folder, reserved
from bfc_lightning.runs.settings import digest
from bfc_lightning.seeds import derive_seed


def baseline_command(argv: Sequence[str]) -> int:
    """Fits a baseline and scores it, in a run folder of its own; returns the exit code."""
    started = time.time()
    with usage_errors():
        study = parse(argv, command="baseline", extra={"baseline": Baseline})
        config = study.config
        if config.model.num_replicas != 1:
            raise RunError(f"model.num_replicas must be 1, got {config.model.num_replicas}.")
        if config.model.distillation is not None:
            raise RunError("model.distillation must be null, since baselines read a DenseNet.")
        config.model.init_scale = baseline_init_scale(config.model.init_scale)
        objects, _, _ = build_learners(study)
        data = objects.data
        folder = find_folder(config)
        with reserved(folder, config.run, resumes=False) as own:
            name = type(objects.baseline).__name__
            say(f"{name} on {data.num_train_samples} samples, seed {config.seed_everything}")
            objects.model.to(SAMPLE_DTYPES[config.trainer.precision])
            parts = objects.baseline, data, objects.model.network
            own_seed = derive_seed(config.seed_everything, "baseline")
            metrics, seconds = fit_and_score(*parts, own_seed, is_measured=config.num_measures > 0)
            given = study.settings()
            write_config(given, own.path, "baseline")
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
    show_metrics(str(own.path), metrics)
    return 0
