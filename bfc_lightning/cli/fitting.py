"""`bfc fit`: a run folder, a Trainer that writes into it, and going on where a run stopped."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.loggers import Logger

from bfc_lightning.callbacks.checkpoints import Checkpoints
from bfc_lightning.callbacks.environment import environment
from bfc_lightning.callbacks.interruption import Interruption, StopAtMaxSteps
from bfc_lightning.callbacks.measurements import Measurements, measure_steps
from bfc_lightning.callbacks.metrics_file import FileLogger, MetricsFile
from bfc_lightning.callbacks.pictures import Pictures
from bfc_lightning.callbacks.progress import RunProgress
from bfc_lightning.callbacks.replica_bests import ReplicaBests
from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile
from bfc_lightning.callbacks.signals import Signals, stopping_at_once
from bfc_lightning.callbacks.stops import Diverged, Interrupted, LostProcess
from bfc_lightning.callbacks.summary import Summary
from bfc_lightning.callbacks.tensorboard import RunBoard, quiet_writers
from bfc_lightning.callbacks.training_log import TrainingLog
from bfc_lightning.callbacks.training_scheme import TrainingScheme
from bfc_lightning.cli.console import say, show_result, show_start
from bfc_lightning.cli.launching import noticing_losses, prepare_launch
from bfc_lightning.cli.peers import Peers
from bfc_lightning.cli.processes import FOLDER_VARIABLE, is_first_process
from bfc_lightning.cli.refusals import absent_folders, in_words, is_lack_of_memory, remove_empty
from bfc_lightning.cli.trainer_flags import (
    as_list,
    check_control,
    check_interval,
    check_monitors,
    check_optimizer,
    validation_interval,
)
from bfc_lightning.cli.training_path import settle_training_path
from bfc_lightning.files import remove_unfinished, write_atomically
from bfc_lightning.measures.battery import Measure
from bfc_lightning.replicas import AnyData, AnyLearner, learners_of
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    METRICS,
    SUMMARY,
    FolderClaim,
    RunError,
    RunOptions,
    claim_new_folder,
    config_text,
    find_folder,
)
from bfc_lightning.runs.identity import flatten, run_identity
from bfc_lightning.runs.loading import read_summary
from bfc_lightning.runs.resuming import Resumption, find_resumption
from bfc_lightning.schedules import open_length
from bfc_lightning.schemes import Joint, Phase, Scheme

# What ends a run and tells of itself.
_OWN_WORDS = (Diverged, Interrupted, LostProcess, OSError, KeyboardInterrupt, SystemExit)
# Settings that change no result; TensorBoard's table of settings has better use for its columns.
_EVALUATION_KEYS = frozenset(
    f"data.{name}"
    for name in ("eval_batch_size", "num_val_samples", "num_test_samples", "num_predict_samples")
)


class Fitting:
    """One `bfc fit`.

    Args:
        parser: of the command, to write settings with.
        config: the user's settings.
        resolved: the same with every seed filled in.
        words: the command.
        peers: the processes that were started together with this one.
        started: when the command began.
    """

    def __init__(
        self,
        *,
        parser: ArgumentParser,
        config: Namespace,
        resolved: Namespace,
        words: Sequence[str],
        peers: Peers,
        started: float,
    ) -> None:
        self.parser = parser
        self.config = config
        self.words = words
        self.peers = peers
        self.started = started
        self.options = RunOptions(**vars(config.run))
        self.identity = run_identity(yaml.safe_load(parser.dump(resolved, skip_unset=False)))
        self.wanted = find_folder(self.options, [str(file) for file in config.config or []])
        self.absent = absent_folders(self.wanted.parent)
        self.resumption = Resumption()
        if config.resume is not None:
            self.resumption = find_resumption(config.resume, self.wanted, self.options)
        self.claim: FolderClaim | None = None
        self.is_begun = False
        self.signals = Signals()
        self.scheme: Scheme = Joint()
        self.measures: list[Measure] = []
        self.num_measures: int = config.num_measures
        self.replicas: list[dict[str, Any]] = []

    def take_replicas(self, replicas: list[dict[str, Any]]) -> None:
        """Tells the run that it has several learners.

        Args:
            replicas: seed and overrides of each.
        """
        self.replicas = replicas

    def make_trainer(self, flags: dict[str, Any], *, model: AnyLearner, data: AnyData) -> Trainer:
        """The Trainer, and the run folder that it writes to; none is left if something is refused.

        Args:
            flags: the group `trainer`, instantiated.
            model: the learner.
            data: the data module.

        Returns:
            A Trainer with our loggers and callbacks beside the user's.
        """
        phases = self._plan(flags, model)
        self._check(flags, model, data, phases)
        flags["val_check_interval"] = validation_interval(
            flags["val_check_interval"],
            max_steps=flags["max_steps"],
            accumulate=flags["accumulate_grad_batches"],
        )
        given = list(flags["callbacks"])
        try:
            if not flags["fast_dev_run"]:
                self.claim = self._claim_folder()
                self._add_parts(self.claim.path, flags, model, phases)
            flags["callbacks"].insert(0, TrainingScheme(self.scheme, phases))
            trainer = Trainer(**flags)
            check_interval(flags["val_check_interval"], trainer.world_size)
            # Lightning does it after loading a checkpoint, whose weights would be rounded.
            trainer.strategy.precision_plugin.convert_module(model)
            data.check_processes(trainer.world_size)
            self.resumption.check_device(trainer.strategy.root_device.type)
            settle_training_path(
                self.config.training_path,
                trainer,
                model=model,
                data=data,
                callbacks=given,
                sync_steps=self._sync_steps(phases),
                phases=phases,
            )
            folder = None if self.claim is None else str(self.claim.path)
            threads, peers = self.options.threads, self.peers
            prepare_launch(trainer, self.words, folder=folder, threads=threads, peers=peers)
            self.peers.meet("ready")
        except BaseException:
            self._abandon()
            raise
        return trainer

    def run(self, trainer: Trainer, *, model: AnyLearner, data: AnyData) -> None:
        """Trains, and shows the result.

        Args:
            trainer: from `make_trainer`.
            model: the learner.
            data: the data module.
        """
        folder = None if self.claim is None else self.claim.path
        checkpoint = self.resumption.checkpoint
        with ExitStack() as stack:
            stack.enter_context(quiet_writers())
            stack.enter_context(self._refusing(trainer))
            if folder is not None and trainer.is_global_zero:
                self._tidy(folder, trainer)
                write_atomically(folder / CONFIG, self._config_text(folder))
                self._announce(folder, trainer, model)
            stack.enter_context(noticing_losses(trainer))
            saves = self.claim is not None
            stack.enter_context(self.signals.listening() if saves else stopping_at_once())
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if folder is not None and trainer.is_global_zero:
            show_result(folder, read_summary(folder), score_key=model.score_key)

    def _plan(self, flags: dict[str, Any], model: AnyLearner) -> list[Phase]:
        """The phases of the run; its length is their sum, whatever `max_steps` said.

        Raises:
            RunError: if the scheme does not fit the learner.
        """
        try:
            phases = self.scheme.phases(learners_of(model)[0].network.depth, flags["max_steps"])
        except ValueError as refused:
            raise RunError(str(refused)) from refused
        check_control(learners_of(model)[0], self.scheme, phases)
        if len(phases) > 1:
            lengths = " + ".join(f"{phase.length:,}" for phase in phases)
            say(f"{type(self.scheme).__name__}: {lengths} = {phases[-1].stop:,} optimizer steps")
        flags["max_steps"] = self.config.trainer.max_steps = phases[-1].stop
        self.identity["trainer.max_steps"] = phases[-1].stop
        return phases

    def _sync_steps(self, phases: list[Phase]) -> set[int]:
        """Steps after which something is measured, joins or is frozen."""
        measured = measure_steps(phases, self.num_measures) if self.num_measures else set()
        return measured | {phase.start for phase in phases} | set(self.scheme.freeze.values())

    def _check(
        self,
        flags: dict[str, Any],
        model: AnyLearner,
        data: AnyData,
        phases: list[Phase],
    ) -> None:
        """Refuses what can be refused before anything is written."""
        leader = learners_of(model)[0]
        schedule = leader.make_schedule
        is_open = schedule is not None and open_length(schedule) is not None
        is_open = is_open or self.config.model.final_temperature is not None
        stretches = is_open or self.scheme.stretches
        self.resumption.check(self.identity, data, has_open_schedule=stretches)
        check_optimizer(leader, self.scheme, phases[0])
        flags["callbacks"] = as_list(flags["callbacks"])
        check_monitors(flags["callbacks"], [model.score_key, "val/loss"])
        if self.config.resume == "auto" and self.resumption.checkpoint is None:
            say(f"no checkpoint in {self.wanted} yet: starting afresh.")
        if self.resumption.warning:
            say(f"warning: {self.resumption.warning}")

    def _claim_folder(self) -> FolderClaim:
        """Settles the run folder; processes other than the first take what that one made."""
        self.peers.meet("checked")
        if not is_first_process():
            told = os.environ.get(FOLDER_VARIABLE)
            return FolderClaim(Path(told if told else self.peers.hear("folder")))
        claim = self._make_folder()
        self.peers.tell("folder", str(claim.path))
        return claim

    def _make_folder(self) -> FolderClaim:
        """A new folder, or that of the run that goes on."""
        if self.resumption.folder is not None:
            claim = FolderClaim(self.resumption.folder)
            (claim.path / CHECKPOINTS).mkdir(exist_ok=True)
            return claim
        is_named = self.config.resume == "auto" or self.options.name is not None
        options = replace(self.options, name=self.wanted.name if is_named else None)
        return claim_new_folder(self.wanted, options)

    @contextmanager
    def _refusing(self, trainer: Trainer) -> Iterator[None]:
        """Makes the user's mistake of what Lightning refuses before the first step.

        Whatever ends the run before it has taken a step leaves no new folder, and the run that it
        was to replace; of one that diverges the summary stays.

        Raises:
            RunError: if settings were refused.
        """
        try:
            yield
        except BaseException as failed:
            if not (self.is_begun or isinstance(failed, Diverged)):
                self._abandon()
            if isinstance(failed, Interrupted | OSError):
                self._say_how_to_go_on(trainer)
            if self.is_begun or isinstance(failed, _OWN_WORDS) or is_lack_of_memory(failed):
                raise
            raise RunError(in_words(failed)) from failed

    def _tidy(self, folder: Path, trainer: Trainer) -> None:
        """Takes away what is later than the checkpoint that the run goes on from."""
        remove_unfinished(folder)
        for logger in trainer.loggers:
            if isinstance(logger, FileLogger) and self.resumption.step is not None:
                logger.keep_until(self.resumption.step)

    def _say_how_to_go_on(self, trainer: Trainer) -> None:
        if self.claim is not None and self.is_begun and trainer.is_global_zero:
            config = self.claim.path / CONFIG
            say(f"step {trainer.global_step}; go on: bfc fit -c {config} --resume auto")

    def _keep(self) -> None:
        """A step is done: a run that this one replaces is gone for good."""
        if not self.is_begun and self.claim is not None:
            self.claim.keep()
        self.is_begun = True

    def _abandon(self) -> None:
        if self.claim is not None:
            self.claim.abandon()
            self.claim = None
            remove_empty(self.absent)

    def _add_parts(
        self,
        folder: Path,
        flags: dict[str, Any],
        model: AnyLearner,
        phases: list[Phase],
    ) -> None:
        """Puts our loggers and callbacks beside the user's."""
        flags["default_root_dir"] = flags["default_root_dir"] or folder
        metrics: MetricsFile | ReplicaMetricsFile = MetricsFile(folder / METRICS)
        if self.replicas:
            metrics = ReplicaMetricsFile(folder / METRICS, len(self.replicas))
        given = flags["logger"]
        loggers: list[Logger] = [metrics]
        if given is not False:
            loggers.insert(0, RunBoard(folder, self.resumption.step))
        if given not in (None, True, False):
            loggers += as_list(given)
        flags["logger"] = loggers
        flags["callbacks"] += self._callbacks(folder, metrics, model, flags, phases)

    def _callbacks(
        self,
        folder: Path,
        metrics: MetricsFile | ReplicaMetricsFile,
        model: AnyLearner,
        flags: dict[str, Any],
        phases: list[Phase],
    ) -> list[Callback]:
        """Ours, in the order in which they must see the end of a step: measure, log, then stop."""
        measurements = Measurements(phases, self.measures, self.num_measures, signals=self.signals)
        checkpoints = Checkpoints(
            folder / CHECKPOINTS, monitor=model.score_key, record={"identity": self.identity}
        )
        before = read_summary(folder) if self.resumption.checkpoint is not None else {}
        summary = Summary(
            folder / SUMMARY,
            metrics=metrics,
            measurements=measurements,
            started=self.started,
            seconds_before=before.get("wall_seconds", 0.0),
            replicas=self.replicas,
        )
        keep = LambdaCallback(on_train_batch_end=lambda *_: self._keep())
        first: list[Callback] = [keep, measurements, TrainingLog(), StopAtMaxSteps()]
        if self.replicas:
            first.append(ReplicaBests(len(self.replicas)))
        if flags["enable_progress_bar"] is not False:
            first.append(RunProgress())
        last: list[Callback] = [Interruption(self.signals, checkpoints), summary, checkpoints]
        if self.options.figures:
            last.insert(1, Pictures(folder / FIGURES, metrics=metrics, title=folder.name))
        return [*first, *last]

    def _announce(self, folder: Path, trainer: Trainer, model: AnyLearner) -> None:
        show_start(
            folder,
            seeds=[replica["seed"] for replica in self.replicas] or [self.config.seed_everything],
            num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            device=f"{trainer.world_size} x {trainer.strategy.root_device.type}",
            resume_step=self.resumption.content.get("global_step"),
        )
        if self.resumption.content.get("global_step") == trainer.max_steps:
            say(f"the run has all its {trainer.max_steps} steps: nothing is left to train.")
        changes = self.resumption.changes(environment(trainer, model))
        if changes:
            say(f"warning: this run goes on with {'; '.join(changes)}: equal only to rounding.")
        flat = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in {**flatten(self.identity), "run.name": folder.name}.items()
            if value is not None and key not in _EVALUATION_KEYS
        }
        for logger in trainer.loggers:
            if isinstance(logger, RunBoard):
                logger.announce(flat, [model.score_key, "train/loss"])
                if self.replicas:
                    logger.announce_bands(_banded_keys(model))

    def _config_text(self, folder: Path) -> str:
        """Everything that the run was told, to be run again."""
        settings = self.config.clone()
        settings.pop("config", None)
        settings.pop("resume", None)
        settings.run.name = folder.name
        settings.run.overwrite = False
        return config_text(folder, str(self.parser.dump(settings, skip_unset=False)))


def _banded_keys(model: AnyLearner) -> list[str]:
    """What one looks at first."""
    levels = range(1, learners_of(model)[0].network.depth + 1)
    kinds = ("levels/residual", "features/residual")
    return [model.score_key, "train/loss", *(f"{kind}_{each}" for kind in kinds for each in levels)]
