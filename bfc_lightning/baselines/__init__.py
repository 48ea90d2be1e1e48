"""Baselines to compare joint training with. They are fitted without a Trainer."""

from bfc_lightning.baselines.base import Baseline as Baseline
from bfc_lightning.baselines.base import Task as Task
from bfc_lightning.baselines.kernel_ridge import KernelRidge as KernelRidge
from bfc_lightning.baselines.random_features import RandomFeatures as RandomFeatures
from bfc_lightning.baselines.rfm import RecursiveFeatureMachine as RecursiveFeatureMachine
from bfc_lightning.baselines.sequential import SequentialKernels as SequentialKernels
from bfc_lightning.baselines.spectral import SpectralMethod as SpectralMethod
from bfc_lightning.baselines.tangent import EmpiricalNTK as EmpiricalNTK
from bfc_lightning.baselines.tangent import LearnerNTK as LearnerNTK
from bfc_lightning.baselines.tangent import QuadraticChainNTK as QuadraticChainNTK
from bfc_lightning.baselines.tangent import ReLUChainNTK as ReLUChainNTK
from bfc_lightning.baselines.three_layer import SteppedThreeLayer as SteppedThreeLayer
from bfc_lightning.baselines.three_layer import ThreeLayer as ThreeLayer
from bfc_lightning.baselines.three_layer import TwoLayer as TwoLayer
