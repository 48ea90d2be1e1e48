"""`bfc validate`, `test` and `predict`: a checkpoint of a run, scored or written out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer

from bfc_lightning.callbacks.checkpoints import RECORD_KEY
from bfc_lightning.callbacks.predictions import PredictionsFile
from bfc_lightning.callbacks.signals import stopping_at_once
from bfc_lightning.cli.console import say, show_scores, whose_medians
from bfc_lightning.cli.launching import noticing_losses, prepare_launch
from bfc_lightning.cli.peers import Peers
from bfc_lightning.cli.trainer_flags import as_list
from bfc_lightning.files import write_atomically, write_json
from bfc_lightning.replicas import AnyData, AnyLearner, ReplicatedLearner
from bfc_lightning.runs.folder import (
    CHECKPOINTS,
    RunError,
    RunOptions,
    find_checkpoint,
    find_folder,
)
from bfc_lightning.runs.identity import check_same_network, read_checkpoint, run_identity
from bfc_lightning.runs.loading import load_state


class Evaluation:
    """One `bfc validate`, `test` or `predict`.

    Args:
        parser: of the command, to write settings with.
        config: the user's settings.
        resolved: the same with every seed filled in.
        words: the command, as it was given.
        peers: the processes that were started together with this one.
        command: which of the three.

    Raises:
        RunError: if the checkpoint is missing, unreadable, or belongs to another target or network.
    """

    def __init__(
        self,
        *,
        parser: ArgumentParser,
        config: Namespace,
        resolved: Namespace,
        words: Sequence[str],
        peers: Peers,
        command: str,
    ) -> None:
        self.parser = parser
        self.config = config
        self.words = words
        self.peers = peers
        self.command = command
        self.replicas: list[dict[str, Any]] = []
        configs = [str(file) for file in config.config or []]
        folder = find_folder(RunOptions(**vars(config.run)), configs)
        self.checkpoint = find_checkpoint(config.ckpt_path, folder)
        if config.ckpt_path not in ("best", "last"):
            in_run = self.checkpoint.parent.name == CHECKPOINTS
            folder = self.checkpoint.parent.parent if in_run else self.checkpoint.parent
        if not os.access(folder, os.W_OK):
            raise RunError(f"the run folder must be writable, got {folder}.")
        self.folder = folder
        self.content = read_checkpoint(self.checkpoint)
        self.step = self.content["global_step"]
        here = run_identity(yaml.safe_load(parser.dump(resolved, skip_unset=False)))
        check_same_network(self.content[RECORD_KEY]["identity"], here)

    def take_replicas(self, replicas: list[dict[str, Any]]) -> None:
        """Tells the evaluation that the run has several learners.

        Args:
            replicas: seed and overrides of each.

        Raises:
            RunError: if one learner is needed.
        """
        if self.command == "predict":
            raise RunError(
                f"predict needs a run of one learner, got {len(replicas)} replicas: take "
                "load_run(PATH, replica=NUMBER) instead."
            )
        self.replicas = replicas

    def make_trainer(self, flags: dict[str, Any], *, model: AnyLearner, data: AnyData) -> Trainer:
        """A Trainer that writes nothing but the result.

        Args:
            flags: the group `trainer`, instantiated.
            model: the learner.
            data: the data module.

        Returns:
            The Trainer, with the user's callbacks.

        Raises:
            RunError: if the Trainer refuses its flags, or the checkpoint's target is another.
        """
        ours = [PredictionsFile(self._predictions())] if self.command == "predict" else []
        flags.update(
            callbacks=[*as_list(flags["callbacks"]), *ours],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            val_check_interval=None,
        )
        trainer = Trainer(**flags)
        data.check_processes(trainer.world_size)
        if self.command == "predict" and trainer.world_size > 1:
            raise RunError(
                f"trainer.devices must be 1 for predict, got {trainer.world_size} processes."
            )
        threads, peers = self.config.run.threads, self.peers
        prepare_launch(trainer, self.words, folder=None, threads=threads, peers=peers)
        # First, or weights of float64 would be rounded.
        trainer.strategy.precision_plugin.convert_module(model)
        load_state(self.content, model=model, data=data)
        self.peers.meet("ready")
        return trainer

    def run(self, trainer: Trainer, *, model: AnyLearner, data: AnyData) -> None:
        """Scores or predicts, and writes the result beside the run.

        Args:
            trainer: from `make_trainer`.
            model: the learner.
            data: the data module.
        """
        task = getattr(trainer, self.command)
        is_predicting = self.command == "predict"
        chosen = {"return_predictions": False} if is_predicting else {"verbose": False}
        with noticing_losses(trainer), stopping_at_once():
            task(model, datamodule=data, **chosen)
        if is_predicting:
            say(f"{self.checkpoint}, step {self.step}: wrote {self._predictions()}")
            return
        if not trainer.is_global_zero:
            return
        scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
        result = {"checkpoint": str(self.checkpoint), "step": self.step, "metrics": scores}
        if isinstance(model, ReplicatedLearner):
            result["replicas"] = [
                {**named, "metrics": each}
                for named, each in zip(self.replicas, model.scores, strict=True)
            ]
        write_json(self.folder / f"{self.command}.json", result)
        settings = self.config.clone()
        settings.pop("config", None)
        text = self.parser.dump(settings, skip_unset=False)
        write_atomically(self.folder / f"config.{self.command}.yaml", str(text))
        show_scores(self.checkpoint, self.step, scores)
        if isinstance(model, ReplicatedLearner):
            seeds = [named["seed"] for named in self.replicas]
            print(whose_medians(seeds, [step is not None for step in model.diverged]))
        say(f"wrote {self.folder / self.command}.json")

    def _predictions(self) -> Path:
        return self.folder / "predictions.npz"
