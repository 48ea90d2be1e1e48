"""One call of all measures, as a run of `configs/depth3.yaml` makes about thirty."""

import torch

from bfc_lightning import DenseNet, Gaussian, HierarchicalTarget, SampleStream
from bfc_lightning.callbacks.measurements import NUM_SAMPLES
from bfc_lightning.measures.battery import MEASURES, take_sample, take_snapshot


def test_all_measures(benchmark):
    target = HierarchicalTarget(Gaussian(64), widths=[8, 3, 2], level_scales=0.5, seed=0)
    stream = SampleStream(target.double(), seed=0)
    network = DenseNet(64, [128] * 3, level_scales=[1.0, 0.5, 0.25], seed=0)
    inputs = stream.batch("measure", 0, NUM_SAMPLES).inputs
    sample = take_sample(inputs, stream.target, stream.labels, network)

    @torch.no_grad()
    def measure():
        moment = take_snapshot(network, sample)
        return {name: value for take in MEASURES for name, value in take(moment).items()}

    assert "features/residual_3" in benchmark(measure)
