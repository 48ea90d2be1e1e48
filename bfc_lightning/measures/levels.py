"""Levels: how much of each level of the target is in a prediction."""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.measures.safe_linalg import ratio


def orthogonal_levels(levels: Float[Tensor, "n levels"]) -> Float[Tensor, "n levels"]:
    """h_1, ..., h_L: the centered level outputs, each made orthogonal to those below it.

        h_l = o_l - sum_{i<l} h_i <o_l, h_i> / <h_i, h_i>,   o_l the centered output of level l

    Source: Gram-Schmidt on the sample.

    Args:
        levels: the level outputs, one column a level.

    Returns:
        h, columns of mean 0, mutually orthogonal over the sample; 0 where a level is a
        combination of lower ones.
    """
    centered = levels - levels.mean(dim=0)
    done: list[Tensor] = []
    for column in centered.T:
        rest = column
        for lower in done:
            rest = rest - lower * ratio(rest @ lower, lower @ lower)
        small = rest.square().sum() <= 1e-20 * column.square().sum()
        done.append(torch.where(small, torch.zeros_like(rest), rest))
    return torch.stack(done, dim=1)


def level_components(levels: Float[Tensor, "n levels"]) -> Float[Tensor, "n levels"]:
    """g_1, ..., g_L: the parts of G that only level l and up can explain.

        g_l = h_l <G, h_l> / <h_l, h_l>

    They sum to G - E G over the sample.

    Source: ours.

    Args:
        levels: the level outputs of the target, one column a level; they sum to G.

    Returns:
        g, one column a level.
    """
    orthogonal = orthogonal_levels(levels)
    total = levels.sum(dim=1)
    total = total - total.mean()
    return orthogonal * ratio(total @ orthogonal, orthogonal.square().sum(dim=0))


def level_residuals(
    prediction: Float[Tensor, " n"], levels: Float[Tensor, "n levels"]
) -> Float[Tensor, " levels"]:
    """How much of each level is still missing: `levels/residual_l`.

        (E[(f - G) g_l] / E[g_l^2])^2

    Source: ours.

    Args:
        prediction: f(x).
        levels: the level outputs of the target, one column a level; they sum to G.

    Returns:
        One number a level: 0 where the level is learned, 1 for any constant f.
    """
    components = level_components(levels)
    error = prediction - levels.sum(dim=1)
    return ratio(error @ components, components.square().sum(dim=0)).square()


def level_shares(levels: Float[Tensor, "n levels"]) -> Float[Tensor, " levels"]:
    """The share of Var G that each level alone brings: E[g_l^2] / Var G.

    The last one is the normalized error of a learner that has every level but the last.

    Source: ours.

    Args:
        levels: the level outputs of the target, one column a level; they sum to G.

    Returns:
        One number a level; they sum to 1.
    """
    energy = level_components(levels).square().sum(dim=0)
    return energy / energy.sum()


def truncation_errors(
    levels: Float[Tensor, "n one_plus_levels"],
) -> Float[Tensor, " one_plus_levels"]:
    """How often the class is wrong when the score is cut off after level 0, 1, ..., L.

    Every level is centered first, so that cutting off the others leaves a fair threshold.

    Source: "about alpha_l of the examples need level l" (the slides, classification).

    Args:
        levels: the score taken apart, `Labels.level_signals`.

    Returns:
        One error a cut-off; 0 at the last.
    """
    score = levels.sum(dim=1)
    centered = levels - levels.mean(dim=0) + score.mean() / levels.shape[1]
    partial = centered.cumsum(dim=1)
    wrong = (partial >= 0) != (score >= 0)[:, None]
    errors = wrong.to(levels.dtype).mean(dim=0)
    return torch.cat([errors[:-1], torch.zeros_like(errors[-1:])])
