"""Measures of what a learner has learned: pure functions of samples in float64."""

from bfc_lightning.measures.correlation import weight_correlation
from bfc_lightning.measures.errors import classification_error, normalized_mse
from bfc_lightning.measures.features import (
    consumed_leakage,
    feature_leakage,
    probe_residuals,
    richness,
    weight_leakage,
)
from bfc_lightning.measures.functions import function_error, monomials, num_monomials
from bfc_lightning.measures.levels import (
    level_components,
    level_residuals,
    level_shares,
    orthogonal_levels,
    truncation_errors,
)
from bfc_lightning.measures.ntk import empirical_ntk, kernel_drift

__all__ = [
    "classification_error",
    "consumed_leakage",
    "empirical_ntk",
    "feature_leakage",
    "function_error",
    "kernel_drift",
    "level_components",
    "level_residuals",
    "level_shares",
    "monomials",
    "normalized_mse",
    "num_monomials",
    "orthogonal_levels",
    "probe_residuals",
    "richness",
    "truncation_errors",
    "weight_correlation",
    "weight_leakage",
]
