"""Figures of a run, drawn from its logged metrics."""

from bfc_lightning.figures.curves import learning_curves
from bfc_lightning.figures.features import (
    feature_residuals,
    leakages,
    procrustes_distances,
)
from bfc_lightning.figures.matrices import probe_heat_maps, quadratic_forms
from bfc_lightning.figures.style import COLORS, MARKERS, bands, draw_band, own_style, series

__all__ = [
    "COLORS",
    "MARKERS",
    "bands",
    "draw_band",
    "feature_residuals",
    "leakages",
    "learning_curves",
    "own_style",
    "probe_heat_maps",
    "procrustes_distances",
    "quadratic_forms",
    "series",
]
