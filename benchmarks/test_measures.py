"""One call of all measures, as a run of `configs/depth3.yaml` makes about thirty."""

import torch

from benchmarks.depth3 import make_network, make_stream
from bfc_lightning.callbacks.measurements import NUM_SAMPLES
from bfc_lightning.measures.battery import MEASURES, take_sample, take_snapshot


def test_all_measures(benchmark):
    stream, network = make_stream(torch.float64), make_network()
    inputs = stream.batch("measure", 0, NUM_SAMPLES).inputs
    sample = take_sample(inputs, stream.target, stream.labels, network)

    @torch.no_grad()
    def measure():
        moment = take_snapshot(network, sample)
        return {name: value for take in MEASURES for name, value in take(moment).items()}

    assert "features/residual_3" in benchmark(measure)
