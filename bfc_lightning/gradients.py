"""Gradients of a DenseNet by hand, and of any other learner by `torch.func`."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bfc_lightning.matmul import Product, as_right_factor

Cut = Literal["none", "features", "readout"]
VJP = Callable[[Tensor], dict[str, Tensor]]
"""Maps the gradient with respect to f(x), shape (n,), to those with respect to the parameters."""


class EvaluatedLayer(NamedTuple):
    """A layer in the backward pass: names of V, b and v, and what it has computed."""

    names: tuple[str, str, str]
    below: Tensor
    feature: Tensor
    readout: Tensor  # s_l v_l
    vjp: Callable[[Tensor], Tensor]  # dF_l to dZ_l


def weight_gradients(
    layers: list[EvaluatedLayer],
    parameters: Mapping[str, Tensor],
    grad: Tensor,
    trained: Collection[str],
    product: Product,
    cut: Cut = "none",
) -> dict[str, Tensor]:
    """dV_l and db_l of the trained layers; see `DenseNet.output_and_vjp`.

    Args:
        layers: the layers, evaluated on n samples.
        parameters: the value of each parameter, by name.
        grad: the gradient with respect to f(x), shape (n,).
        trained: names of the parameters whose gradients are needed.
        product: computes X W + A.
        cut: which gradients are blocked, see `Learner`.

    Returns:
        The gradients by name.
    """
    found: dict[str, Tensor] = {}
    lowest = 0
    while lowest < len(layers) and layers[lowest].names[0] not in trained:
        lowest += 1
    if lowest == len(layers):
        return found
    below = as_right_factor(layers[-1].below, layers[-1].feature.shape[1])
    # dF_l of the layers that remain, side by side
    readouts = [layer.readout for layer in layers[lowest:]]
    if cut == "readout":
        readouts[:-1] = [torch.zeros_like(readout) for readout in readouts[:-1]]
    df = torch.outer(grad, torch.cat(readouts))
    for layer in reversed(layers[lowest:]):
        start = df.shape[1] - layer.feature.shape[1]
        dz, df = layer.vjp(df[:, start:]), df[:, :start]
        if layer.names[0] in trained:
            found[layer.names[0]] = product(dz.mT, below[:, : layer.below.shape[1]])
            found[layer.names[1]] = dz.sum(0)
        if start and cut != "features":
            df = product(dz, parameters[layer.names[0]][:, -start:], df)
    return found


def vjp_by_autodiff(
    network: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, trained: Collection[str]
) -> tuple[Tensor, VJP]:
    """The output of any module and its vector-Jacobian product, by `torch.func`.

    Args:
        network: maps inputs (n, d) to outputs (n,).
        parameters: the value of each parameter, by name.
        x: the inputs.
        trained: names of the parameters whose gradients are needed.

    Returns:
        The output, and the map from the gradient with respect to it to those of the parameters.
    """

    def output(own: dict[str, Tensor]) -> Tensor:
        value: Tensor = torch.func.functional_call(network, {**parameters, **own}, (x,))
        return value

    value, vjp = torch.func.vjp(output, {name: parameters[name] for name in trained})[:2]
    return value, lambda grad: vjp(grad)[0]
