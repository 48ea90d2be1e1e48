"""bfc_lightning: an instrument for studying hierarchical learning.

The classes below can be imported from here; each is loaded when it is first asked for, so that
`import bfc_lightning` itself is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bfc_lightning.activations import Huber, Quadratic
    from bfc_lightning.baselines import (
        Baseline,
        EmpiricalNTK,
        KernelRidge,
        LearnerNTK,
        QuadraticChainNTK,
        RandomFeatures,
        RecursiveFeatureMachine,
        ReLUChainNTK,
        SequentialKernels,
        SpectralMethod,
        SteppedThreeLayer,
        ThreeLayer,
        TwoLayer,
    )
    from bfc_lightning.data import HierarchicalData
    from bfc_lightning.distillation import Distillation, PlateauThresholds, TheoremThresholds
    from bfc_lightning.distilled import DistilledNet
    from bfc_lightning.experiments.tables import load_results
    from bfc_lightning.fresh_starts import FreezeBelow, PullBelow
    from bfc_lightning.inputs import Gaussian, GaussianMixture, Hypercube, InputDistribution
    from bfc_lightning.labels import Classification, Regression
    from bfc_lightning.linearized import LinearizedDenseNet
    from bfc_lightning.measures.battery import Measure, Snapshot
    from bfc_lightning.module import HierarchicalLearner
    from bfc_lightning.networks import DenseNet
    from bfc_lightning.runs.loading import load_run
    from bfc_lightning.schedules import OneCycle
    from bfc_lightning.schemes import Joint, Layerwise, Progressive, Scheme
    from bfc_lightning.stream import FiniteStream, SampleStream
    from bfc_lightning.targets import (
        BackwardCorrection,
        DepthSeparation,
        HardForKernels,
        HardForTwoLayers,
        HierarchicalTarget,
        LayeredTarget,
        PaperTarget,
        QuadraticFeature,
        RichRepresentation,
        Sight,
        SingleIndex,
        Staircase,
        Target,
    )

_HOMES = {
    "Huber": "activations",
    "Quadratic": "activations",
    "Baseline": "baselines",
    "KernelRidge": "baselines",
    "TwoLayer": "baselines",
    "ThreeLayer": "baselines",
    "SteppedThreeLayer": "baselines",
    "ReLUChainNTK": "baselines",
    "RandomFeatures": "baselines",
    "QuadraticChainNTK": "baselines",
    "LearnerNTK": "baselines",
    "EmpiricalNTK": "baselines",
    "RecursiveFeatureMachine": "baselines",
    "SequentialKernels": "baselines",
    "SpectralMethod": "baselines",
    "HierarchicalData": "data",
    "Distillation": "distillation",
    "PlateauThresholds": "distillation",
    "TheoremThresholds": "distillation",
    "DistilledNet": "distilled",
    "FreezeBelow": "fresh_starts",
    "PullBelow": "fresh_starts",
    "Gaussian": "inputs",
    "GaussianMixture": "inputs",
    "Hypercube": "inputs",
    "InputDistribution": "inputs",
    "Classification": "labels",
    "Regression": "labels",
    "LinearizedDenseNet": "linearized",
    "Measure": "measures.battery",
    "Snapshot": "measures.battery",
    "HierarchicalLearner": "module",
    "DenseNet": "networks",
    "load_results": "experiments.tables",
    "load_run": "runs.loading",
    "OneCycle": "schedules",
    "Joint": "schemes",
    "Layerwise": "schemes",
    "Progressive": "schemes",
    "Scheme": "schemes",
    "FiniteStream": "stream",
    "SampleStream": "stream",
    "BackwardCorrection": "targets",
    "DepthSeparation": "targets",
    "HardForKernels": "targets",
    "HardForTwoLayers": "targets",
    "HierarchicalTarget": "targets",
    "LayeredTarget": "targets",
    "PaperTarget": "targets",
    "QuadraticFeature": "targets",
    "RichRepresentation": "targets",
    "Sight": "targets",
    "SingleIndex": "targets",
    "Staircase": "targets",
    "Target": "targets",
}

__all__ = [
    "BackwardCorrection",
    "Baseline",
    "Classification",
    "DenseNet",
    "DepthSeparation",
    "Distillation",
    "DistilledNet",
    "EmpiricalNTK",
    "FiniteStream",
    "FreezeBelow",
    "Gaussian",
    "GaussianMixture",
    "HardForKernels",
    "HardForTwoLayers",
    "HierarchicalData",
    "HierarchicalLearner",
    "HierarchicalTarget",
    "Huber",
    "Hypercube",
    "InputDistribution",
    "Joint",
    "KernelRidge",
    "LayeredTarget",
    "Layerwise",
    "LearnerNTK",
    "LinearizedDenseNet",
    "Measure",
    "Snapshot",
    "OneCycle",
    "PaperTarget",
    "PlateauThresholds",
    "Progressive",
    "PullBelow",
    "Quadratic",
    "QuadraticChainNTK",
    "QuadraticFeature",
    "RandomFeatures",
    "ReLUChainNTK",
    "RecursiveFeatureMachine",
    "Regression",
    "RichRepresentation",
    "SampleStream",
    "Scheme",
    "SequentialKernels",
    "Sight",
    "SingleIndex",
    "Staircase",
    "SpectralMethod",
    "SteppedThreeLayer",
    "Target",
    "ThreeLayer",
    "TheoremThresholds",
    "TwoLayer",
    "load_results",
    "load_run",
]


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
