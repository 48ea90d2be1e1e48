"""`bfc fit` as a user runs it, timed between two validations."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from bfc_lightning.experiments.bench.workload import Workload, synchronize
from bfc_lightning.files import write_json
from bfc_lightning.runs.loading import read_summary

STOPPED_BY_SIGNAL = (130, 143)
"""Exit statuses after SIGINT and SIGTERM."""


class FitEnded(Exception):  # noqa: N818, a way to end and no error of the program
    """A timed `bfc fit` did not come to its end.

    Args:
        exit_status: of the command.
    """

    def __init__(self, exit_status: int) -> None:
        super().__init__(f"bfc fit ended with exit status {exit_status}.")
        self.exit_status = exit_status


class StepClock(Callback):
    """Notes the time at the end of every validation, and how many steps there have been.

    It has no hook at steps, so that it changes nothing about them.

    Args:
        path: the file that it leaves: `{"marks": [[step, seconds], ...]}`.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._marks: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the time."""
        synchronize(trainer.strategy.root_device)
        self._marks.append((trainer.global_step, time.perf_counter()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the file."""
        write_json(self.path, {"marks": self._marks})


def per_step(marks: Sequence[tuple[int, float]]) -> float:
    """Seconds per step from the first mark to the last.

    Every interval between has its steps and whatever belongs to them: logging, one validation, one
    checkpoint. What comes before the first mark, start-up and warm-up, is left out.

    Args:
        marks: pairs of steps and seconds, at least two.

    Returns:
        Their quotient.
    """
    (first, started), (last, ended) = marks[0], marks[-1]
    return (ended - started) / (last - first)


class FitRun:
    """`bfc fit` with its defaults: logging, bar, validation, checkpoints.

    Args:
        workload: what is trained; it knows the number of steps.
        words: of the config and what is added to it.
        run_fit: runs `bfc fit` with words, and returns its exit status.
        folder: in which each run gets a folder for as long as it runs.
        num_replicas: learners of a run, each of which takes every step.

    Attributes:
        training_path: `fast` or `plain`, which the last run took.
    """

    def __init__(
        self,
        workload: Workload,
        words: Sequence[str],
        *,
        run_fit: Callable[[Sequence[str]], int],
        folder: Path,
        num_replicas: int = 1,
    ) -> None:
        self.num_replicas = num_replicas
        self.workload = workload
        self.words = list(words)
        self.run_fit = run_fit
        self.folder = folder
        self.training_path: str | None = None

    def seconds_per_step(self) -> float:
        """Runs it once; seconds of a step of one learner.

        Raises:
            FitEnded: if it fails or is stopped.
        """
        clock = f"{StepClock.__module__}.{StepClock.__qualname__}"
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="run-") as root:
            marks = Path(root) / "marks.json"
            words = [*self.words, "--trainer.max_steps", str(self.workload.num_steps)]
            words += ["--model.num_replicas", str(self.num_replicas)]
            words += ["--trainer.devices", "1", "--run.figures", "false", "--run.root", root]
            words += ["--trainer.callbacks+", clock, "--trainer.callbacks.path", str(marks)]
            status = self.run_fit([*words, "--run.name", self.workload.name])
            if status:
                raise FitEnded(status)
            self.training_path = read_summary(Path(root) / self.workload.name)["training_path"]
            content = json.loads(marks.read_text(encoding="utf-8"))
            return per_step(content["marks"]) / self.num_replicas
