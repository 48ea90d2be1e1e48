"""Baselines to compare joint training with. They are fitted without a Trainer."""

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.kernel_ridge import KernelRidge
from bfc_lightning.baselines.random_features import RandomFeatures
from bfc_lightning.baselines.rfm import RecursiveFeatureMachine
from bfc_lightning.baselines.sequential import SequentialKernels
from bfc_lightning.baselines.spectral import SpectralMethod
from bfc_lightning.baselines.tangent import (
    EmpiricalNTK,
    LearnerNTK,
    QuadraticChainNTK,
    ReLUChainNTK,
)
from bfc_lightning.baselines.three_layer import SteppedThreeLayer, ThreeLayer, TwoLayer

__all__ = [
    "Baseline",
    "EmpiricalNTK",
    "KernelRidge",
    "LearnerNTK",
    "QuadraticChainNTK",
    "RandomFeatures",
    "ReLUChainNTK",
    "RecursiveFeatureMachine",
    "SequentialKernels",
    "SpectralMethod",
    "SteppedThreeLayer",
    "Task",
    "ThreeLayer",
    "TwoLayer",
]
