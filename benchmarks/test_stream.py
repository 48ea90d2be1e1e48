"""Drawing a batch of `configs/depth3.yaml`."""

from benchmarks.depth3 import BATCH_SIZE, make_stream


def test_draw_a_batch(benchmark):
    stream = make_stream()
    batch = benchmark(stream.batch, "train", 0, BATCH_SIZE)
    assert batch.inputs.shape == (BATCH_SIZE, 64)
