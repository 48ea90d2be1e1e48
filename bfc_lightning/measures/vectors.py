"""Measures of a learner with vector outputs."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.labels import Labels
from bfc_lightning.learners import Learner
from bfc_lightning.measures.battery import Battery
from bfc_lightning.measures.levels import named_residuals, named_shares
from bfc_lightning.targets import Target

Pair = tuple[Float[Tensor, "n _d"], Float[Tensor, "n levels k"]]


def vector_measures(
    prediction: Float[Tensor, "n k"], levels: Float[Tensor, "n levels k"]
) -> dict[str, float]:
    """`levels/mse` and `levels/residual_l`.

    `levels/mse` is E|f - G|^2, the sum over entries. The residuals treat every entry as a sample.

    Args:
        prediction: f(x).
        levels: the level outputs of the target. They sum to G.
    """
    error = (prediction - levels.sum(dim=1)).square().sum(dim=1).mean()
    return {"levels/mse": float(error), **named_residuals(prediction.flatten(), _rows(levels))}


def _rows(levels: Float[Tensor, "n levels k"]) -> Float[Tensor, "n_times_k levels"]:
    return levels.mT.flatten(0, 1)


def _sample(inputs: Tensor, target: Target, labels: Labels, untrained: Learner) -> Pair:
    return inputs, labels.level_signals(target, inputs)[:, 1:]


@torch.no_grad()
def _snapshot(network: Learner, sample: Pair) -> Pair:
    inputs, levels = sample
    return copy.deepcopy(network).to(inputs).evaluate(inputs), levels


VECTOR = Battery(
    _sample,
    _snapshot,
    lambda sample: named_shares(_rows(sample[1])),
    (lambda snapshot: vector_measures(*snapshot),),
)
