"""Features: how far each layer of the learner has come towards the target's layer.

Where something is fitted, it is fitted on the first half of the rows and scored on the second.
Numbers that are not finite, in a learner that diverged, come out as NaN and never as an error.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.measures.safe_linalg import inverse_std, ratio, row_basis, whitening

_RIDGE = 1e-6

_BLOCK = 1024
"""Rows that are centered at once; a centered copy of all rows costs more than the products."""


def probe_residuals(
    learner_features: list[Float[Tensor, "n _m"]], target_features: list[Float[Tensor, "n _k"]]
) -> Float[Tensor, "levels layers"]:
    """How much of the target's layers cannot be read off the learner's: `features/residual_l`.

        residual_{i,j} = mean over a of sum_x (G_{i,a} - fit_{i,a})^2 / sum_x (G_{i,a} - mean)^2

    that is 1 - R^2 on the second half of the rows, about the second half's own mean. The fit of
    G_i on F_j is a ridge regression with intercept on the first half: columns of F_j standardized
    there (constant ones dropped), ridge 1e-6 times the number of rows fitted. One Cholesky factor a
    learner layer serves all levels.

    Source: ours, for "features" in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        learner_features: F_1, F_2, ..., at least one layer.
        target_features: G_1, G_2, ..., at least one level.

    Returns:
        Levels of the target by layers of the learner: 0 where the level can be read off the layer,
        about 1 where nothing of it can. NaN where rounding makes the fit impossible, as dependent
        columns do in float32.
    """
    wanted = torch.cat(target_features, dim=1)
    residuals = torch.stack([_unexplained(layer, wanted) for layer in learner_features], dim=1)
    levels = torch.split(residuals, [level.shape[1] for level in target_features])
    return torch.stack([level.mean(dim=0) for level in levels])


def probe_residual(
    features: Float[Tensor, "n m"], wanted: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """`probe_residuals` of one layer for one level.

    Source: ours.

    Args:
        features: F_j.
        wanted: G_i.

    Returns:
        1 - R^2, averaged over the k columns.
    """
    return probe_residuals([features], [wanted])[0, 0]


def feature_leakage(
    preactivations: Float[Tensor, "n m"], wanted: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """How much of a layer lies outside the target's directions: `features/leakage_l`.

        1 - sum_i Var(fit_i) / sum_i Var(Z_i)

    fit is least squares with intercept of Z on S over the first half of the rows; both variances
    are over the second.

    Source: ours.

    Args:
        preactivations: Z_l of the learner.
        wanted: S_l of the target; its columns may be constant or dependent.

    Returns:
        0 where Z_l is linear in S_l; 1 where it is independent of it, or constant.
    """
    half = len(wanted) // 2
    mean = wanted[:half].mean(dim=0)
    fitted, scored = wanted[:half] - mean, wanted[half:] - wanted[half:].mean(dim=0)
    root = whitening(fitted.T @ fitted / half, mean)
    coefficients = root @ (root.T @ (fitted.T @ preactivations[:half] / half))
    explained = (coefficients * (scored.T @ scored @ coefficients)).sum() / len(scored)
    total = _variances(preactivations[half:], preactivations[half:].mean(dim=0)).sum()
    return 1 - ratio(explained, total)


def weight_leakage(
    weight: Float[Tensor, "m d"], target_weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """How much of the first layer lies outside the target's: `features/leakage_weights_1`.

        1 - |V P|_F^2 / |V|_F^2

    with P the orthogonal projector on the rows of W.

    Source: ours.

    Args:
        weight: V_{1,0}.
        target_weight: W_{1,0}, of any rank.

    Returns:
        0 where every neuron lies in the row space of W; 1 where all are orthogonal to it, or 0.
    """
    projected = weight @ row_basis(target_weight).T
    return 1 - ratio(projected.square().sum(), weight.square().sum())


def consumed_leakage(
    first_weight: Float[Tensor, "m1 d"],
    second_weight: Float[Tensor, "m2 m1"],
    readout: Float[Tensor, " m2"],
    target_weight: Float[Tensor, "k d"],
) -> Float[Tensor, ""]:
    """How much layer 2 reads outside the target's directions: `features/consumed_leakage_1`.

        Q_i = sum_k V_{2,1}[i,k] V_{1,0}[k]^T V_{1,0}[k]
        1 - sum_i |v_{2,i}| |P Q_i P|_F^2 / sum_i |v_{2,i}| |Q_i|_F^2

    with P the orthogonal projector on the rows of W_{1,0}. The d x d forms Q_i are never formed:

        |Q_i|_F^2 = q_i^T (M * M) q_i,   M = V_{1,0} V_{1,0}^T,   q_i row i of V_{2,1}

    and with V_{1,0} P in the place of V_{1,0} for P Q_i P. Must vanish only where the readout is
    all positive.

    Source: ours, for the corrected lower layer in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        first_weight: V_{1,0}.
        second_weight: V_{2,1}.
        readout: v_2.
        target_weight: W_{1,0}, of any rank.

    Returns:
        0 where all that is read lies in the target's span; 1 where nothing does.
    """
    inside = _form_energies(first_weight @ row_basis(target_weight).T, second_weight)
    everywhere = _form_energies(first_weight, second_weight)
    return 1 - ratio(readout.abs() @ inside, readout.abs() @ everywhere)


def richness(
    features: Float[Tensor, "n m"], preactivations: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """How many independent quadratic forms of the target a layer shows: `features/richness_l`.

        (sum_i s_i^2)^2 / sum_i s_i^4

    the participation ratio of the singular values s of C, the least-squares coefficients of the
    standardized F_l on the k(k+1)/2 products S_a S_b, a <= b, centered and whitened. Over all rows.

    Source: ours, for "rich representation" on the slides of Allen-Zhu and Li.

    Args:
        features: F_l of the learner.
        preactivations: S_l of the target.

    Returns:
        From 1 (all neurons show the same form) to k(k+1)/2; 0 where nothing is explained.
    """
    count, mean = preactivations.shape[1], features.mean(dim=0)
    pairs = [preactivations[:, a : a + 1] * preactivations[:, a:] for a in range(count)]
    products = torch.cat(pairs, dim=1)
    product_mean = products.mean(dim=0)
    products = products - product_mean
    root = whitening(products.T @ products / len(products), product_mean)
    scale = inverse_std(mean, _variances(features, mean))
    coefficients = root.T @ (products.T @ features * scale) / len(products)
    squared = coefficients @ coefficients.T
    return ratio(squared.trace().square(), squared.square().sum())


def _unexplained(
    features: Float[Tensor, "n m"], wanted: Float[Tensor, "n k"]
) -> Float[Tensor, " k"]:
    """1 - R^2 of each wanted column, see `probe_residuals`."""
    half = len(features) // 2
    mean, wanted_mean = features[:half].mean(dim=0), wanted[:half].mean(dim=0)
    gram, covariance = _centered_products(features[:half], mean, wanted[:half] - wanted_mean)
    scale = inverse_std(mean, gram.diagonal() / half)
    penalty = torch.full_like(mean, _RIDGE * half).diag()
    factor, failed = torch.linalg.cholesky_ex(scale[:, None] * gram * scale + penalty)
    factor = torch.where(failed == 0, factor, torch.nan)
    slope = scale[:, None] * torch.cholesky_solve((covariance * scale).T, factor)
    rest = wanted[half:] - wanted_mean - (features[half:] @ slope - mean @ slope)
    spread = wanted[half:] - wanted[half:].mean(dim=0)
    return ratio(rest.square().sum(dim=0), spread.square().sum(dim=0))


def _centered_products(
    features: Float[Tensor, "n m"], mean: Float[Tensor, " m"], wanted: Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "m m"], Float[Tensor, "k m"]]:
    """C^T C and wanted^T C, where C is `features` less their mean, in blocks of rows."""
    gram, covariance = mean.new_zeros(()), mean.new_zeros(())
    blocks = zip(torch.split(features, _BLOCK), torch.split(wanted, _BLOCK), strict=True)
    for rows, wanted_rows in blocks:
        centered = rows - mean
        gram = gram + centered.T @ centered
        covariance = covariance + wanted_rows.T @ centered
    return gram, covariance


def _variances(features: Float[Tensor, "n m"], mean: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The variance of each column, in blocks of rows."""
    energies = [(rows - mean).square().sum(dim=0) for rows in torch.split(features, _BLOCK)]
    return torch.stack(energies).sum(dim=0) / len(features)


def _form_energies(
    vectors: Float[Tensor, "m r"], coefficients: Float[Tensor, "forms m"]
) -> Float[Tensor, " forms"]:
    """|sum_k q_k u_k u_k^T|_F^2 for each row q, with u_k the rows of `vectors`."""
    squared = (vectors @ vectors.T).square()
    return (coefficients @ squared * coefficients).sum(dim=1)
