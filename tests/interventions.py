"""Callbacks, measures and loggers with which tests intervene in a run, by class path."""

import builtins
import os
import time
from pathlib import Path

import numpy as np
import torch
from lightning import Callback

from bfc_lightning import Measure
from bfc_lightning.callbacks.interruption import Interruption


class SimulatedKillError(BaseException):
    """Ends a run as abruptly as a kill: nothing of ours handles it."""


class AtStep(Callback):
    """Acts at the end of a training step, in every process or in that of a rank."""

    def __init__(self, step: int, rank: int | None = None) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.act(trainer)


class RaiseAt(AtStep):
    """Kills the run, before or after the callbacks that save."""

    def act(self, trainer) -> None:
        raise SimulatedKillError


class SignalAt(AtStep):
    """Sends the process a signal."""

    def __init__(self, step: int, signum: int = 2, rank: int | None = None) -> None:
        super().__init__(step, rank)
        self.signum = signum

    def act(self, trainer) -> None:
        os.kill(os.getpid(), self.signum)


class FailAt(AtStep):
    """Raises an exception by name, and in every evaluation."""

    def __init__(self, step: int, error: str = "RuntimeError", message: str = "a bug") -> None:
        super().__init__(step)
        self.error = getattr(builtins, error)(message)

    def act(self, trainer) -> None:
        raise self.error

    def setup(self, trainer, pl_module, stage: str) -> None:
        if stage != "fit":
            raise self.error


class WaitAt(AtStep):
    """Touches a file, and waits until another file appears or the run has got a signal."""

    def __init__(self, step: int, ready: str, go: str) -> None:
        super().__init__(step)
        self.ready, self.go = Path(ready), Path(go)

    def act(self, trainer) -> None:
        self.ready.touch()
        (stop,) = (each for each in trainer.callbacks if isinstance(each, Interruption))
        deadline = time.monotonic() + 60
        while not self.go.exists() and not stop.signum and time.monotonic() < deadline:
            time.sleep(0.01)


class NumPyState(Callback):
    """Has a state that PyTorch does not read without running code."""

    def state_dict(self) -> dict:
        return {"best": np.float64(1.5)}


class SleepAlways(Callback):
    """Makes every step take a time that no machine makes shorter."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *args) -> None:
        time.sleep(self.seconds)


class StopAt(AtStep):
    """Asks for a stop."""

    def act(self, trainer) -> None:
        trainer.should_stop = True


class PoisonAt(Callback):
    """Makes a weight NaN at a training step, of one replica if there are several."""

    def __init__(self, step: int, replica: int = 0) -> None:
        self.step = step
        self.replica = replica

    def on_train_batch_start(self, trainer, pl_module, *args) -> None:
        if trainer.global_step == self.step:
            learner = pl_module.each[self.replica]
            with torch.no_grad():
                learner.network.constant.fill_(float("nan"))


class WeightsAt(Callback):
    """Saves the weights just before a training step."""

    def __init__(self, step: int, path: str) -> None:
        self.step = step
        self.path = path

    def on_train_batch_start(self, trainer, pl_module, *args) -> None:
        if trainer.global_step == self.step:
            torch.save(pl_module.state_dict(), self.path)


class FailInSetup(Callback):
    """Fails after the run folder was made."""

    def setup(self, *args, **kwargs) -> None:
        raise RuntimeError("before training")


class FailInTheFirstStep(Callback):
    """Fails in the first training step."""

    def on_train_batch_start(self, *args, **kwargs) -> None:
        raise RuntimeError("before training")


class GradientWatcher(Callback):
    """Implements a hook that only autograd calls."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        pass


class Witness(Callback):
    """Writes a checksum of the inputs of every step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step} {float(batch.inputs.double().sum())!r}\n")


class DuplicateMeasure(Measure):
    """A measure under the name of another."""

    def __call__(self, snapshot) -> dict[str, float]:
        return {"features/residual_1": 0.0}


class MeasureThatSignals(Measure):
    """Sends the process SIGINT at one of its calls, without a callback that ends every chunk."""

    def __init__(self, call: int) -> None:
        self.call = call
        self.calls = 0

    def __call__(self, snapshot) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.call:
            os.kill(os.getpid(), 2)
        return {}


def uncompilable(z: torch.Tensor) -> torch.Tensor:
    """z^2, by Python code that reads a tensor and therefore cannot be traced."""
    return z * z if float(z.detach().abs().max()) < 1e30 else z


class DrawsRecorder(Callback):
    """Saves the inputs that this process has seen, in one file per rank."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(batch.inputs.clone())

    def on_train_end(self, trainer, pl_module) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save(torch.stack(self.seen), self.folder / f"{trainer.global_rank}.pt")


class CollectiveCounter(Callback):
    """Writes the number of collective operations between two steps."""

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
