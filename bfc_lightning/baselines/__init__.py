"""What joint training is set against: learners that need no Trainer."""

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.kernel_ridge import KernelRidge

__all__ = ["Baseline", "KernelRidge", "Task"]
