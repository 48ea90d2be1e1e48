"""Measures of the learner with distillation: its features S_l, and the gap between K and W."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.distilled import DistilledNet
from bfc_lightning.labels import Labels
from bfc_lightning.measures.battery import Battery
from bfc_lightning.measures.levels import named_shares, output_errors
from bfc_lightning.measures.safe_linalg import ratio
from bfc_lightning.targets import LayeredTarget, Target


def procrustes(wanted: Float[Tensor, "n a"], learned: Float[Tensor, "n b"]) -> Float[Tensor, ""]:
    """Distance of features up to a rotation: `features/procrustes_raw_l`.

        min over orthogonal U of E |S* - U S|^2 = E |S*|^2 + E |S|^2 - 2 sum_i s_i

    s are the singular values of E S* S^T. The narrower of the two is padded with zeros.

    Args:
        wanted: S* of the target.
        learned: S of the learner.
    """
    count = len(wanted)
    if not (wanted.isfinite().all() and learned.isfinite().all()):
        return wanted.new_full((), torch.nan)
    energies = (wanted.square().sum() + learned.square().sum()) / count
    overlap = torch.linalg.svdvals(wanted.T @ learned / count).sum()
    distance: Tensor = energies - 2 * overlap
    return distance.clamp(min=0)


def gram_gap(narrow: Float[Tensor, "k q"], wide: Float[Tensor, "m q"]) -> Float[Tensor, ""]:
    """Distance of the narrow from the wide weights: `distillation/gap_l`.

        |K^T K - W^T W|_F / |W^T W|_F

    It is 0 if both have the same Gram matrix, and 1 if K = 0.

    Args:
        narrow: K_l.
        wide: W_l.
    """
    gram = wide.T @ wide
    return ratio((narrow.T @ narrow - gram).norm(), gram.norm())


@dataclass
class DistilledSample:
    """Fixed points, the levels and S_1..S_L of the target on them, and Var G."""

    inputs: Float[Tensor, "n d"]
    levels: Float[Tensor, "n one_plus_levels"]
    preactivations: list[Float[Tensor, "n _k"]]
    variance: Float[Tensor, ""]


@dataclass
class DistilledSnapshot:
    """A learner with distillation in float64, with F(x) and S_2, ... on a fixed sample."""

    network: DistilledNet
    sample: DistilledSample
    prediction: Float[Tensor, " n"]
    features: list[Float[Tensor, "n _k"]]


def take_distilled_sample(
    inputs: Float[Tensor, "n d"], target: Target, labels: Labels, untrained: DistilledNet
) -> DistilledSample:
    """Evaluates the target; see `battery.take_sample`. The untrained learner is not used."""
    assert isinstance(target, LayeredTarget)
    levels = labels.level_signals(target, inputs)
    return DistilledSample(inputs, levels, target.preactivations(inputs), target.variance)


@torch.no_grad()
def take_distilled_snapshot(network: DistilledNet, sample: DistilledSample) -> DistilledSnapshot:
    """Evaluates the learner in float64; see `battery.take_snapshot`."""
    exact = copy.deepcopy(network).to(sample.inputs).requires_grad_(False)
    prediction = exact.evaluate(sample.inputs)
    return DistilledSnapshot(exact, sample, prediction, exact.features(sample.inputs))


def distilled_measures(snapshot: DistilledSnapshot) -> dict[str, float]:
    """`levels/*`, `features/procrustes_l`, `procrustes_raw_l`, `distillation/gap_l` and `rank_l`.

    The rank is the number of rows of K_l that were found, 0 before K_l has started.
    """
    sample, wanted = snapshot.sample, snapshot.sample.preactivations
    named = output_errors(snapshot.prediction, sample.levels, sample.variance)
    layers = dict(snapshot.network.each_layer())
    for level, learned in enumerate(snapshot.features, start=2):
        raw = procrustes(wanted[level - 1], learned)
        energy = wanted[level - 1].square().sum(dim=1).mean()
        narrow, wide = layers[level].narrow, layers[level].wide
        named[f"features/procrustes_raw_{level}"] = float(raw)
        named[f"features/procrustes_{level}"] = float(raw / energy)
        named[f"distillation/gap_{level}"] = float(gram_gap(narrow, wide))
        named[f"distillation/rank_{level}"] = float((narrow != 0).any(dim=1).sum())
    return named


DISTILLED = Battery(
    take_distilled_sample,
    take_distilled_snapshot,
    lambda sample: named_shares(sample.levels[:, 1:]),
    (distilled_measures,),
)
