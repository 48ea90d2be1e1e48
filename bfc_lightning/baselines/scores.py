"""Scores of baselines, by the same measures as for networks."""

from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, in_chunks
from bfc_lightning.measures.errors import normalized_mse
from bfc_lightning.measures.features import named_probes, probe_residuals
from bfc_lightning.measures.levels import named_residuals
from bfc_lightning.measures.vectors import vector_measures
from bfc_lightning.targets import LayeredTarget, Target
from bfc_lightning.types import Batch


def error_of(baseline: Baseline, samples: Batch, variance: Float[Tensor, ""]) -> float:
    """E(f - G)^2 / Var G of a fitted baseline over samples. NaN if a prediction is NaN."""
    predictions = in_chunks(baseline.predict, samples.inputs)
    return float(normalized_mse(predictions, samples.signal, variance))


def measures_of(
    baseline: Baseline, target: Target, inputs: Float[Tensor, "n d"]
) -> dict[str, float]:
    """`levels/residual_l`; `features/residual_l` and `probe_i_j` if there are features.

    See `measures.levels` and `measures.features`, and `measures.vectors` for vector values.

    Args:
        baseline: a fitted baseline.
        target: G, float64.
        inputs: the points at which to evaluate.
    """
    predictions = in_chunks(baseline.predict, inputs)
    if target.output_shape:
        return vector_measures(predictions, target.level_outputs(inputs))
    named = named_residuals(predictions, target.level_outputs(inputs))
    features = baseline.features(inputs)
    if not features or not isinstance(target, LayeredTarget):
        return named
    residuals = probe_residuals(features, target.features(inputs))
    return {**named, **named_probes(residuals.T.tolist())}
