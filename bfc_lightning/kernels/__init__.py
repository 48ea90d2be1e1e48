"""Closed-form kernels of infinitely wide networks, as pure functions of two sets of points."""

from bfc_lightning.kernels.chains import quadratic_chain_ntk, relu_chain_ntk
from bfc_lightning.kernels.learner import has_positive_readout, learner_ntk, readout_scales

__all__ = [
    "has_positive_readout",
    "learner_ntk",
    "quadratic_chain_ntk",
    "readout_scales",
    "relu_chain_ntk",
]
