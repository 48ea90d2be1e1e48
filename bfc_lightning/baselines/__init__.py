"""What joint training is set against: learners that need no Trainer."""

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.kernel_ridge import KernelRidge
from bfc_lightning.baselines.rfm import RecursiveFeatureMachine
from bfc_lightning.baselines.sequential import SequentialKernels
from bfc_lightning.baselines.spectral import SpectralMethod

__all__ = [
    "Baseline",
    "KernelRidge",
    "RecursiveFeatureMachine",
    "SequentialKernels",
    "SpectralMethod",
    "Task",
]
