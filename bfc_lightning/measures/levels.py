"""Decomposition of a prediction into the levels of the target.

`levels` are the level outputs o_1, ..., o_L of the target on a sample, one column per level. They
sum to G.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.measures.errors import normalized_mse
from bfc_lightning.measures.safe_linalg import ratio


def orthogonal_levels(levels: Float[Tensor, "n levels"]) -> Float[Tensor, "n levels"]:
    """h_1, ..., h_L: the centered level outputs, orthogonalized in order.

        h_l = o_l - sum_{i<l} h_i <o_l, h_i> / <h_i, h_i>,   o_l the centered output of level l

    A column is 0 if its level is a linear combination of lower levels.

    Source: Gram-Schmidt on the sample.
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
    """g_1, ..., g_L: the components of G along the orthogonalized levels.

        g_l = h_l <G, h_l> / <h_l, h_l>

    They sum to G - E G on the sample.
    """
    orthogonal = orthogonal_levels(levels)
    total = levels.sum(dim=1)
    total = total - total.mean()
    return orthogonal * ratio(total @ orthogonal, orthogonal.square().sum(dim=0))


def level_residuals(
    prediction: Float[Tensor, " n"], levels: Float[Tensor, "n levels"]
) -> Float[Tensor, " levels"]:
    """The part of each level that is missing in a prediction: `levels/residual_l`.

        (E[(f - G) g_l] / E[g_l^2])^2

    It is 0 if level l is learned, and 1 for any constant f.
    """
    components = level_components(levels)
    error = prediction - levels.sum(dim=1)
    return ratio(error @ components, components.square().sum(dim=0)).square()


def varying(levels: Float[Tensor, "n levels"]) -> list[bool]:
    """Returns for each level whether its output is not constant. Only these have a residual."""
    varies: list[bool] = (levels != levels[0]).any(dim=0).tolist()
    return varies


def named_residuals(
    prediction: Float[Tensor, " n"], levels: Float[Tensor, "n levels"]
) -> dict[str, float]:
    """Returns `level_residuals` as `levels/residual_l`, without the levels that are constant."""
    residuals = level_residuals(prediction, levels).tolist()
    return {
        f"levels/residual_{level}": residual
        for level, (residual, varies) in enumerate(zip(residuals, varying(levels), strict=True), 1)
        if varies
    }


def output_errors(
    prediction: Float[Tensor, " n"],
    levels: Float[Tensor, "n one_plus_levels"],
    variance: Float[Tensor, ""],
) -> dict[str, float]:
    """`levels/nmse` and `levels/residual_l` of a prediction.

    Args:
        prediction: f(x).
        levels: the levels of the signal, `Labels.level_signals`.
        variance: Var G.
    """
    nmse = normalized_mse(prediction, levels.sum(dim=1), variance)
    return {"levels/nmse": float(nmse), **named_residuals(prediction, levels[:, 1:])}


def level_shares(levels: Float[Tensor, "n levels"]) -> Float[Tensor, " levels"]:
    """The fraction of Var G due to each level: E[g_l^2] / Var G.

    They sum to 1. g_l is what level l adds to the levels below it, see `level_components`. The last
    one is the least normalized error of a combination of all levels but the last.
    """
    energy = level_components(levels).square().sum(dim=0)
    return energy / energy.sum()


def named_shares(levels: Float[Tensor, "n levels"]) -> dict[str, float]:
    """The variance of each level relative to that of G: `reference/share_l`.

        Var(o_l) / Var(sum_j o_j)

    They sum to 1 only if the levels are uncorrelated.
    """
    shares = (levels.var(dim=0) / levels.sum(dim=1).var()).tolist()
    return {f"reference/share_{level}": share for level, share in enumerate(shares, start=1)}


def truncation_errors(
    levels: Float[Tensor, "n one_plus_levels"],
) -> Float[Tensor, " one_plus_levels"]:
    """Classification error of the score truncated after level 0, 1, ..., L.

    Every level is centered first, so that the threshold remains balanced after truncation. The last
    error is 0.

    Source: "about alpha_l of the examples need level l" (the slides, classification).

    Args:
        levels: the levels of the score, `Labels.level_signals`.
    """
    score = levels.sum(dim=1)
    centered = levels - levels.mean(dim=0) + score.mean() / levels.shape[1]
    partial = centered.cumsum(dim=1)
    wrong = (partial >= 0) != (score >= 0)[:, None]
    errors = wrong.to(levels.dtype).mean(dim=0)
    return torch.cat([errors[:-1], torch.zeros_like(errors[-1:])])
