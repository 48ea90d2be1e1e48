"""The problem of `configs/depth3.yaml`, as its parts."""

import torch

from bfc_lightning import DenseNet, Gaussian, HierarchicalTarget, SampleStream

BATCH_SIZE = 512


def make_stream(dtype: torch.dtype = torch.float32) -> SampleStream:
    target = HierarchicalTarget(Gaussian(64), widths=[8, 3, 2], level_scales=0.5, seed=0)
    return SampleStream(target.to(dtype), seed=0)


def make_network() -> DenseNet:
    return DenseNet(64, [128] * 3, level_scales=[1.0, 0.5, 0.25], seed=0)
