"""The training problem of a benchmark, which every contestant trains."""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bfc_lightning import HierarchicalTarget
from bfc_lightning.data import HierarchicalData
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.runs.config import problem_parser, seeded
from bfc_lightning.schedules import make_schedule

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}
_DTYPES = {"32-true": torch.float32, "64-true": torch.float64}


@dataclass(frozen=True)
class Workload:
    """Joint training of a DenseNet with square activations by Adam.

    The samples are fresh and noise-free, and their inputs are standard Gaussian. The bare loops
    repeat no other work: a config that asks for more makes the comparison unfair.
    """

    path: Path
    learner: HierarchicalLearner
    data: HierarchicalData
    device: torch.device
    dtype: torch.dtype
    num_steps: int
    interval: int
    clip_norm: float

    @property
    def num_timed(self) -> int:
        """Steps from the first validation of a run to the last; those before are the warm-up."""
        return (self.num_steps // self.interval - 1) * self.interval

    @property
    def target(self) -> HierarchicalTarget:
        return self.data.target

    @property
    def shape(self) -> tuple[int, int]:
        """Batch size and input dimension."""
        return self.data.batch_size, self.target.input_dim

    def optimizer(self, parameters: list[torch.nn.Parameter]) -> Adam:
        """Fused Adam with the hyperparameters of the config."""
        given = self.learner.make_optimizer(parameters).defaults
        return Adam(parameters, fused=True, **{key: given[key] for key in ("lr", "betas", "eps")})

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The learning rate schedule of the run."""
        assert self.learner.make_schedule is not None
        return make_schedule(self.learner.make_schedule, optimizer, total_steps=self.num_steps)

    def learning_rates(self) -> list[float]:
        """The learning rate of every step of the run."""
        optimizer = self.optimizer([torch.nn.Parameter(torch.zeros(()))])
        schedule = self.schedule(optimizer)
        rates = []
        for _ in range(self.num_steps):
            rates.append(float(schedule.get_last_lr()[0]))
            optimizer.step()
            schedule.step()
        return rates


def read_workload(path: Path, num_steps: int | None = None) -> Workload:
    """Builds the problem of a config of `bfc fit`; `num_steps` replaces `trainer.max_steps`."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    trainer = config.pop("trainer")
    del config["num_measures"]
    num_steps = trainer["max_steps"] if num_steps is None else num_steps
    least = 2 * trainer["val_check_interval"]
    if num_steps < least:
        raise ValueError(f"--steps must be at least {least} for {path.stem}, got {num_steps}.")
    parser = problem_parser()
    problem = parser.instantiate(seeded(parser.parse_object(config), 0))
    device = torch.device(_DEVICES[trainer["accelerator"]])
    dtype = _DTYPES[trainer.get("precision", "32-true")]
    problem.model.to(device=device, dtype=dtype)
    problem.data.target.to(device=device, dtype=dtype)
    return Workload(
        path=path,
        learner=problem.model,
        data=problem.data,
        device=device,
        dtype=dtype,
        num_steps=num_steps,
        interval=trainer["val_check_interval"],
        clip_norm=trainer["gradient_clip_val"],
    )


def synchronize(device: torch.device) -> None:
    """Waits for the kernels that a GPU still has to run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
