"""One plain training step of `configs/depth3.yaml`, on a batch that is there."""

import torch

from benchmarks.depth3 import BATCH_SIZE, make_network, make_stream
from bfc_lightning.module import default_optimizer
from bfc_lightning.objectives import regression_loss


def test_plain_step(benchmark):
    stream, network = make_stream(), make_network()
    optimizer = default_optimizer(list(network.parameters()))
    x, y, _ = stream.batch("train", 0, BATCH_SIZE)
    variance = float(stream.target.variance)

    def step():
        loss = regression_loss(network(x), y, label_variance=variance)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.02)
        optimizer.step()
        return loss

    assert benchmark(step).isfinite()
