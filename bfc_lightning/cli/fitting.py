"""`bfc fit`: a run folder, a Trainer that writes into it, and going on where a run stopped."""

import os
import platform
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from bfc_lightning.callbacks.checkpoints import RECORD_KEY, Checkpoints
from bfc_lightning.callbacks.interruption import Interruption, StopAtMaxSteps
from bfc_lightning.callbacks.measurements import Measurements
from bfc_lightning.callbacks.metrics_file import MetricsFile
from bfc_lightning.callbacks.pictures import Pictures
from bfc_lightning.callbacks.progress import RunProgress
from bfc_lightning.callbacks.summary import Summary, versions
from bfc_lightning.callbacks.tensorboard import RunBoard
from bfc_lightning.callbacks.training_log import TrainingLog
from bfc_lightning.cli.console import say, show_result, show_start
from bfc_lightning.cli.trainer_flags import validation_interval
from bfc_lightning.data import HierarchicalData
from bfc_lightning.files import write_atomically
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    FIGURES,
    METRICS,
    SUMMARY,
    RunError,
    RunOptions,
    find_checkpoint,
    find_folder,
    new_folder,
)
from bfc_lightning.runs.identity import check_resumable, flatten, read_checkpoint, run_identity
from bfc_lightning.runs.loading import read_summary
from bfc_lightning.schedules import open_length

# Rank 0 tells the processes that it starts where the run lives.
_FOLDER_VARIABLE = "BFC_RUN_FOLDER"
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
        command: `fit`.
        started: when the process began.
    """

    def __init__(
        self,
        *,
        parser: ArgumentParser,
        config: Namespace,
        resolved: Namespace,
        command: str,
        started: float,
    ) -> None:
        self.parser = parser
        self.config = config
        self.started = started
        self.options = RunOptions(**vars(config.run))
        self.identity = run_identity(yaml.safe_load(parser.dump(resolved, skip_unset=False)))
        self.checkpoint: Path | None = None
        self.resume_step: int | None = None
        self.folder: Path | None = None
        self._stored: dict[str, Any] = {}
        if config.resume is not None:
            self._find_resumed(config.resume)

    def make_trainer(
        self, flags: dict[str, Any], *, model: HierarchicalLearner, data: HierarchicalData
    ) -> Trainer:
        """The Trainer, and the run folder that it writes to.

        Args:
            flags: the group `trainer`, instantiated.
            model: the learner.
            data: the data module.

        Returns:
            A Trainer with our loggers and callbacks beside the user's.

        Raises:
            RunError: if the Trainer refuses its flags, or the settings differ from the resumed
                run's; no new folder is left then.
        """
        self._check_resumed(model)
        _check_optimizer(model, flags["max_steps"])
        flags["val_check_interval"] = validation_interval(
            flags["val_check_interval"],
            max_steps=flags["max_steps"],
            accumulate=flags["accumulate_grad_batches"],
        )
        is_new = not flags["fast_dev_run"] and self._claim_folder()
        try:
            if not flags["fast_dev_run"]:
                self._add_parts(flags, model)
            trainer = Trainer(**flags)
            data.check_processes(trainer.world_size)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as refused:
            if is_new and self.folder is not None:
                shutil.rmtree(self.folder)
            raise RunError(str(refused)) from refused
        return trainer

    def run(self, trainer: Trainer, *, model: HierarchicalLearner, data: HierarchicalData) -> None:
        """Trains, and shows the result.

        Args:
            trainer: from `make_trainer`.
            model: the learner.
            data: the data module.
        """
        if self.folder is not None and trainer.is_global_zero:
            write_atomically(self.folder / CONFIG, self._config_text(self.folder))
            self._announce(trainer, model)
        with ExitStack() as stack:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Interruption):
                    stack.enter_context(callback.listening())
            trainer.fit(model, datamodule=data, ckpt_path=self.checkpoint, weights_only=True)
        if self.folder is not None and trainer.is_global_zero:
            show_result(self.folder, read_summary(self.folder), score_key=model.score_key)

    def _find_resumed(self, resume: str) -> None:
        if self.options.overwrite:
            raise RunError("run.overwrite must be false with --resume, got true.")
        folder = find_folder(self.options, self._stem())
        if resume == "auto":
            self.folder = folder if folder.is_dir() else None
            if not (folder / CHECKPOINTS / "last.ckpt").is_file():
                say(f"no checkpoint in {folder} yet: starting afresh.")
                return
            self.checkpoint = folder / CHECKPOINTS / "last.ckpt"
        else:
            self.checkpoint = find_checkpoint(resume, folder)
            if self.options.name is None and self.checkpoint.parent.name == CHECKPOINTS:
                self.folder = self.checkpoint.parent.parent
            elif folder.is_dir():
                self.folder = folder
        self._stored = read_checkpoint(self.checkpoint)
        self.resume_step = self._stored["global_step"]

    def _check_resumed(self, model: HierarchicalLearner) -> None:
        if self.checkpoint is None:
            return
        schedule = model.make_schedule
        is_open = schedule is not None and open_length(schedule) is not None
        check_resumable(
            self._stored[RECORD_KEY]["identity"],
            self.identity,
            has_open_schedule=is_open or self.config.model.final_temperature is not None,
        )
        changed = [
            f"{name} {here!r} instead of {self._stored[RECORD_KEY]['environment'].get(name)!r}"
            for name, here in _environment().items()
            if self._stored[RECORD_KEY]["environment"].get(name) != here
        ]
        if changed:
            say(f"warning: this run goes on with {'; '.join(changed)}: equal only to rounding.")

    def _claim_folder(self) -> bool:
        """Settles the run folder; whether it was made just now."""
        if current_rank() != 0:
            known = os.environ.get(_FOLDER_VARIABLE)
            self.folder = Path(known) if known else find_folder(self.options, self._stem())
            return False
        is_new = self.folder is None
        if self.folder is None:
            named = self.options
            if self.config.resume == "auto" and named.name is None:
                named = RunOptions(self._stem(), named.root)
            self.folder = new_folder(named, self._stem())
        elif self.checkpoint is None:
            self.resume_step = -1  # a run that died before its first checkpoint: drop its rows
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        os.environ[_FOLDER_VARIABLE] = str(self.folder)
        return is_new

    def _add_parts(self, flags: dict[str, Any], model: HierarchicalLearner) -> None:
        """Puts our loggers and callbacks beside the user's."""
        assert self.folder is not None
        flags["default_root_dir"] = flags["default_root_dir"] or self.folder
        metrics = MetricsFile(self.folder / METRICS, self.resume_step)
        given = flags["logger"]
        loggers: list[Logger] = [metrics]
        if given is not False:
            loggers.insert(0, RunBoard(self.folder, self.resume_step))
        if given not in (None, True, False):
            loggers += given if isinstance(given, list) else [given]
        flags["logger"] = loggers
        callbacks = flags["callbacks"] or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        flags["callbacks"] = [*callbacks, *self._callbacks(metrics, model, flags)]

    def _callbacks(
        self, metrics: MetricsFile, model: HierarchicalLearner, flags: dict[str, Any]
    ) -> list[Callback]:
        """Ours, in the order in which they must see the end of a step: measure, log, then stop."""
        assert self.folder is not None
        measurements = Measurements()
        checkpoints = Checkpoints(
            self.folder / CHECKPOINTS,
            monitor=model.score_key,
            record={"identity": self.identity, "environment": _environment()},
        )
        before = read_summary(self.folder).get("wall_seconds", 0.0) if self.checkpoint else 0.0
        summary = Summary(
            self.folder / SUMMARY,
            metrics=metrics,
            measurements=measurements,
            started=self.started,
            seconds_before=before,
        )
        pictures = Pictures(self.folder / FIGURES, metrics=metrics, title=self.folder.name)
        first: list[Callback] = [measurements, TrainingLog(), StopAtMaxSteps()]
        if flags["enable_progress_bar"] is not False:
            first.append(RunProgress())
        return [*first, Interruption(checkpoints), pictures, summary, checkpoints]

    def _announce(self, trainer: Trainer, model: HierarchicalLearner) -> None:
        assert self.folder is not None
        show_start(
            self.folder,
            seed=self.config.seed_everything,
            num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            device=f"{trainer.world_size} x {trainer.strategy.root_device.type}",
            resume_step=self.resume_step if self.checkpoint else None,
        )
        flat = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in {**flatten(self.identity), "run.name": self.folder.name}.items()
            if value is not None and key not in _EVALUATION_KEYS
        }
        for logger in trainer.loggers:
            if isinstance(logger, RunBoard):
                logger.announce(flat, [model.score_key, "train/loss"])

    def _config_text(self, folder: Path) -> str:
        """Everything that the run was told, to be run again."""
        settings = self.config.clone()
        settings.pop("config", None)
        settings.pop("resume", None)
        settings.run.name = folder.name
        settings.run.overwrite = False
        command = f"# Every setting of the run {folder.name}: bfc fit -c {folder / CONFIG}\n"
        return command + str(self.parser.dump(settings, skip_unset=False))

    def _stem(self) -> str:
        return first_stem(self.config)


def _check_optimizer(model: HierarchicalLearner, max_steps: int) -> None:
    """Lets optimiser and schedule refuse their arguments before there is a run folder.

    Raises:
        RunError: if one of them does.
    """
    try:
        model.build_optimizer(max_steps)
    except (ValueError, TypeError) as refused:
        raise RunError(f"model.optimizer and model.lr_scheduler: {refused}") from refused


def current_rank() -> int:
    """Which process this is, before there is a Trainer; 0 where there is only one."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def first_stem(config: Namespace) -> str:
    """The name of the first config file, without folder and ending; `run` where there is none.

    Args:
        config: the settings of a command.

    Returns:
        The name.
    """
    files = config.get("config") or []
    return Path(str(files[0])).stem if files else "run"


def _environment() -> dict[str, Any]:
    """What bit-for-bit repetition depends on beside the settings."""
    return {
        **versions(),
        "machine": platform.node(),
        "threads": torch.get_num_threads(),
    }
