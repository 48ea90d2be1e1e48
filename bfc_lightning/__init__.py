"""bfc_lightning: an instrument for studying hierarchical learning.

The classes below can be imported from here; each is loaded when it is first asked for, so that
`import bfc_lightning` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bfc_lightning.activations import Huber as Huber
    from bfc_lightning.activations import Quadratic as Quadratic
    from bfc_lightning.baselines import Baseline as Baseline
    from bfc_lightning.baselines import EmpiricalNTK as EmpiricalNTK
    from bfc_lightning.baselines import KernelRidge as KernelRidge
    from bfc_lightning.baselines import LearnerNTK as LearnerNTK
    from bfc_lightning.baselines import QuadraticChainNTK as QuadraticChainNTK
    from bfc_lightning.baselines import RandomFeatures as RandomFeatures
    from bfc_lightning.baselines import RecursiveFeatureMachine as RecursiveFeatureMachine
    from bfc_lightning.baselines import ReLUChainNTK as ReLUChainNTK
    from bfc_lightning.baselines import SequentialKernels as SequentialKernels
    from bfc_lightning.baselines import SpectralMethod as SpectralMethod
    from bfc_lightning.baselines import SteppedThreeLayer as SteppedThreeLayer
    from bfc_lightning.baselines import ThreeLayer as ThreeLayer
    from bfc_lightning.baselines import TwoLayer as TwoLayer
    from bfc_lightning.data import HierarchicalData as HierarchicalData
    from bfc_lightning.distillation import Distillation as Distillation
    from bfc_lightning.distillation import PlateauThresholds as PlateauThresholds
    from bfc_lightning.distillation import TheoremThresholds as TheoremThresholds
    from bfc_lightning.distilled import DistilledNet as DistilledNet
    from bfc_lightning.experiments.tables import load_results as load_results
    from bfc_lightning.fresh_starts import FreezeBelow as FreezeBelow
    from bfc_lightning.fresh_starts import PullBelow as PullBelow
    from bfc_lightning.inputs import Gaussian as Gaussian
    from bfc_lightning.inputs import GaussianMixture as GaussianMixture
    from bfc_lightning.inputs import Hypercube as Hypercube
    from bfc_lightning.inputs import InputDistribution as InputDistribution
    from bfc_lightning.labels import Classification as Classification
    from bfc_lightning.labels import Regression as Regression
    from bfc_lightning.linearized import LinearizedDenseNet as LinearizedDenseNet
    from bfc_lightning.measures.battery import Measure as Measure
    from bfc_lightning.measures.battery import Snapshot as Snapshot
    from bfc_lightning.module import HierarchicalLearner as HierarchicalLearner
    from bfc_lightning.networks import DenseNet as DenseNet
    from bfc_lightning.residual import ChainNet as ChainNet
    from bfc_lightning.residual import ResidualNet as ResidualNet
    from bfc_lightning.runs.loading import load_run as load_run
    from bfc_lightning.schedules import OneCycle as OneCycle
    from bfc_lightning.schemes import Joint as Joint
    from bfc_lightning.schemes import Layerwise as Layerwise
    from bfc_lightning.schemes import Progressive as Progressive
    from bfc_lightning.schemes import Scheme as Scheme
    from bfc_lightning.stream import FiniteStream as FiniteStream
    from bfc_lightning.stream import SampleStream as SampleStream
    from bfc_lightning.targets import BackwardCorrection as BackwardCorrection
    from bfc_lightning.targets import DepthSeparation as DepthSeparation
    from bfc_lightning.targets import HardForKernels as HardForKernels
    from bfc_lightning.targets import HardForTwoLayers as HardForTwoLayers
    from bfc_lightning.targets import HierarchicalTarget as HierarchicalTarget
    from bfc_lightning.targets import LayeredTarget as LayeredTarget
    from bfc_lightning.targets import NestedParities as NestedParities
    from bfc_lightning.targets import PaperTarget as PaperTarget
    from bfc_lightning.targets import QuadraticFeature as QuadraticFeature
    from bfc_lightning.targets import RichRepresentation as RichRepresentation
    from bfc_lightning.targets import Sight as Sight
    from bfc_lightning.targets import SingleIndex as SingleIndex
    from bfc_lightning.targets import Staircase as Staircase
    from bfc_lightning.targets import Target as Target

_NAMES = {
    "activations": "Huber Quadratic",
    "baselines": "Baseline EmpiricalNTK KernelRidge LearnerNTK QuadraticChainNTK RandomFeatures "
    "ReLUChainNTK RecursiveFeatureMachine SequentialKernels SpectralMethod SteppedThreeLayer "
    "ThreeLayer TwoLayer",
    "data": "HierarchicalData",
    "distillation": "Distillation PlateauThresholds TheoremThresholds",
    "distilled": "DistilledNet",
    "experiments.tables": "load_results",
    "fresh_starts": "FreezeBelow PullBelow",
    "inputs": "Gaussian GaussianMixture Hypercube InputDistribution",
    "labels": "Classification Regression",
    "linearized": "LinearizedDenseNet",
    "measures.battery": "Measure Snapshot",
    "module": "HierarchicalLearner",
    "networks": "DenseNet",
    "residual": "ChainNet ResidualNet",
    "runs.loading": "load_run",
    "schedules": "OneCycle",
    "schemes": "Joint Layerwise Progressive Scheme",
    "stream": "FiniteStream SampleStream",
    "targets": "BackwardCorrection DepthSeparation HardForKernels HardForTwoLayers "
    "HierarchicalTarget LayeredTarget NestedParities PaperTarget QuadraticFeature "
    "RichRepresentation Sight SingleIndex Staircase Target",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used.

    Raises:
        AttributeError: if there is no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
