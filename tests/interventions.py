"""Callbacks with which tests intervene in a run from outside, by class path."""

import os
import time
from pathlib import Path

import torch
from lightning import Callback

from bfc_lightning import Measure


class SimulatedKillError(BaseException):
    """Ends a run as abruptly as a kill: nothing of ours handles it."""


class RaiseAt(Callback):
    """Raises at the end of a training step, before or after the callbacks that save."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            raise SimulatedKillError


class SignalAt(Callback):
    """Sends the process a signal at the end of a training step."""

    def __init__(self, step: int, signum: int = 2) -> None:
        self.step = step
        self.signum = signum

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.signum)


class StopAt(Callback):
    """Asks for a stop at the end of a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


class PoisonAt(Callback):
    """Makes a weight NaN at a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, *args) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                pl_module.network.constant.fill_(float("nan"))


class Witness(Callback):
    """Writes down which inputs every step has seen: one checksum a step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step} {float(batch.inputs.double().sum())!r}\n")


class Usurper(Measure):
    """A measure under the name of another."""

    def __call__(self, moment) -> dict[str, float]:
        return {"features/residual_1": 0.0}


class GradientWatcher(Callback):
    """Wants to see gradients."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        pass


class MeasureThatSignals(Measure):
    """Sends the process SIGINT when a measure is taken at a step: chunks stay as they are."""

    def __init__(self, call: int, seconds: float = 0.0) -> None:
        self.call = call
        self.seconds = seconds
        self.calls = 0

    def __call__(self, moment) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.call:
            os.kill(os.getpid(), 2)
            time.sleep(self.seconds)
        return {}


class DrawsRecorder(Callback):
    """Writes down the inputs that this process has seen, a file a rank."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(batch.inputs.clone())

    def on_train_end(self, trainer, pl_module) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save(torch.stack(self.seen), self.folder / f"{trainer.global_rank}.pt")


class CollectiveCounter(Callback):
    """Writes down how many collectives of Lightning's and ours there are between two steps."""

    def __init__(self, path: str, first: int, last: int) -> None:
        self.path = Path(path)
        self.first, self.last = first, last
        self.count = 0

    def on_train_start(self, trainer, pl_module) -> None:
        for name in ("broadcast", "all_reduce", "all_gather", "barrier"):
            setattr(torch.distributed, name, self.counted(getattr(torch.distributed, name)))

    def counted(self, collective):
        def call(*args, **kwargs):
            self.count += 1
            return collective(*args, **kwargs)

        return call

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.first:
            self.count = 0
        if trainer.global_step == self.last and trainer.is_global_zero:
            self.path.write_text(str(self.count))


class SignalTheFirst(Callback):
    """Sends the first process alone a signal at the end of a training step."""

    def __init__(self, step: int, signum: int = 15) -> None:
        self.step = step
        self.signum = signum

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            os.kill(os.getpid(), self.signum)


class SleepInTheFirst(Callback):
    """Keeps the first process busy while the others wait for it."""

    def __init__(self, step: int, seconds: float) -> None:
        self.step = step
        self.seconds = seconds

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            time.sleep(self.seconds)


class FailInTheSecond(Callback):
    """Raises in one process only."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step and trainer.global_rank == 1:
            raise LookupError("only here")


class SignalAtStart(Callback):
    """Sends the process a signal before anything is trained or scored."""

    def __init__(self, signum: int = 15) -> None:
        self.signum = signum

    def on_train_start(self, trainer, *args) -> None:
        os.kill(os.getpid(), self.signum)

    def on_test_start(self, trainer, *args) -> None:
        os.kill(os.getpid(), self.signum)


class FailInTheFirst(Callback):
    """Fails in the first process as a tensor operation would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            raise RuntimeError("only here")


class FailInSetup(Callback):
    """Fails as a library would, once the folder is taken."""

    def setup(self, *args, **kwargs) -> None:
        raise RuntimeError("before training")


class FailInTheFirstStep(Callback):
    """Fails once training has begun, before a step is done."""

    def on_train_batch_start(self, *args, **kwargs) -> None:
        raise RuntimeError("before training")
