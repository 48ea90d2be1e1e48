"""The products of a step, counted by hand, and what PyTorch counts itself."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bfc_lightning.experiments.bench.limit import Product, step_products
from bfc_lightning.networks import DenseNet


def test_flops_of_a_product_worked_by_hand():
    assert Product("forward 1", rows=3, inner=5, columns=7).flops == 210


def test_products_of_two_layers_worked_by_hand():
    products = step_products(20, [32, 16], batch_size=128)
    assert [(product.what, product.flops) for product in products] == [
        ("forward 1", 2 * 128 * 20 * 32),
        ("weights 1", 2 * 128 * 20 * 32),
        ("forward 2", 2 * 128 * 52 * 16),
        ("weights 2", 2 * 128 * 52 * 16),
        ("features 2", 2 * 128 * 32 * 16),
    ]
    assert sum(product.flops for product in products) == 884_736


@pytest.mark.parametrize("widths", [[8], [8, 6], [8, 6, 4]])
def test_count_is_pytorchs_own_but_for_vectors_and_gradients_of_the_inputs(widths):
    dim, size = 10, 32
    network = DenseNet(dim, widths, train_readout=False)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(size, dim, generator=torch.Generator().manual_seed(0))).sum().backward()
    ours = sum(product.flops for product in step_products(dim, widths, size))
    # autograd also multiplies into the columns of x, from the second layer on
    of_inputs = sum(2 * size * width * dim for width in widths[1:])
    counts = counter.get_flop_counts()["Global"]
    products = sum(
        flops for kind, flops in counts.items() if str(kind) in ("aten.mm", "aten.addmm")
    )
    assert products == ours + of_inputs
