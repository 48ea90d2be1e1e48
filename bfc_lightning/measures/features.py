"""Similarity between the layers of the learner and the layers of the target.

Fits use the first half of the rows and are scored on the second half. Non-finite inputs, as from a
diverged learner, give NaN and do not raise.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.measures.rows import Leakage, Probe, Richness
from bfc_lightning.measures.safe_linalg import ratio, row_basis


def probe_residuals(
    learner_features: list[Float[Tensor, "n _m"]], target_features: list[Float[Tensor, "n _k"]]
) -> Float[Tensor, "levels layers"]:
    """Residuals of linear probes of the target's layers on the learner's: `features/residual_l`.

        residual_{i,j} = mean over a of sum_x (G_{i,a} - fit_{i,a})^2 / sum_x (G_{i,a} - mean)^2

    This is 1 - R^2 on the second half of the rows, with the mean of the second half. The fit of G_i
    on F_j is a ridge regression with intercept on the first half. The columns of F_j are
    standardized and constant columns are dropped. The penalty is 1e-6 times the number of fitted
    rows. All levels share one Cholesky factor per learner layer.

    Source: own definition, for "features" in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        learner_features: F_1, F_2, ..., at least one layer.
        target_features: G_1, G_2, ..., at least one level.

    Returns:
        A matrix with one row per target level and one column per learner layer. An entry is 0 if
        the layer determines the level linearly and about 1 if it carries no linear information
        about it. It is NaN if the fit fails numerically, as it can in float32 with dependent
        columns.
    """
    probe = Probe(target_features)
    return torch.stack([probe.of(layer) for layer in learner_features], dim=1)


def probe_residual(
    features: Float[Tensor, "n m"], wanted: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """`probe_residuals` of one layer and one level.

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
    """Variance of a layer outside the target's directions: `features/leakage_l`.

        1 - sum_i Var(fit_i) / sum_i Var(Z_i)

    The fit is the least-squares regression of Z on S, with intercept, on the first half of the
    rows. Both variances are computed on the second half.

    Args:
        preactivations: Z_l of the learner.
        wanted: S_l of the target. Its columns may be constant or linearly dependent.

    Returns:
        0 if Z_l is linear in S_l, 1 if it is constant or independent of S_l.
    """
    return Leakage(wanted).of(preactivations)


def weight_leakage(
    weight: Float[Tensor, "m d"], target_weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Norm of the first layer outside the target's directions: `features/leakage_weights_1`.

        1 - |V P|_F^2 / |V|_F^2

    P is the orthogonal projector onto the row space of W.

    Args:
        weight: V_{1,0}.
        target_weight: W_{1,0}, of any rank.

    Returns:
        0 if every row of V lies in the row space of W, 1 if V is 0 or all rows are orthogonal to
        it.
    """
    projected = weight @ row_basis(target_weight).T
    return 1 - ratio(projected.square().sum(), weight.square().sum())


def consumed_leakage(
    first_weight: Float[Tensor, "m1 d"],
    second_weight: Float[Tensor, "m2 m1"],
    readout: Float[Tensor, " m2"],
    target_weight: Float[Tensor, "k d"],
) -> Float[Tensor, ""]:
    """Leakage in the quadratic forms that layer 2 computes: `features/consumed_leakage_1`.

        Q_i = sum_k V_{2,1}[i,k] V_{1,0}[k]^T V_{1,0}[k]
        1 - sum_i |v_{2,i}| |P Q_i P|_F^2 / sum_i |v_{2,i}| |Q_i|_F^2

    P is the orthogonal projector onto the row space of W_{1,0}. The d x d forms Q_i are never
    computed:

        |Q_i|_F^2 = q_i^T (M * M) q_i,   M = V_{1,0} V_{1,0}^T,   q_i row i of V_{2,1}

    For P Q_i P, V_{1,0} P replaces V_{1,0}. The leakage of a perfect learner is
    certain to be 0 only if all entries of the readout are positive.

    Source: own definition, for the corrected lower layer in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        first_weight: V_{1,0}.
        second_weight: V_{2,1}.
        readout: v_2.
        target_weight: W_{1,0}, of any rank.

    Returns:
        0 if all forms are supported on the row space of W_{1,0}, 1 if none has a part on it.
    """
    inside = _form_energies(first_weight @ row_basis(target_weight).T, second_weight)
    everywhere = _form_energies(first_weight, second_weight)
    return 1 - ratio(readout.abs() @ inside, readout.abs() @ everywhere)


def richness(
    features: Float[Tensor, "n m"], preactivations: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """Number of independent quadratic forms of the target in a layer: `features/richness_l`.

        (sum_i s_i^2)^2 / sum_i s_i^4

    This is the participation ratio of the singular values s of C. C holds the least-squares
    coefficients of the standardized F_l on the k(k+1)/2 products S_a S_b, a <= b, centered and
    whitened. All rows are used.

    Source: own definition, for "rich representation" on the slides of Allen-Zhu and Li.

    Args:
        features: F_l of the learner.
        preactivations: S_l of the target.

    Returns:
        A number from 1, if all neurons depend on the same form, to k(k+1)/2. It is 0 if the
        products explain nothing.
    """
    return Richness(preactivations).of(features)


def _form_energies(
    vectors: Float[Tensor, "m r"], coefficients: Float[Tensor, "forms m"]
) -> Float[Tensor, " forms"]:
    """|sum_k q_k u_k u_k^T|_F^2 for each row q of `coefficients`, u_k the rows of `vectors`."""
    squared = (vectors @ vectors.T).square()
    return (coefficients @ squared * coefficients).sum(dim=1)
