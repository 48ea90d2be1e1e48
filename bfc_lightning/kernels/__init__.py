"""Tangent kernels of infinitely wide networks, as pure functions of two sets of points."""
