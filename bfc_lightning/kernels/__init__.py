"""Tangent kernels of infinitely wide networks, as pure functions of two sets of points."""

from bfc_lightning.kernels.chains import quadratic_chain_ntk as quadratic_chain_ntk
from bfc_lightning.kernels.chains import relu_chain_ntk as relu_chain_ntk
