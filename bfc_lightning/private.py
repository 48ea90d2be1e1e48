"""What the package takes from inside Lightning and jsonargparse, which they may change.

Every private attribute of theirs that it uses, and the wording of jsonargparse's errors.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, get_args

from jsonargparse import ArgumentParser, _typehints
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

# Lines of jsonargparse's messages that say nothing to a user.
_NOISE = re.compile(
    r"^(Does not validate|Subtypes:|Errors:|- Expected a <class 'NoneType'>|Given value type:|"
    r"- Expected a path but|-\s+Unable to load config|Given value: \[?Namespace\(|"
    r"- Does not validate|- Expected a dot import path|Subclass types expect one of|"
    r"- a (class path \(str|dict with(out class_path but with init_args entry|"
    r" class_path entry| parameters accepted by)))"
)
_REPEATED = re.compile(
    r"Type .* expects a function or a callable class: |, got NestedArg\(.*|\[Errno \d+\] |"
    r"\. Got value: Namespace\(.*|"
    r"Problem with given class_path '[\w.]+':"
)


def forget_init_args_of_another_class() -> None:
    """Keeps jsonargparse from passing arguments of the same name on to another class."""
    _typehints.discard_init_args_on_class_path_change = _discard_all


def _discard_all(parser: object, earlier: Any, value: Any) -> None:  # noqa: ANN401
    if earlier and "init_args" in earlier and earlier["class_path"] != value["class_path"]:
        earlier["init_args"] = type(earlier)()


def keys_without_null(parser: ArgumentParser) -> list[str]:
    """The keys that must have a value; jsonargparse takes null for one of any type."""
    hints = {each.dest: getattr(each, "_typehint", None) for each in parser._actions}
    return [key for key, hint in hints.items() if hint and type(None) not in get_args(hint)]


def add_hyperparameters(
    writer: SummaryWriter, settings: dict[str, Any], metrics: Sequence[str]
) -> None:
    """Fills TensorBoard's HParams tab; its public method would begin another folder."""
    for summary in hparams(settings, dict.fromkeys(metrics, 0.0)):  # type: ignore[no-untyped-call]
        writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def one_line(error: BaseException | str, longest: int = 600) -> str:
    """A message in one line, without the lines in which jsonargparse repeats itself."""
    lines = [line.strip() for line in str(error).splitlines()]
    if any("Problem with given class_path" in line for line in lines):  # that is the reason
        lines = [line for line in lines if not line.startswith("- Not a valid subclass of")]
    text = " ".join(line for line in lines if line and not _NOISE.match(line))
    text = _REPEATED.sub("", text)
    text = re.sub(r"[Ee]xpected a typing\.Literal\[(.*?)\]", r"expected one of \1", text)
    text = re.sub(r"Import path .*does not correspond to", "must be", text)
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"\s*Given value:", ", got", re.sub(r"(^|\s)- ", "; ", text).strip("; "))
    return text if len(text) <= longest else f"{text[:longest]} ..."


def leave_signals_alone(trainer: Trainer) -> None:
    """Keeps Lightning from handling signals, and from a broadcast at every batch for them."""
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False  # saves in the middle of a step


def _nothing() -> None:
    """Replaces a handler."""


def stops_early_next(trainer: Trainer) -> bool:
    """Whether the loop is about to end, which runs a validation first."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def log_interval(trainer: Trainer) -> int:
    """`trainer.log_every_n_steps`, which Lightning sets without declaring it."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def detects_anomalies(trainer: Trainer) -> bool:
    """`trainer.detect_anomaly`."""
    return trainer._detect_anomaly


def shares_gradients_differently(strategy: Strategy) -> bool:
    """Whether processes do not just average their gradients after every step."""
    if not isinstance(strategy, DDPStrategy):
        return False
    return bool(strategy._ddp_comm_hook or strategy._model_averaging_period)


def saves_at_times(callback: ModelCheckpoint) -> bool:
    """Whether `train_time_interval` is set."""
    return callback._train_time_interval is not None


def count_steps(trainer: Trainer, steps: int) -> None:
    """Counts optimizer steps taken within one training step, as steps and as batches.

    `global_step` and intervals therefore have the same meaning with every engine. Lightning's loop
    counts one batch by itself.
    """
    loop = trainer.fit_loop.epoch_loop
    taken = [
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ]
    for progress in taken:
        for counter in (progress.total, progress.current):
            counter.ready += steps
            counter.completed += steps
    for counter in (loop.batch_progress.total, loop.batch_progress.current):
        for stage in ("ready", "started", "processed", "completed"):
            setattr(counter, stage, getattr(counter, stage) + steps - 1)
    loop._batches_that_stepped += steps - 1


def count_stored_steps(checkpoint: dict[str, Any]) -> None:
    """Copies the step count of a checkpoint to the counter that manual optimization reads.

    Callbacks read `global_step` before Lightning restores the counters.
    """
    if "loops" in checkpoint:
        counters = checkpoint["loops"]["fit_loop"]
        taken = counters["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        counters["epoch_loop.manual_optimization.optim_step_progress"]["total"] = dict(
            taken["total"]
        )


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, whose children run the same bfc command.

    Lightning's own runs `sys.argv`, which is another program if `main` is called from Python.
    """

    argv: Sequence[str] = ()

    def _call_children_scripts(self) -> None:
        """Starts the other processes; their variables do not stay in this one."""
        environment = {
            **os.environ,
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
        }
        command = [sys.executable, "-m", "bfc_lightning", *self.argv]
        self.procs = [
            subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)})
            for rank in range(1, self.num_processes)
        ]

    def close(self) -> None:
        """Ends the other processes and forgets their address, so that another run can follow."""
        for process in self.procs:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def use_launcher(trainer: Trainer, argv: Sequence[str]) -> None:
    """Replaces Lightning's launcher, if there is one, by ours."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = Launcher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )
        trainer.strategy._launcher.argv = argv
