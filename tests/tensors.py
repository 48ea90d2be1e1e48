"""Tensors in float64 for tests of mathematics: stated numbers, and draws that never change."""

import torch

from bfc_lightning.seeds import generator


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, name="draw", seed=0):
    """Standard normal numbers of a name and a seed."""
    return torch.randn(*shape, generator=generator(seed, name), dtype=torch.float64)


def perturbed(network):
    """The network in float64, every parameter moved off its start."""
    network = network.double()
    random = generator(0, "perturb")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return network
