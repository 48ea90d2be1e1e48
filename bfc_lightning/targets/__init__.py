"""Targets: the functions that the learner approximates."""

from bfc_lightning.targets.base import LayeredTarget as LayeredTarget
from bfc_lightning.targets.base import Target as Target
from bfc_lightning.targets.hierarchical import HierarchicalTarget as HierarchicalTarget
from bfc_lightning.targets.paper import HardForKernels as HardForKernels
from bfc_lightning.targets.paper import HardForTwoLayers as HardForTwoLayers
from bfc_lightning.targets.paper import PaperTarget as PaperTarget
from bfc_lightning.targets.parities import NestedParities as NestedParities
from bfc_lightning.targets.sight import Sight as Sight
from bfc_lightning.targets.slides import BackwardCorrection as BackwardCorrection
from bfc_lightning.targets.slides import RichRepresentation as RichRepresentation
from bfc_lightning.targets.staircase import Staircase as Staircase
from bfc_lightning.targets.three_layer import DepthSeparation as DepthSeparation
from bfc_lightning.targets.three_layer import QuadraticFeature as QuadraticFeature
from bfc_lightning.targets.three_layer import SingleIndex as SingleIndex
