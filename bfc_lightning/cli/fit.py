"""`bfc fit`: settings, objects, a run folder, a Trainer, and the result."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback, LambdaCallback, ProgressBar

from bfc_lightning.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from bfc_lightning.callbacks.exceptions import Interrupted
from bfc_lightning.callbacks.figures import RunFigures
from bfc_lightning.callbacks.interruption import Interruption
from bfc_lightning.callbacks.measurements import Measurements
from bfc_lightning.callbacks.progress import RunProgress
from bfc_lightning.callbacks.run_files import (
    MetricsFile,
    Summary,
    TensorBoardRunLogger,
    TrainingLog,
    engine_name,
    environment,
    provenance,
)
from bfc_lightning.callbacks.training_scheme import scheme_callback
from bfc_lightning.cli.console import command_line, is_helper, say, show_result, usage_errors
from bfc_lightning.cli.engines import as_list, check_distillation, check_objects, resolve_engine
from bfc_lightning.cli.options import parse
from bfc_lightning.files import remove_unfinished, write_atomically
from bfc_lightning.private import Launcher, leave_signals_alone, use_launcher
from bfc_lightning.replicas import AnyData, ReplicatedData, ReplicatedLearner
from bfc_lightning.run_module import RunModule
from bfc_lightning.runs.config import Study, make_trainer
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    METRICS,
    SUMMARY,
    RunFolder,
    RunOptions,
    find_folder,
    read_summary,
    reserved,
)
from bfc_lightning.runs.loading import Resumption, find_resumption
from bfc_lightning.runs.settings import digest, flatten, identity, to_yaml
from bfc_lightning.schedules import open_length
from bfc_lightning.schemes import Phase

_THREADS = torch.get_num_threads()
_FLOPS_OF_ONE_THREAD = 1e8


@dataclass
class Run:
    """What a run is made of: its settings, the objects built from them, and where it continues."""

    study: Study
    seeded_settings: dict[str, Any]  # with the seed of every part
    objects: Namespace  # scheme, measures, and the Trainer's options
    model: RunModule
    data: AnyData
    phases: list[Phase]
    resumption: Resumption
    started: float

    @property
    def seeds(self) -> range:
        """The seed of each replica."""
        config = self.study.config
        return range(config.seed_everything, config.seed_everything + config.model.num_replicas)


def fit_command(command: str, argv: Sequence[str]) -> int:
    """Trains a learner in a run folder of its own; returns the exit code."""
    started = time.time()
    with ExitStack() as stack:
        with usage_errors():
            study = parse(argv, command=command)
            wanted = find_folder(study.config)
            resumption = find_resumption(study.config, wanted)
            run = build_run(study, resumption, started)
            folder = stack.enter_context(run_folder(wanted, study.config.run, resumption))
            metrics = MetricsFile(
                folder.path / METRICS, num_replicas=len(run.seeds), resume_step=resumption.step
            )
            callbacks = own_callbacks(run, folder, metrics)
            trainer = build_trainer(run, folder.path, metrics, callbacks)
            use_launcher(trainer, [command, *argv])
            announce(run, folder.path, trainer)
        train(run, folder, trainer)
    if trainer.is_global_zero:
        show_result(folder.path, read_summary(folder.path), score_key=run.model.score_key)
    return 0


def build_run(study: Study, resumption: Resumption, started: float) -> Run:
    """Builds the objects, and refuses what can be refused before anything is written."""
    config = study.config
    objects, model, data = build_learners(study)
    first = model.each[0]
    check_distillation(first.network.is_distilled, objects.scheme)
    phases = objects.scheme.phases(first.network.depth, config.trainer.max_steps)
    check_objects(objects, model, phases)
    seeded = study.settings(study.resolved(config.seed_everything))
    depends_on_length = (
        (first.make_schedule is not None and open_length(first.make_schedule) is not None)
        or config.model.final_temperature is not None
        or objects.scheme.stretches
    )
    resumption.check(identity(seeded), may_grow=not depends_on_length)
    return Run(study, seeded, objects, model, data, phases, resumption, started)


def build_learners(study: Study) -> tuple[Namespace, RunModule, AnyData]:
    """All objects, learner and data; with `model.num_replicas`, one of each for every seed."""
    threads = study.config.run.threads
    torch.set_num_threads(threads or 1)
    seed, count = study.config.seed_everything, study.config.model.num_replicas
    seed_everything(seed, verbose=False)  # for the user's classes
    parts = [study.parser.instantiate(study.resolved(seed + n)) for n in range(max(count, 1))]
    first = parts[0]
    weights = sum(each.numel() for each in first.model.network.neuron_weights().values())
    # A small step gains little by threads, and beside another process waits for them tenfold.
    if threads is None and 6 * first.data.batch_size * weights >= _FLOPS_OF_ONE_THREAD:
        torch.set_num_threads(_THREADS)
    if count == 1:
        return first, first.model, first.data
    learners, data = [part.model for part in parts], [part.data for part in parts]
    return first, ReplicatedLearner(learners), ReplicatedData(data)


@contextmanager
def run_folder(folder: Path, options: RunOptions, resumption: Resumption) -> Iterator[RunFolder]:
    """The folder that the first process reserves; the others write nothing."""
    folder, resumes = resumption.folder or folder, resumption.folder is not None
    if is_helper():
        yield RunFolder(folder, is_kept=True)
        return
    with reserved(folder, options, resumes=resumes) as own:
        remove_unfinished(own.path)
        if resumes and resumption.checkpoint is None:
            say(f"there is no checkpoint in {own.path} yet: starting from scratch.")
        yield own


def own_callbacks(run: Run, folder: RunFolder, metrics: MetricsFile) -> list[Callback]:
    """Our callbacks, in the order in which they act at the end of a step: measure, log, stop."""
    config, path = run.study.config, folder.path
    measurements = Measurements(run.phases, run.objects.measures, config.num_measures)
    before = read_summary(path) if run.resumption.checkpoint is not None else {}
    summary = Summary(
        path=path / SUMMARY,
        metrics=metrics,
        measure_seconds=lambda: measurements.seconds,
        provenance=provenance(digest(run.study.settings())),
        started=run.started - before.get("wall_seconds", 0.0),
        seeds=run.seeds,
    )
    checkpoints = Checkpoints(
        path / CHECKPOINTS,
        monitor=run.model.score_key,
        identity=identity(run.seeded_settings),
        summary=summary,
    )
    figures = RunFigures(path / FIGURES, metrics=metrics, title=path.name)
    return [
        LambdaCallback(on_train_batch_end=lambda *_: folder.keep()),
        measurements,
        TrainingLog(),
        Interruption(checkpoints),
        *([figures] if config.run.figures else []),
        summary,
        checkpoints,
    ]


def build_trainer(
    run: Run, folder: Path, metrics: MetricsFile, callbacks: list[Callback]
) -> Trainer:
    """A Trainer with our loggers, callbacks and checkpoint files beside the user's."""
    options = vars(run.objects.trainer.clone())
    users = as_list(options["callbacks"])
    shown = [run.model.score_key, "train/loss"]
    board = TensorBoardRunLogger(folder, shown, resume_step=run.resumption.step)
    loggers = [metrics] if options["logger"] is False else [board, metrics]
    loggers += [] if isinstance(options["logger"], bool) else as_list(options["logger"])
    has_bar = any(isinstance(callback, ProgressBar) for callback in users)
    bar = [] if has_bar or options["enable_progress_bar"] is False else [RunProgress()]
    interval, length = options["val_check_interval"], run.phases[-1].stop
    if isinstance(interval, float):
        interval = max(1, round(interval * length)) * options["accumulate_grad_batches"]
    options["plugins"] = [*as_list(options["plugins"]), AtomicCheckpointIO()]
    _fill_processes(options)
    is_over = run.resumption.is_over(run.study.config)
    options |= {
        "max_steps": run.resumption.step if is_over else length,
        "val_check_interval": interval,
        "logger": loggers,
        "callbacks": [scheme_callback(run.objects.scheme, run.phases), *users, *bar, *callbacks],
        "default_root_dir": str(folder),
    }
    trainer = make_trainer(**options)
    # Lightning casts them after loading a checkpoint, whose weights would be rounded.
    trainer.strategy.precision_plugin.convert_module(run.model)
    run.data.check_processes(trainer.world_size)
    leave_signals_alone(trainer)
    resolve_engine(
        run.study.config,
        run.resumption.environment.get("engine"),
        trainer,
        model=run.model,
        data=run.data,
        callbacks=users,
        phases=run.phases,
        scheme=run.objects.scheme,
    )
    if changes := run.resumption.check_environment(environment(trainer, run.model)):
        say(f"warning: results will agree only to rounding, since {changes}.")
    return trainer


def _fill_processes(options: dict[str, Any]) -> None:
    """Fills in the Trainer's devices, nodes and strategy for processes that are started already.

    A job script of SLURM that calls bfc without srun is one process, whatever its job may use.
    """
    size = per_node = 1
    if TorchElasticEnvironment.detect():
        size, per_node = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif "SLURM_STEP_NUM_TASKS" in os.environ and SLURMEnvironment.detect():
        size = int(os.environ["SLURM_STEP_NUM_TASKS"])
        per_node = size // int(os.environ.get("SLURM_NNODES", 1))
    if size > 1:
        started = {"devices": per_node, "strategy": "ddp"}
        options |= {key: value for key, value in started.items() if options[key] == "auto"}
        options["num_nodes"] = size // per_node
    elif SLURMEnvironment.detect():
        options["plugins"] = [*as_list(options["plugins"]), LightningEnvironment()]


def write_config(settings: dict[str, Any], folder: Path, command: str, **resolved: str) -> None:
    """Writes `config.yaml`, which repeats the run."""
    run = {**settings["run"], "name": folder.name, "overwrite": False}
    again = command_line([command, "-c", str(folder / CONFIG), "--run.name", "ANOTHER"])
    text = f"# Every setting of the run {folder.name}. Again: {again}\n"
    write_atomically(folder / CONFIG, text + to_yaml({**settings, **resolved, "run": run}))


def announce(run: Run, folder: Path, trainer: Trainer) -> None:
    """Hands the settings to files and loggers, and says what starts."""
    engine, step, steps = engine_name(run.model), run.resumption.step, run.phases[-1].stop
    if trainer.is_global_zero:
        write_config(run.study.settings(), folder, "fit", engine=engine)
    for logger in trainer.loggers:
        logger.log_hyperparams(flatten({**run.seeded_settings, "run": {"name": folder.name}}))
    default = run.study.parser.get_default("trainer.max_steps")
    if run.study.config.trainer.max_steps not in (steps, default):
        say(f"the run takes {steps:,} steps, those of scheme.steps.")
    first, last = run.seeds[0], run.seeds[-1]
    replicas = f"{len(run.seeds)} replicas, seeds {first} to {last}"
    seeds = f"seed {first}" if first == last else replicas
    parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    device = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    resumed = "" if step is None else f"  resuming from step {step}"
    say(f"run {folder}  {seeds}  {parameters:,} parameters  {device}  {engine}{resumed}")
    if step == trainer.max_steps:
        say(f"the run is over after {step} steps: nothing is left to train.")


def train(run: Run, folder: RunFolder, trainer: Trainer) -> None:
    """Trains; whatever is refused before the first step is a usage error."""
    checkpoint = run.resumption.checkpoint
    try:
        trainer.fit(run.model, datamodule=run.data, ckpt_path=checkpoint, weights_only=True)
    except (Interrupted, Exception) as error:
        if folder.is_kept and isinstance(error, Interrupted | OSError):
            hint = command_line(["fit", "-c", str(folder.path / CONFIG), "--resume", "auto"])
            say(f"step {trainer.global_step}; to continue: {hint}")
        if trainer.global_step > (run.resumption.step or 0):
            raise
        with usage_errors():
            raise
    finally:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, Launcher) and launcher.procs:
            launcher.close()
        if torch.distributed.is_initialized():  # another run may follow
            torch.distributed.destroy_process_group()
