"""`bfc fit`: settings, objects, a run folder, a Trainer, and the result."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, LambdaCallback, ProgressBar
from lightning.pytorch.loggers import Logger

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
    environment,
    provenance,
)
from bfc_lightning.callbacks.training_scheme import scheme_callback
from bfc_lightning.cli.checks import as_list, check_callbacks, check_distillation, check_scheme
from bfc_lightning.cli.console import command_line, is_helper, say, show_result
from bfc_lightning.cli.engines import resolve_engine
from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.cli.launch import close_processes, fill_processes
from bfc_lightning.cli.options import parse
from bfc_lightning.data import HierarchicalData
from bfc_lightning.files import remove_unfinished, write_atomically
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.private import leave_signals_alone, use_launcher
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

_RESUME_HELP = "`auto` continues from the run's last checkpoint, if there is one; or a PATH."
RESUME = {"resume": {"type": str | None, "default": None, "help": _RESUME_HELP}}


@dataclass
class Run:
    """What a run is made of: its settings, the objects built from them, and where it continues."""

    study: Study
    settings: dict[str, Any]
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


def fit_command(argv: Sequence[str]) -> int:
    """Trains a learner in a run folder of its own; returns the exit code."""
    started = time.time()
    with ExitStack() as stack:
        with usage_errors():
            study = parse(argv, command="fit", options=RESUME)
            wanted = find_folder(study.config)
            resumption = find_resumption(study.config, wanted)
            run = build_run(study, resumption, started)
            folder = stack.enter_context(run_folder(wanted, study.config.run, resumption))
            metrics = MetricsFile(
                folder.path / METRICS, num_replicas=len(run.seeds), resume_step=resumption.step
            )
            callbacks = own_callbacks(run, folder, metrics)
            trainer = build_trainer(run, folder.path, metrics, callbacks)
            use_launcher(trainer, ["fit", *argv])
            announce(run, folder.path, trainer)
        train(run, folder, trainer)
    if trainer.is_global_zero:
        show_result(folder.path, read_summary(folder.path), score_key=run.model.score_key)
    return 0


def build_run(study: Study, resumption: Resumption, started: float) -> Run:
    """Builds the objects, and refuses what can be refused before anything is written."""
    objects, model, data = build_learners(study)
    first = model.each[0]
    check_distillation(first.network, objects.scheme, as_list(objects.measures))
    phases = objects.scheme.phases(first.network.depth, study.config.trainer.max_steps)
    check_scheme(first, objects.scheme, phases, num_replicas=len(model.each))
    check_callbacks(as_list(objects.trainer.callbacks), [model.score_key, "val/loss"])
    settings = study.settings()
    seeded = study.settings(study.resolved(study.config.seed_everything))
    schedule = first.make_schedule
    depends_on_length = (
        (schedule is not None and open_length(schedule) is not None)
        or study.config.model.final_temperature is not None
        or objects.scheme.stretches
    )
    resumption.check(identity(seeded), may_grow=not depends_on_length)
    return Run(study, settings, seeded, objects, model, data, phases, resumption, started)


def build_learners(study: Study) -> tuple[Namespace, RunModule, AnyData]:
    """All objects, learner and data; with `model.num_replicas`, one of each for every seed."""
    threads = study.config.run.threads
    torch.set_num_threads(threads or 1)
    seed, count = study.config.seed_everything, study.config.model.num_replicas
    seed_everything(seed, verbose=False)  # for the user's classes
    parts = [study.parser.instantiate(study.resolved(seed + n)) for n in range(max(count, 1))]
    if threads is None and _is_large(parts[0].model, parts[0].data):
        torch.set_num_threads(_THREADS)
    if count == 1:
        return parts[0], parts[0].model, parts[0].data
    learners, data = [part.model for part in parts], [part.data for part in parts]
    return parts[0], ReplicatedLearner(learners), ReplicatedData(data)


def _is_large(model: HierarchicalLearner, data: HierarchicalData) -> bool:
    """Whether a step gains by several threads.

    A small one gains little, and beside another process it waits for the others tenfold.
    """
    weights = sum(each.numel() for each in model.network.neuron_weights().values())
    return 6 * data.batch_size * weights >= _FLOPS_OF_ONE_THREAD


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
        provenance=provenance(digest(run.settings)),
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
    loggers: list[Logger] = [metrics]
    if options["logger"] is not False:
        shown = [run.model.score_key, "train/loss"]
        loggers.insert(0, TensorBoardRunLogger(folder, shown, resume_step=run.resumption.step))
    if not isinstance(options["logger"], bool):
        loggers += as_list(options["logger"])
    has_bar = any(isinstance(callback, ProgressBar) for callback in users)
    bar = [] if has_bar or options["enable_progress_bar"] is False else [RunProgress()]
    interval = options["val_check_interval"]
    if isinstance(interval, float):
        interval = max(1, round(interval * run.phases[-1].stop))
        interval *= options["accumulate_grad_batches"]
    options["plugins"] = [*as_list(options["plugins"]), AtomicCheckpointIO()]
    fill_processes(options)
    is_over = run.resumption.is_over(run.study.config)
    options |= {
        "max_steps": run.resumption.step if is_over else run.phases[-1].stop,
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


def write_config(settings: dict[str, Any], folder: Path, command: str, **resolved: str) -> None:
    """Writes `config.yaml`, which repeats the run."""
    run = {**settings["run"], "name": folder.name, "overwrite": False}
    again = command_line([command, "-c", str(folder / CONFIG), "--run.name", "ANOTHER"])
    text = f"# Every setting of the run {folder.name}. Again: {again}\n"
    write_atomically(folder / CONFIG, text + to_yaml({**settings, **resolved, "run": run}))


def announce(run: Run, folder: Path, trainer: Trainer) -> None:
    """Hands the settings to files and loggers, and says what starts."""
    engine = environment(trainer, run.model)["engine"]
    if trainer.is_global_zero:
        write_config(run.settings, folder, "fit", engine=engine)
    for logger in trainer.loggers:
        logger.log_hyperparams(flatten({**run.seeded_settings, "run": {"name": folder.name}}))
    default = run.study.parser.get_default("trainer.max_steps")
    steps = run.phases[-1].stop
    if run.study.config.trainer.max_steps not in (steps, default):
        say(f"the run takes {steps:,} steps, those of scheme.steps.")
    seeds = f"seed {run.seeds[0]}"
    if len(run.seeds) > 1:
        seeds = f"{len(run.seeds)} replicas, seeds {run.seeds[0]} to {run.seeds[-1]}"
    parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    device = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    step = run.resumption.step
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
        close_processes(trainer)
