"""Targets: the functions that the learner approximates."""

from bfc_lightning.targets.base import LayeredTarget, Target
from bfc_lightning.targets.hierarchical import HierarchicalTarget
from bfc_lightning.targets.paper import HardForKernels, HardForTwoLayers, PaperTarget
from bfc_lightning.targets.sight import Sight
from bfc_lightning.targets.slides import BackwardCorrection, RichRepresentation
from bfc_lightning.targets.staircase import Staircase
from bfc_lightning.targets.three_layer import DepthSeparation, QuadraticFeature, SingleIndex

__all__ = [
    "BackwardCorrection",
    "DepthSeparation",
    "HardForKernels",
    "HardForTwoLayers",
    "HierarchicalTarget",
    "LayeredTarget",
    "PaperTarget",
    "QuadraticFeature",
    "RichRepresentation",
    "Sight",
    "SingleIndex",
    "Staircase",
    "Target",
]
